// A matrix as a picture: a canvas with a scale, and one entry of it that is chosen with the pointer or with keys.

import { h } from "./dom.js";
import { language, number, t } from "./i18n.js";
import { fullOf, gradientOf, onRecolour, pixelsOf } from "./palette.js";

/** Rows or columns that have names beside them, at most. */
export const MOST_LABELS = 40;
const TALLEST = 400;
const ROW = [1, 18];
// Cells narrower than a pixel are mixed with their neighbours, not left out.
const FINE = 300;
// A saved picture has at least so many pixels across.
const SAVED_WIDTH = 1024;
const LEAP = 10;

export class Picture {
  #canvas = h("canvas", { "aria-hidden": "true" });
  #box;
  #mark = h("i", { class: "entry-mark" });
  #band = h("i", { class: "row-band" });
  #names = { rows: h("div", { class: "row-names", "aria-hidden": "true" }), columns: h("div", { class: "column-names", "aria-hidden": "true" }) };
  #said = h("span", { class: "said" });
  #scale = h("span", { class: "palette" });
  #pooled = h("span", { class: "muted" });
  #palette;
  #choose;
  #describe;
  #matrix = null;
  #at = [0, 0];

  /** `palette`: "diverging" or "sequential". `choose(row, column)` is called with the entry that was chosen;
   * `describe(row, column, value)` says what it is, for eyes and for ears. `signal` ends it. */
  constructor({ palette = "diverging", choose = () => {}, describe = sayEntry, signal } = {}) {
    this.#palette = palette;
    this.#choose = choose;
    this.#describe = describe;
    this.#box = h("div", { class: "cells", role: "application", tabindex: 0, on: {
      pointermove: (event) => this.#say(...this.#under(event)),
      pointerleave: () => this.#say(...this.#at),
      click: (event) => this.#move(...this.#under(event)),
      keydown: (event) => this.#key(event),
      // Of many pictures whose mark moves at once, the one with the focus is heard.
      focus: () => this.#said.setAttribute("aria-live", "polite"),
      blur: () => this.#said.removeAttribute("aria-live"),
    } }, this.#canvas, this.#band, this.#mark);
    this.node = h("figure", { class: "picture" },
      h("div", { class: "framed" }, this.#names.columns, this.#names.rows, this.#box),
      h("figcaption", {}, this.#said, this.#scale, this.#pooled));
    onRecolour(() => this.#matrix && this.#paint(), signal);
  }

  /** Has `save`, which is `app.picture`, put its buttons under the picture. */
  saved(save, name) {
    save(this.#canvas, name, this.#pooled);
  }

  /** Draws `values`, row after row, of `shape` [rows, columns]. `name` is what it is called, for ears. `whole`: the shape
   * of the tensor, where these are means of its fields. `full`: the magnitude of the fullest colour, else found.
   * `names`: {rows: [node…], columns: [node…]}, shown where there is room. `cell`: the side of a square cell, where there is room; else cells fill the
   * width. `bands`: how many parts of the columns have lines between them. */
  draw({ values, shape, whole = shape, name, full = fullOf(values), names = {}, cell = Infinity, bands = 1 }) {
    const [rows, columns] = shape;
    this.#matrix = { values, rows, columns, whole, full };
    this.#box.setAttribute("aria-label", t("picture.label", { name, rows: number(whole[0]), columns: number(whole[1]) }));
    this.#box.setAttribute("aria-roledescription", t("picture.role"));
    const height = Math.max(ROW[0], Math.min(Number.isFinite(cell) ? cell : ROW[1], TALLEST / rows));
    this.node.style.setProperty("--height", `${Math.max(24, Math.round(rows * height))}px`);
    this.node.style.setProperty("--width", Number.isFinite(cell) ? `${Math.round(columns * Math.min(cell, TALLEST / rows))}px` : "100%");
    this.#canvas.classList.toggle("fine", columns > FINE);
    this.node.style.setProperty("--bands", bands);
    this.#box.classList.toggle("banded", bands > 1);
    this.#name("rows", names.rows, rows === whole[0] && rows <= MOST_LABELS);
    this.#name("columns", names.columns, columns === whole[1] && columns <= MOST_LABELS);
    this.#scale.lang = language;
    this.#pooled.hidden = rows === whole[0] && columns === whole[1];
    this.#pooled.textContent = t("picture.pooled", { fields: `${field(whole[0], rows)}×${field(whole[1], columns)}` });
    this.#paint();
    this.#place();
  }

  /** Marks the entry at this row and column of the whole tensor; a column of null is in none that is drawn. */
  mark(row, column) {
    this.#at = [row, column];
    if (this.#matrix) this.#place();
  }

  #paint() {
    const { values, rows, columns, full } = this.#matrix;
    const [across, down] = [Math.max(1, Math.round(SAVED_WIDTH / columns)), Math.max(1, Math.round(360 / rows))];
    const small = h("canvas", { width: columns, height: rows });
    small.getContext("2d").putImageData(new ImageData(pixelsOf(values, { palette: this.#palette, full }), columns, rows), 0, 0);
    Object.assign(this.#canvas, { width: columns * across, height: rows * down });
    const context = this.#canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, columns * across, rows * down);
    const ends = this.#palette === "diverging" ? [-full, full] : [0, full];
    this.#scale.replaceChildren(short(ends[0]), h("i", { style: { background: gradientOf(this.#palette) } }), short(ends[1]));
  }

  #name(which, names, room) {
    this.#names[which].hidden = !(names && room);
    this.#names[which].replaceChildren(...(names && room ? names : []).map((name) => h("span", {}, name)));
  }

  /** The mark on the cell that has the chosen entry. */
  #place() {
    const { rows, columns, whole } = this.#matrix;
    const [row, column] = this.#cellOf(...this.#at);
    const place = (node, values) => Object.entries(values).forEach(([key, value]) => node.style.setProperty(`--${key}`, `${(100 * value).toFixed(4)}%`));
    this.#mark.hidden = this.#at[1] === null;
    place(this.#mark, { top: row / rows, left: column / columns, height: 1 / rows, width: 1 / columns });
    place(this.#band, { top: row / rows, height: 1 / rows });
    for (const [which, at, count] of [["rows", row, whole[0]], ["columns", column, whole[1]]])
      [...this.#names[which].children].forEach((name, i) => name.classList.toggle("at", i === at && count > 1));
    this.#say(...this.#at);
  }

  #say(row, column) {
    if (column === null) return void (this.#said.textContent = "");
    const { values, rows, columns, whole } = this.#matrix;
    const [r, c] = this.#cellOf(row, column);
    const value = values[r * columns + c] / (values instanceof Uint8Array ? 255 : 1);
    const isMean = rows !== whole[0] || columns !== whole[1];
    this.#said.textContent = this.#describe(row, column, value, isMean);
    return undefined;
  }

  #under(event) {
    const { whole } = this.#matrix;
    const { left, top, width, height } = this.#box.getBoundingClientRect();
    const within = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    return [within((event.clientY - top) / height, whole[0]), within((event.clientX - left) / width, whole[1])];
  }

  #cellOf(row, column) {
    const { rows, columns, whole } = this.#matrix;
    return [Math.floor((row * rows) / whole[0]), Math.floor((column * columns) / whole[1])];
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [row, column] = this.#at;
    const step = event.shiftKey ? LEAP : 1;
    const to = {
      ArrowLeft: [row, column - step], ArrowRight: [row, column + step], ArrowUp: [row - step, column], ArrowDown: [row + step, column],
      Home: [row, 0], End: [row, Infinity],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.#move(...to);
  }

  #move(row, column) {
    const { whole } = this.#matrix;
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.mark(within(row, whole[0]), within(column, whole[1]));
    this.#choose(...this.#at);
  }
}

function sayEntry(row, column, value, isMean) {
  return t(isMean ? "picture.mean_at" : "picture.entry_at", { row, column, value: number(value, 4) });
}

/** About how many rows or columns are one cell. */
function field(whole, cells) {
  return number(whole / cells, Number.isInteger(whole / cells) ? 0 : 1);
}

/** A number in few digits, however large. */
export function short(value) {
  const size = Math.abs(value);
  return number(value, size === 0 || Number.isInteger(value) ? 0 : size >= 100 ? 0 : size >= 1 ? 1 : size >= 0.1 ? 2 : 3);
}
