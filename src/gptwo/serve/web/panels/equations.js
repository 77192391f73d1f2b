// The equations: the forward pass from top to bottom, each step with its formula, shape, tensor, and one entry in numbers.

import { h } from "../dom.js";
import { Around } from "../equations/around.js";
import { Step } from "../equations/step.js";
import { PARTS, STEPS } from "../equations/steps.js";
import { number, t } from "../i18n.js";

export const id = "equations";
export const keeps = true;

const AHEAD = "300px";
// The step that one reads: what crosses a line in the upper part of the window.
const READ = "-25% 0px -74% 0px";

let view = null;

export async function show(root, app) {
  if (view?.root !== root || view.language !== app.language) {
    view?.close();
    view = new View(root, app);
  }
  await view.update(app);
}

/** Asks for all that the panel can show of this prompt, for a saved page. */
export async function gather(app) {
  const around = new Around(app);
  await Promise.all(STEPS.flatMap(({ pictures }) => pictures).map((picture) => Promise.all([around.matrix(picture), around.worked(picture)])));
}

class View {
  #work = new AbortController();
  #near = new Set();
  #steps;
  #choosers;
  #around;

  constructor(root, app) {
    this.root = root;
    this.language = app.language;
    this.app = app;
    this.#around = new Around(app);
    this.#steps = STEPS.map((definition) => new Step(definition, this, this.#work.signal));
    this.#choosers = ["layer", "head"].map((name) => this.#chooser(name));
    const map = h("nav", { class: "map", "aria-label": t("equations.map") }, ...PARTS.map((part) => h("div", {},
      h("h3", { class: "part-name", "data-part": part }),
      ...this.#of(part).map((step) => h("button", { type: "button", class: "stop", "data-step": step.definition.id, on: { click: () => step.reveal() } }, h("span", { text: step.title }))))));
    const passes = PARTS.map((part) => h("section", { class: "pass" }, h("h2", { class: "part-name", "data-part": part }), ...this.#of(part).map((step) => step.node)));
    root.replaceChildren(
      h("p", { class: "lede", text: t("equations.lede") }),
      h("div", { class: "equations" },
        h("div", { class: "side" }, h("div", { class: "choosers" }, ...this.#choosers.map(({ label }) => label)), map),
        h("div", { class: "stack" }, ...passes)));
    const observer = new IntersectionObserver((seen) => this.#seen(seen), { rootMargin: AHEAD });
    const reading = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) =>
      map.querySelector(`[data-step=${target.id.slice(5)}]`).setAttribute("aria-current", isIntersecting ? "step" : "false")), { rootMargin: READ });
    for (const step of this.#steps) for (const each of [observer, reading]) each.observe(step.node);
    this.#work.signal.addEventListener("abort", () => [observer, reading].forEach((each) => each.disconnect()));
  }

  close() {
    this.#work.abort();
  }

  get around() {
    return this.#around;
  }

  /** Shows the prompt as it is now; comes back when what is in sight has been drawn. */
  async update(app) {
    this.app = app;
    app.on("change", (patch) => {
      if ("position" in patch && !("entry" in patch)) app.state.entry = { ...app.state.entry, s: null, v: null };
      if (["position", "entry", "layer", "head"].some((key) => key in patch)) this.#redraw();
    });
    await this.#redraw();
  }

  /** An entry was chosen: `values` by the letters of its indices. */
  choose(values) {
    const { state } = this.app;
    const { K } = this.#around.sizes;
    const { t: position = state.position, c, ...rest } = values;
    const entry = { ...state.entry, ...rest };
    if (c !== undefined) entry.j = c % K;
    if (position !== state.position && !("s" in values)) entry.s = null;
    if (position !== state.position && !("v" in values)) entry.v = null;
    this.app.set({ entry, ...(position !== state.position && { position }), ...(c !== undefined && { head: Math.floor(c / K) }) });
  }

  async #redraw() {
    this.#around = new Around(this.app);
    const { layer, head, layers } = this.#around;
    for (const { select, name } of this.#choosers) select.value = { layer, head }[name];
    for (const node of this.root.querySelectorAll(".part-name")) node.textContent = t(`equations.part_${node.dataset.part}`, { layer: number(layer), layers: number(layers) });
    let place = 0;
    for (const step of this.#steps) {
      step.node.hidden = step.definition.after !== undefined && layer <= step.definition.after;
      if (!step.node.hidden) place += 1;
      step.prepare(place);
    }
    this.root.querySelector("[data-step=input]").hidden = layer === 0;
    const inSight = this.#steps.filter((step) => step.inSight);
    const rest = [...this.#near].filter((step) => !inSight.includes(step));
    await Promise.all(inSight.map((step) => step.draw()));
    for (const step of rest) step.draw();
  }

  #seen(seen) {
    for (const { target, isIntersecting } of seen) {
      const step = this.#steps.find(({ node }) => node === target);
      this.#near[isIntersecting ? "add" : "delete"](step);
      if (isIntersecting) step.draw();
    }
  }

  #of(part) {
    return this.#steps.filter(({ definition }) => definition.part === part);
  }

  #chooser(name) {
    const count = name === "layer" ? this.#around.layers : this.#around.heads;
    const select = h("select", { "data-choose": name, on: { change: () => this.app.set({ [name]: Number(select.value) }) } },
      ...Array.from({ length: count }, (_, i) => h("option", { value: i, text: number(i) })));
    return { name, select, label: h("label", {}, h("span", { text: t(`equations.${name}`) }), select) };
  }
}
