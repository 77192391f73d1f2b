// All heads, small: L×H pictures on one canvas, and a button over each.

import { h, roving } from "../dom.js";
import { number, t } from "../i18n.js";
import { onRecolour } from "../palette.js";
import { fitted } from "./canvas.js";
import { paint } from "./weights.js";

const CELL = [22, 88];
const GAP = 2;
const LABEL = [20, 18];

export class Heads {
  #canvas = h("canvas", { "aria-hidden": "true" });
  #frame;
  #buttons = [];
  #pictures = [];
  #sizes;
  #count;
  #thumbnails;
  #width = 0;

  /** `thumbnails`: {data, shape: [L, H, n, n]} of `count` tokens. `choose(layer, head)`. */
  constructor({ thumbnails, count, choose, signal }) {
    const [layers, heads] = thumbnails.shape;
    this.#sizes = { layers, heads };
    this.#count = count;
    this.#thumbnails = thumbnails;
    for (let layer = 0; layer < layers; layer += 1) {
      for (let head = 0; head < heads; head += 1) {
        const label = t("attention.head_at", { layer, head });
        this.#buttons.push(h("button", { type: "button", class: "one-head", tabindex: -1, "aria-label": label, title: label, on: { click: () => choose(layer, head) } }));
      }
    }
    const grid = h("div", { class: "head-grid", role: "group", "aria-label": t("attention.grid"), style: { "--columns": heads } }, ...this.#buttons);
    roving(grid, () => this.#buttons, { across: heads, choose: (button) => button.click() });
    this.#frame = h("div", { class: "heads" }, this.#canvas, grid);
    this.node = h("div", { class: "scroll heads-window", tabindex: -1 }, this.#frame);
    this.#paint();
    const observer = new ResizeObserver(([entry]) => this.#fit(entry.contentRect.width));
    observer.observe(this.node);
    signal.addEventListener("abort", () => observer.disconnect());
    onRecolour(() => {
      this.#paint();
      this.#draw();
    }, signal);
  }

  get canvas() {
    return this.#canvas;
  }

  /** The thumbnail of a head, {data, shape}. */
  of(layer, head) {
    const { data, shape: [, heads, n] } = this.#thumbnails;
    const first = (layer * heads + head) * n * n;
    return { data: data.subarray(first, first + n * n), shape: [n, n] };
  }

  /** Marks the head that is shown large. */
  mark(layer, head) {
    this.#buttons.forEach((button, i) => {
      const isChosen = i === layer * this.#sizes.heads + head;
      button.setAttribute("aria-pressed", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
    });
  }

  #paint() {
    const whole = [0, this.#count];
    this.#pictures = this.#buttons.map((_, i) => paint({ ...this.of(Math.floor(i / this.#sizes.heads), i % this.#sizes.heads), rows: whole, columns: whole }));
  }

  #fit(width) {
    if (width === this.#width || width === 0) return;
    this.#width = width;
    const cell = Math.max(CELL[0], Math.min(CELL[1], Math.floor((width - LABEL[0]) / this.#sizes.heads)));
    this.#frame.style.setProperty("--cell", `${cell}px`);
    this.#draw(cell);
  }

  #draw(cell = parseFloat(this.#frame.style.getPropertyValue("--cell"))) {
    const { layers, heads } = this.#sizes;
    const [width, height] = [LABEL[0] + heads * cell, LABEL[1] + layers * cell];
    const context = fitted(this.#canvas, width, height);
    const style = getComputedStyle(this.#frame);
    context.fillStyle = style.getPropertyValue("--ink-2");
    context.font = `10px ${style.getPropertyValue("--sans")}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let head = 0; head < heads; head += 1) context.fillText(number(head), LABEL[0] + (head + 0.5) * cell, LABEL[1] / 2);
    context.textAlign = "right";
    for (let layer = 0; layer < layers; layer += 1) context.fillText(number(layer), LABEL[0] - 6, LABEL[1] + (layer + 0.5) * cell);
    const side = cell - 2 * GAP;
    const ratio = devicePixelRatio;
    const line = style.getPropertyValue("--line");
    this.#pictures.forEach((picture, i) => {
      const [x, y] = [LABEL[0] + (i % heads) * cell + GAP, LABEL[1] + Math.floor(i / heads) * cell + GAP];
      // Pixels are mixed only where there are more of them than there is room for.
      context.imageSmoothingEnabled = picture.width > side * ratio;
      context.imageSmoothingQuality = "high";
      context.fillStyle = line;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + side, y);
      context.lineTo(x + side, y + side);
      context.closePath();
      context.save();
      context.globalAlpha = 0.35;
      context.fill();
      context.restore();
      context.drawImage(picture, x, y, side, side);
    });
  }
}
