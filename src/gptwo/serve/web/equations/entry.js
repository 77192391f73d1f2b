// One entry of a tensor in numbers: which are multiplied and added, and what comes out.

import { h } from "../dom.js";
import { lines } from "../formula.js";
import { figures, number, t } from "../i18n.js";
import { visible } from "../tokens.js";

/** What a sum's index is called, by the axis it runs over; over the columns of Concat it is c. */
const INDEX = { D: "d", K: "j", T: "s", F: "f" };

/** Nodes for a reply to GET …/worked. `picture` is its place in steps.js; `tokens` those of the prompt. */
export function entryNodes(picture, worked, { tokens, logSumExp }) {
  const nodes = [h("div", { class: "set" }, lines(picture.entry))];
  if (picture.derive === "mask") return [...nodes, result(`${factor(worked.value)} + 0`, worked.value)];
  if (picture.derive === "softmax") {
    const p = Math.exp(worked.value - logSumExp);
    return [...nodes, result(`\\frac{e^{${num(worked.value)}}}{e^{${num(logSumExp)}}}`, p)];
  }
  if (worked.kind === "dot") nodes.push(terms(picture, worked, tokens));
  nodes.push(result(inNumbers(worked), worked.result));
  nodes.push(h("p", { class: "muted note", text: t("equations.held", { value: figures(worked.value) }) }));
  return nodes;
}

/** What a token does not see. */
export function maskedNodes(picture) {
  const zero = picture.name === "attention";
  return [
    h("div", { class: "set" }, lines(picture.entry)),
    h("div", { class: "set result" }, lines(zero ? "= \\frac{e^{-∞}}{…} = {0}" : "= S_{t,s} + (-∞) = {-∞}")),
    h("p", { class: "note", text: t("equations.unseen") }),
  ];
}

function result(source, value) {
  return h("div", { class: "set result", "data-result": value }, lines(`${source === "" ? "" : `= ${source} `}= ${num(value)}`));
}

function inNumbers({ kind, parts, terms: shown, rest }) {
  if (kind === "dot") {
    const sum = shown.reduce((total, { product }) => total + product, rest);
    if (parts.divisor) return `\\frac{${num(sum)}}{${num(parts.divisor)}}`;
    return parts.bias === undefined ? "" : `${num(sum)} + ${factor(parts.bias)}`;
  }
  if (kind === "sum") return Object.entries(parts).map(([, value]) => factor(value)).join(" + ");
  if (kind === "norm") {
    const { x, mean, variance, epsilon, gamma, beta } = parts;
    return `${factor(gamma)} · \\frac{${num(x)} - ${factor(mean)}}{\\sqrt{${num(variance)} + ${num(epsilon)}}} + ¦${factor(beta)}`;
  }
  if (kind === "softmax") return `\\frac{e^{${num(parts.score)} - ${factor(parts.max)}}}{${num(parts.sum)}}`;
  if (kind === "gelu") return `\\frac{1}{2} · ${factor(parts.z)} (1 + ¦\\fn{tanh}(\\sqrt{2/π} (${num(parts.z)} + ¦0.044715 · ${factor(parts.z)}^3)))`;
  throw new Error(`an entry of the kind ${kind} is not known here`);
}

/** The products of largest magnitude, in their order, and the sum of the others. */
function terms(picture, worked, tokens) {
  const { axis, count, terms: shown, rest } = worked;
  const letter = picture.name === "attention_output" ? "c" : INDEX[axis];
  const largest = Math.max(...shown.map(({ product }) => Math.abs(product))) || 1;
  const tint = (value) => ({ "data-sign": value < 0 ? "minus" : "plus", style: { "--s": Math.min(1, Math.abs(value) / largest).toFixed(3) } });
  const items = shown.map(({ label, a, b, product }) => h("li", { class: "term", ...tint(product) },
    h("small", {}, h("i", { text: letter }), ` = ${number(label)}`, axis === "T" && [" ", h("span", { class: "word" }, ...visible(tokens[label], { most: 10 }))]),
    h("span", { text: `${figures(a)} × ${b < 0 ? `(${figures(b)})` : figures(b)}` }),
    h("b", { text: figures(product) })));
  const others = count - shown.length;
  if (others > 0) items.push(h("li", { class: "term rest", ...tint(rest) }, h("small", { text: t("equations.others") }), h("span", { text: t("equations.products", { n: number(others) }) }), h("b", { text: figures(rest) })));
  return h("div", {},
    h("p", { class: "muted note", text: t(others > 0 ? "equations.sum_largest" : "equations.sum_all", { n: number(count), shown: number(shown.length) }) }),
    h("ol", { class: "terms" }, ...items));
}

function num(value) {
  return `{${figures(value).replace(/e(.+)/, " · 10^{$1}")}}`;
}

/** A number that stands behind a sign. */
function factor(value) {
  return value < 0 ? `(${num(value)})` : num(value);
}
