// A query and a key: how q, k and v of a head make the weight between them.

import { h, roving } from "../dom.js";
import { fixed, number, percent, t } from "../i18n.js";
import { Picture } from "../pictures.js";
import { visible } from "../tokens.js";

const SHOWN = 8;
const VECTORS = ["q", "k", "qk", "v"];

export class Pair {
  #app;
  #choose;
  #work = new AbortController();
  #title = h("h2");
  #looks = h("div", { class: "looks" });
  #pictures;
  #sum = h("div", { class: "pair-sum" });
  #problem = h("p", { class: "problem", role: "alert" });
  #at = 0;

  /** `choose(query, key)`. */
  constructor({ app, choose }) {
    this.#app = app;
    this.#choose = choose;
    const mark = (row, column) => this.#mark(column);
    this.#pictures = Object.fromEntries(VECTORS.map((name) => [name, new Picture({
      choose: mark, signal: app.signal, describe: (row, column, value) => t("attention.entry", { name: nameOf(name), at: column, value: fixed(value, 4) }),
    })]));
    const rows = VECTORS.map((name) => h("div", { class: "vector" }, h("span", { class: "vector-name" }, ...math(name), h("small", { text: t(`attention.${name}`) })), this.#pictures[name].node));
    this.node = h("div", { class: "card pair" }, this.#title,
      h("div", { class: "pair-parts" }, this.#looks, h("div", { class: "stack vectors" }, ...rows, this.#sum)));
  }

  /** Has `save`, which is `app.picture`, put its buttons under each vector. */
  saved(save) {
    for (const [name, picture] of Object.entries(this.#pictures)) picture.saved(save, name);
  }

  /** Shows what is between them; `key` null: the key that the query looks at most. Returns {key, weight}, or null where
   * that could not be had. */
  async show({ layer, head, query, key }) {
    this.#work.abort();
    this.#work = new AbortController();
    const signal = AbortSignal.any([this.#work.signal, this.#app.signal]);
    const { explanation } = this.#app.state;
    const { api } = this.#app;
    const path = (part, at) => `/explain/prompt/${explanation.id}/${part}&head=${head}${at}`;
    const vector = (name, at) => api.array(path(`tensor?name=blocks.${layer}.${name}`, `&rows=${at}:${at + 1}`), { signal });
    const worked = (name, at) => api.json(path(`worked?name=blocks.${layer}.${name}`, `&row=${query}&column=${at}`), undefined, { signal });
    this.node.classList.add("working");
    try {
      const { data } = await api.array(`/explain/prompt/${explanation.id}/attention/${layer}/${head}?rows=${query}:${query + 1}&format=float32`, { signal });
      const at = key ?? data.indexOf(Math.max(...data));
      this.#name(query, at);
      const [q, k, v, score, weight] = await Promise.all([vector("q", query), vector("k", at), vector("v", at), worked("scores", at), worked("attention", at)]);
      this.#problem.remove();
      this.#show({ q: q.data, k: k.data, v: v.data, qk: q.data.map((value, i) => value * k.data[i]) });
      this.#count(score, weight);
      this.#list(data, { query, key: at });
      this.node.classList.remove("working");
      return { key: at, weight: data[at] };
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (error.status === undefined) throw error;
      this.#title.after(this.#problem);
      this.node.classList.remove("working");
      this.#problem.textContent = error.code === "saved" ? t("share.not_saved") : error.message;
      return null;
    }
  }

  #name(query, key) {
    const { tokens } = this.#app.state.explanation;
    const place = (name, at) => [h("span", { class: "muted", text: `${t(`attention.${name}`)} ${number(at + 1)} ` }), h("b", { class: "word" }, ...visible(tokens[at]))];
    this.#title.replaceChildren(...place("query", query), " → ", ...place("key", key));
  }

  #show(vectors) {
    for (const name of VECTORS) {
      this.#pictures[name].draw({ values: vectors[name], shape: [1, vectors[name].length], name: nameOf(name) });
    }
    this.#mark(Math.min(this.#at, vectors.q.length - 1));
  }

  #mark(at) {
    this.#at = at;
    for (const name of VECTORS) this.#pictures[name].mark(0, at);
  }

  /** The numbers from the dot product to the weight. */
  #count(score, weight) {
    const { divisor } = score.parts;
    const K = score.count;
    const step = (label, ...parts) => h("div", { class: "sum-step" }, h("span", { class: "muted", text: label }), h("span", { class: "math" }, ...parts));
    const number4 = (x, name) => h("b", { "data-number": name, text: fixed(x, 4) });
    this.#sum.replaceChildren(
      step(t("attention.dot"), ...math("qk"), " = Σ", h("sub", { text: String(K) }), " = ", number4(score.result * divisor, "dot")),
      step(t("attention.score"), fixed(score.result * divisor, 4), ` ÷ √${K} = `, number4(score.result, "score")),
      step(t("attention.softmax"), "exp(", fixed(weight.parts.score, 4), " − ", h("span", { title: t("attention.max"), text: fixed(weight.parts.max, 4) }), ") ÷ ", h("span", { title: t("attention.total"), text: fixed(weight.parts.sum, 4) }), " = ", number4(weight.result, "weight")),
      h("p", { class: "muted note", text: t("attention.then", { weight: fixed(weight.result, 4) }) }));
  }

  /** The keys that the query looks at most. */
  #list(weights, { query, key }) {
    const { tokens } = this.#app.state.explanation;
    const order = Array.from(weights.subarray(0, query + 1), (weight, at) => ({ weight, at })).sort((a, b) => b.weight - a.weight);
    const rows = order.slice(0, SHOWN).map(({ weight, at }) => h("tr", { class: at === key ? "current" : "" },
      h("td", { class: "n muted", text: number(at + 1) }),
      h("th", { scope: "row" }, h("button", { type: "button", class: "take", tabindex: -1, "aria-pressed": String(at === key), on: { click: () => this.#choose(query, at) } }, ...visible(tokens[at], { most: 16 }))),
      h("td", { class: "n bar", style: { "--w": `${(100 * weight / order[0].weight).toFixed(1)}%` }, text: percent(weight) })));
    const body = h("tbody", {}, ...rows);
    const buttons = [...body.querySelectorAll("button")];
    (buttons.find((button) => button.getAttribute("aria-pressed") === "true") ?? buttons[0]).tabIndex = 0;
    roving(body, () => buttons, { across: 1 });
    const focused = this.#looks.contains(document.activeElement);
    this.#looks.replaceChildren(h("h3", { text: t("attention.looks") }), h("table", {}, body));
    if (focused) buttons.find((button) => button.tabIndex === 0).focus();
  }
}

/** How a vector is called, for ears. */
function nameOf(name) {
  return name === "qk" ? "q·k" : name;
}

function math(name) {
  const letter = (text, index) => [h("i", { text }), h("sub", { text: index })];
  return { q: letter("q", "i"), k: letter("k", "j"), v: letter("v", "j"), qk: [...letter("q", "i"), " · ", ...letter("k", "j")] }[name];
}
