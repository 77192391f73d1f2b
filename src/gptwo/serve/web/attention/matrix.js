// One head, tokens × tokens: the part that is seen, drawn when it moves; one pair in it is chosen, with the pointer or keys.

import { h } from "../dom.js";
import { fixed, number, t } from "../i18n.js";
import { gradientOf, onRecolour } from "../palette.js";
import { plain } from "../tokens.js";
import { drawMatrix } from "./drawing.js";
import { inkOf, READABLE } from "./weights.js";

const CELLS = [0.5, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, READABLE, 36, 44];
const LARGEST_FIT = 36;
const HIGHEST = 620;
const LEAP = 10;
const TICKS = [0, 0.05, 0.2, 0.5, 1];
// Pixels of the tokens beside the matrix, and of a character of theirs.
const LABELS = [64, 100];
const CHARACTER = 6.7;

export class Matrix {
  #app;
  #canvas = h("canvas", { "aria-hidden": "true" });
  #sheet = h("div", { class: "sheet" }, this.#canvas);
  #window;
  #said = h("output", { class: "said" });
  #note = h("p", { class: "muted note", hidden: true });
  #weights = null;
  #tokens;
  #choose;
  #pair = [0, 0];
  #weight = null;
  #hover = null;
  #cell = 1;
  #fits = true;
  #labels;
  #frame = 0;

  /** `choose(query, key)`. */
  constructor({ app, tokens, choose }) {
    this.#app = app;
    this.#tokens = tokens.map((token) => plain(token, 12));
    this.#choose = choose;
    this.#labels = Math.round(Math.max(LABELS[0], Math.min(LABELS[1], 16 + CHARACTER * Math.max(...this.#tokens.map((token) => [...token].length)))));
    this.#window = h("div", { class: "matrix-window", role: "application", tabindex: 0, "aria-roledescription": t("attention.role"), on: {
      scroll: () => this.#redraw(),
      keydown: (event) => this.#key(event),
      pointermove: (event) => this.#point(this.#under(event)),
      pointerleave: () => this.#point(null),
      click: (event) => {
        const at = this.#under(event);
        if (at && at[1] <= at[0]) this.#choose(...at);
      },
    } }, this.#sheet);
    const button = (key, text, fn) => h("button", { type: "button", text, "aria-label": t(`attention.${key}`), title: t(`attention.${key}`), on: { click: fn } });
    this.controls = h("div", { class: "segments", role: "group", "aria-label": t("attention.zoom") },
      button("zoom_out", "−", () => this.#zoom(-1)), button("zoom_in", "+", () => this.#zoom(1)), button("zoom_fit", t("attention.fit"), () => this.#zoom(0)));
    const scale = h("span", { class: "root-scale" },
      h("span", { text: t("attention.scale") }),
      h("span", { class: "ticks" }, h("i", { style: { background: gradientOf("sequential") } }),
        ...TICKS.map((weight) => h("span", { style: { "--at": inkOf(weight) }, text: number(weight, weight < 0.1 ? 2 : 1) }))));
    this.node = h("div", { class: "matrix", "data-labels": this.#labels }, this.#said, this.#window, this.#note, scale);
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(this.#window);
    app.signal.addEventListener("abort", () => {
      observer.disconnect();
      cancelAnimationFrame(this.#frame);
    });
    onRecolour(() => {
      this.#weights.recolour();
      scale.querySelector("i").style.background = gradientOf("sequential");
      this.#redraw();
    }, app.signal);
  }

  get canvas() {
    return this.#canvas;
  }

  /** Shows other weights of the same tokens. */
  open(weights, label) {
    this.#weights?.close();
    this.#weights = weights;
    this.#weight = null;
    this.#window.setAttribute("aria-label", label);
    this.#resize();
  }

  /** There is more to see. */
  changed() {
    this.#redraw();
  }

  /** Draws now, and waits for what is on its way. */
  get settled() {
    this.#draw();
    return this.#weights.settled.then(() => !this.#app.signal.aborted && this.#draw());
  }

  /** Marks the pair that is chosen; its weight may be known from elsewhere. */
  mark(query, key, weight = null) {
    this.#pair = [query, key];
    this.#weight = weight;
    this.#reveal();
    this.#redraw();
  }

  // --- Sizes ---

  #resize() {
    const { clientWidth } = this.#window;
    if (clientWidth === 0 || this.#weights === null) return;
    const room = Math.min(clientWidth, HIGHEST) - this.#labels;
    const fit = room / this.#weights.count;
    if (this.#fits) this.#cell = Math.min(LARGEST_FIT, fit > 4 ? Math.floor(fit) : fit);
    const side = this.#labels + Math.ceil(this.#cell * this.#weights.count);
    this.#sheet.style.width = this.#sheet.style.height = `${side}px`;
    this.#window.style.height = `${Math.min(side, HIGHEST) + this.#window.offsetHeight - this.#window.clientHeight}px`;
    this.#redraw();
  }

  /** A step in (1) or out (-1), about the middle of what is seen; 0: the whole. */
  #zoom(step) {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.#window;
    const before = this.#cell;
    const middle = [(scrollLeft + (clientWidth - this.#labels) / 2) / before, (scrollTop + (clientHeight - this.#labels) / 2) / before];
    const next = step > 0 ? CELLS.find((cell) => cell > before * 1.01) : CELLS.findLast((cell) => cell < before * 0.99);
    const fit = (Math.min(clientWidth, HIGHEST) - this.#labels) / this.#weights.count;
    this.#fits = step === 0 || (step < 0 && (next ?? 0) <= fit);
    if (!this.#fits) this.#cell = next ?? before;
    this.#resize();
    const [x, y] = step > 0 && this.#isSeen(before, [scrollLeft, scrollTop]) ? [this.#pair[1] + 0.5, this.#pair[0] + 0.5] : middle;
    this.#window.scrollTo(x * this.#cell - (this.#window.clientWidth - this.#labels) / 2, y * this.#cell - (this.#window.clientHeight - this.#labels) / 2);
    this.#redraw();
  }

  /** Whether the chosen pair was in the window: then it is what one zooms to. */
  #isSeen(cell, [left, top]) {
    const [x, y] = [this.#pair[1] * cell - left, this.#pair[0] * cell - top];
    return x >= 0 && y >= 0 && x < this.#window.clientWidth - this.#labels && y < this.#window.clientHeight - this.#labels;
  }

  #reveal() {
    const { clientWidth, clientHeight } = this.#window;
    const near = (at, from, room) => Math.max(Math.min(from, at * this.#cell), (at + 1) * this.#cell - room);
    this.#window.scrollLeft = near(this.#pair[1], this.#window.scrollLeft, clientWidth - this.#labels);
    this.#window.scrollTop = near(this.#pair[0], this.#window.scrollTop, clientHeight - this.#labels);
  }

  // --- Pointer and keys ---

  #under(event) {
    const box = this.#window.getBoundingClientRect();
    const place = (at, scroll) => Math.floor((at - this.#labels + scroll) / this.#cell);
    const [x, y] = [event.clientX - box.left - this.#window.clientLeft, event.clientY - box.top - this.#window.clientTop];
    const at = [place(y, this.#window.scrollTop), place(x, this.#window.scrollLeft)];
    return x >= this.#labels && y >= this.#labels && at.every((i) => i < this.#weights.count) ? at : null;
  }

  #point(at) {
    if (String(at) === String(this.#hover)) return;
    this.#hover = at;
    this.#redraw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [query, key] = this.#pair;
    const step = event.shiftKey ? LEAP : 1;
    const to = {
      ArrowUp: [query - step, key], ArrowDown: [query + step, key], ArrowLeft: [query, key - step], ArrowRight: [query, key + step],
      Home: [query, 0], End: [query, query], PageUp: [query - LEAP, key], PageDown: [query + LEAP, key],
    }[event.key];
    const zoom = { "+": 1, "=": 1, "-": -1, 0: 0 }[event.key];
    if (to === undefined && zoom === undefined) return;
    event.preventDefault();
    if (zoom !== undefined) return void this.#zoom(zoom);
    const last = this.#weights.count - 1;
    const row = Math.max(0, Math.min(last, to[0]));
    this.#hover = null;
    this.#choose(row, Math.max(0, Math.min(row, to[1])));
  }

  #say() {
    const [query, key] = this.#hover ?? this.#pair;
    const names = { query: `${query + 1} ${this.#tokens[query]}`, key: `${key + 1} ${this.#tokens[key]}` };
    if (key > query) return t("attention.hidden", names);
    if (!this.#hover && this.#weight !== null) return t("attention.weight", { ...names, value: fixed(this.#weight, 4) });
    const { value, isExact, rows, columns } = this.#weights.at(query, key);
    const isField = rows[1] - rows[0] > 1 || columns[1] - columns[0] > 1;
    if (isField) return t("attention.field", { ...names, value: fixed(value, 3), queries: span(rows), keys: span(columns) });
    return t(isExact ? "attention.weight" : "attention.weight_about", { ...names, value: fixed(value, isExact ? 4 : 2) });
  }

  // --- Drawing ---

  #redraw() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { clientWidth: width, clientHeight: height, scrollLeft: left, scrollTop: top } = this.#window;
    if (width === 0 || this.#weights === null) return;
    const said = this.#say();
    if (this.#said.textContent !== said) this.#said.textContent = said;
    this.#note.hidden = this.#weights.problem === null;
    this.#note.textContent = this.#weights.problem === null ? "" : this.#weights.problem.code === "saved" ? t("attention.saved") : this.#weights.problem.message;
    drawMatrix({
      canvas: this.#canvas, weights: this.#weights, tokens: this.#tokens, pair: this.#pair, hover: this.#hover,
      left, top, width, height, cell: this.#cell, labels: this.#labels,
    });
    this.#window.setAttribute("aria-busy", String(this.#weights.isBusy));
  }
}

/** "12", or "12–15", counted from 1. */
function span([first, end]) {
  return end - first === 1 ? number(end) : `${number(first + 1)}–${number(end)}`;
}
