// Layers: what the model would say after each block, what each part adds to a logit, and how long the vectors are.

import { lineChart } from "../chart.js";
import { h, roving, s } from "../dom.js";
import { fixed, number, percent, scientific, signed, t } from "../i18n.js";
import { layerName, lensGrid, markPosition } from "../lens.js";
import { plain, visible } from "../tokens.js";

export const id = "layers";
export const keeps = true;

const CANDIDATES = 20;
const STRONGEST = 10;
const CELL = [10, 24];
const ROW = 20;
const LEFT = 72;
const VALUE = 46;
const BARS = [36, 220];
const GAP = 6;
/** Of a card, both sides. */
const PADDING = 42;
const LABEL_EVERY = 16;

/** Whose logit is taken apart: {at: explanation and position, token: its entry}; else it is the most probable one. */
let wanted = { at: null, token: null };

export async function show(root, app) {
  const { explanation, position } = app.state;
  const path = `/explain/prompt/${explanation.id}`;
  const ask = (rest) => app.api.json(`${path}/${rest}`, undefined, app);
  const parts = h("div", { class: "card parts" });
  const lengths = h("div", { class: "card" });
  const choose = (layer, at, entry) => {
    wanted = { at: placeOf(app, at), token: entry };
    app.set({ position: at });
  };
  const refresh = async () => {
    const [norms] = await Promise.all([ask("norms"), takeApart(parts, root, app, ask)]);
    chart(lengths, norms, app);
  };
  const [{ scroller, rest }] = await Promise.all([
    lensGrid({
      explanation, layers: app.model.config.n_layer, position, choose, signal: app.signal,
      read: (begin, end) => ask(`lens?positions=${begin}:${end}`),
      made: (svg) => app.picture(svg, "logit-lens"),
    }),
    refresh(),
  ]);
  root.replaceChildren(
    h("p", { class: "lede", text: t("layers.lede") }),
    h("div", { class: "stack" },
      h("div", { class: "card" },
        h("h2", { text: t("layers.lens") }),
        h("p", { class: "muted note", text: t("layers.lens_what") }),
        scroller,
        h("p", { class: "legend muted" },
          h("span", { class: "scale" }, "0", h("i", { class: "by-p", "aria-hidden": "true" }), t("layers.scale")),
          h("span", { class: "key-right", text: t("layers.right") }))),
      parts, lengths));
  markPosition(scroller, position);
  app.on("change", (patch) => {
    if (!("position" in patch)) return undefined;
    markPosition(scroller, app.state.position);
    return refresh();
  });
  await rest();
}

function placeOf(app, position) {
  return `${app.state.explanation.id} ${position}`;
}

// --- What each part adds to a logit ---

async function takeApart(card, root, app, ask) {
  const { explanation, position } = app.state;
  const here = placeOf(app, position);
  const token = wanted.at === here ? wanted.token : explanation.top[position][0];
  const [{ top }, found] = await Promise.all([ask(`next?position=${position}&k=${CANDIDATES}`), ask(`contributions?position=${position}&token=${token.id}`)]);
  if (app.state.position !== position || app.signal.aborted) return;
  const options = top.some((entry) => entry.id === token.id) ? top : [token, ...top];
  const following = explanation.tokens[position + 1];
  if (following && !options.some((entry) => entry.id === following.id)) options.push(following);
  const select = h("select", {
    on: {
      change: () => {
        wanted = { at: here, token: options.find((entry) => entry.id === Number(select.value)) };
        takeApart(card, root, app, ask);
      },
    },
  }, ...options.map((entry) => h("option", { value: entry.id, selected: entry.id === token.id, text: plain(entry) + (entry.logit === undefined ? "" : `  ${percent(entry.p)}`) })));
  const focused = card.contains(document.activeElement) && document.activeElement.tagName === "SELECT";
  const said = h("p", { class: "muted spoken", role: "status", text: t("layers.parts_cell") });
  const svg = contributionsPicture(found, (card.clientWidth || root.clientWidth) - PADDING, {
    look: (text) => (said.textContent = text),
    take: (layer, head) => app.set({ layer, head }),
    isChosen: (layer, head) => app.state.layer === layer && app.state.head === head,
  });
  card.replaceChildren(
    h("h2", {}, t("layers.parts"), " ", h("b", { class: "word" }, ...visible(token))),
    h("p", { class: "muted note", text: t("layers.parts_what") }),
    h("div", { class: "row" }, h("label", { class: "row" }, h("span", { text: t("layers.parts_of") }), select)),
    sum(found),
    h("div", { class: "heat" }, h("div", {}, svg, said), strongest(found)));
  app.picture(svg, "contributions");
  if (focused) select.focus();
}

function sumOf(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

/** The terms, their sum, and the logit that it must be. */
function sum({ token, position, heads, mlps, biases, total, logit }) {
  const terms = { token, position, heads: sumOf(heads.flat()), mlps: sumOf(mlps), biases };
  return h("p", { class: "row facts sum" },
    ...Object.entries(terms).map(([name, value]) => h("span", { class: "fact", "data-term": name }, h("span", { class: "muted", text: t(`layers.of_${name}`) }), ` ${signed(value, 3)}`)),
    h("b", { class: "fact", "data-term": "total", text: `= ${fixed(total, 3)}` }),
    h("span", { class: "muted fact", text: t("layers.logit_is", { logit: fixed(logit, 3), difference: scientific(Math.abs(total - logit)) }) }));
}

/** A row for each layer: its heads and its MLP as squares, and a bar of what they add together. */
function contributionsPicture({ token, position, heads, mlps, biases, total }, room, { look, take, isChosen }) {
  const [L, H] = [heads.length, heads[0].length];
  const cell = Math.max(CELL[0], Math.min(CELL[1], Math.floor((room - LEFT - VALUE - BARS[0] - 3 * GAP) / (H + 1))));
  const squaresEnd = LEFT + (H + 1) * cell + 2 * GAP;
  const bars = Math.max(BARS[0], Math.min(BARS[1], room - squaresEnd - VALUE - GAP));
  const whole = squaresEnd + bars + GAP + VALUE;
  const rows = [
    { name: t("layers.of_token"), value: token }, { name: t("layers.of_position"), value: position },
    ...heads.map((row, layer) => ({ name: String(layer), layer, value: sumOf(row) + mlps[layer] })),
    { name: t("layers.of_biases"), value: biases },
  ];
  const largestSquare = Math.max(...heads.flat().map(Math.abs), ...mlps.map(Math.abs)) || 1;
  const largestBar = Math.max(...rows.map(({ value }) => Math.abs(value))) || 1;
  const top = 22;
  const every = Math.ceil(LABEL_EVERY / cell);
  const zero = squaresEnd + bars / 2;
  const label = (text, x, y, anchor, more = "") => s("text", { x, y, class: `tick ${more}`, "text-anchor": anchor, "dominant-baseline": "central", text });
  const tone = (value) => (value > 0 ? "warm" : "cool");
  const squares = [];
  const square = (layer, part, value) => {
    const name = t(part === "mlp" ? "layers.mlp_at" : "layers.head_at", { layer, head: part, value: signed(value, 3) });
    const x = LEFT + (part === "mlp" ? H * cell + GAP : part * cell);
    const node = s("rect", {
      x, y: top + (layer + 2) * ROW, width: cell - 1, height: ROW - 1, class: tone(value), "fill-opacity": (Math.abs(value) / largestSquare).toFixed(3),
      role: "button", tabindex: squares.length ? -1 : 0, "aria-label": name, "data-place": `${layer}.${part}`, "aria-pressed": part === "mlp" ? null : String(isChosen(layer, part)),
      on: { focus: () => look(name), pointerenter: () => look(name) },
    }, s("title", { text: name }));
    squares.push(node);
    return node;
  };
  const each = rows.map(({ name, layer, value }, i) => {
    const y = top + i * ROW;
    const length = (Math.abs(value) / largestBar) * (bars / 2);
    return [
      label(name, LEFT - 8, y + ROW / 2, "end"),
      ...(layer === undefined ? [] : [...heads[layer].map((one, head) => square(layer, head, one)), square(layer, "mlp", mlps[layer])]),
      s("rect", { class: tone(value), x: value > 0 ? zero : zero - length, y: y + 4, width: length, height: ROW - 9 }),
      label(signed(value, 2), whole, y + ROW / 2, "end", "value"),
    ];
  });
  const end = top + rows.length * ROW;
  const svg = s("svg", { width: whole, height: end + 26, viewBox: `0 0 ${whole} ${end + 26}`, class: "plot signed", role: "group", "aria-label": t("layers.parts_picture") },
    ...Array.from({ length: Math.ceil(H / every) }, (_, i) => label(number(i * every), LEFT + (i * every + 0.5) * cell, 12, "middle")),
    label("MLP", LEFT + H * cell + GAP + cell / 2, 12, "middle"),
    label(t("layers.row_sum"), whole, 12, "end"),
    s("rect", { class: "ground", x: LEFT, y: top + 2 * ROW, width: H * cell - 1, height: L * ROW - 1 }),
    s("rect", { class: "ground", x: LEFT + H * cell + GAP, y: top + 2 * ROW, width: cell - 1, height: L * ROW - 1 }),
    s("line", { class: "rule", x1: zero, x2: zero, y1: top, y2: end }),
    ...each.flat(),
    s("line", { class: "rule", x1: squaresEnd, x2: whole, y1: end + 2, y2: end + 2 }),
    label(t("layers.total"), zero - 4, end + 14, "end"), label(fixed(total, 2), whole, end + 14, "end", "value total"));
  roving(svg, () => squares, { across: H + 1 });
  const chosen = ({ target }) => {
    const [layer, part] = target.dataset?.place?.split(".") ?? [];
    if (layer === undefined || part === "mlp") return;
    take(Number(layer), Number(part));
    for (const node of squares) if (node.hasAttribute("aria-pressed")) node.setAttribute("aria-pressed", String(node === target));
  };
  svg.addEventListener("click", chosen);
  svg.addEventListener("keydown", (event) => event.key === "Enter" && chosen(event));
  return svg;
}

/** The parts that add or take most. */
function strongest({ heads, mlps }) {
  const all = [
    ...heads.flatMap((row, layer) => row.map((value, head) => ({ layer, part: t("layers.head", { head }), value }))),
    ...mlps.map((value, layer) => ({ layer, part: "MLP", value })),
  ];
  all.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const column = (key, more) => h("th", { scope: "col", class: more, text: t(`layers.${key}`) });
  return h("table", { class: "strongest" },
    h("thead", {}, h("tr", {}, column("layer", "n"), column("part"), column("adds", "n"))),
    h("tbody", {}, ...all.slice(0, STRONGEST).map(({ layer, part, value }) => h("tr", {},
      h("td", { class: "n", text: number(layer) }), h("td", { text: part }), h("td", { class: `n ${value > 0 ? "up" : "down"}`, text: signed(value, 3) })))));
}

// --- How long the vectors are ---

function chart(card, norms, app) {
  const { position, explanation } = app.state;
  if (app.signal.aborted) return;
  const of = (name) => norms[name].map((row, layer) => [layer, row[position]]);
  const figure = lineChart({
    title: t("layers.norms"), unit: "", height: 220, digits: 2, signal: app.signal,
    series: [
      { name: "second", label: t("layers.residual"), points: of("residual"), dots: true },
      { name: "third", label: t("layers.attention"), points: of("attention"), dots: true },
      { name: "fourth", label: "MLP", points: of("mlp"), dots: true },
    ],
  });
  card.replaceChildren(figure, h("p", { class: "muted note", text: t("layers.norms_what", { token: plain(explanation.tokens[position], 16), last: number(norms.attention.length) }) }));
  app.picture(figure.querySelector("svg"), "norms");
}
