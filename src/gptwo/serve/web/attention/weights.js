// A head's weights as pixels, and one of them: from tiles, as many as are seen and as fine as they are seen.

import { paletteOf } from "../palette.js";

/** Entries along the side of a tile. */
export const SIDE = 128;
/** Pixels of a cell in which a weight can be read, and is fetched as a number. */
export const READABLE = 30;
const AT_ONCE = 4;

/** The colour of a weight is that of its root: most weights of a long prompt are small. */
export function inkOf(weight) {
  return Math.sqrt(weight);
}

/** A canvas of a pixel for each field. `rows` and `columns` are the [first, end) that it has; what comes after a query,
 * and is hidden from it, stays clear. `data`: weights, or bytes of which 255 is 1. */
export function paint({ data, shape, rows, columns }) {
  const colours = paletteOf("sequential");
  const last = colours.length - 1;
  const isBytes = data instanceof Uint8Array;
  const ofByte = isBytes && Uint32Array.from({ length: 256 }, (_, byte) => colours[Math.round(last * inkOf(byte / 255))]);
  const [r, c] = shape;
  const pixels = new Uint32Array(r * c);
  for (let i = 0; i < r; i += 1) {
    const lastRow = rows[0] + Math.ceil(((i + 1) * (rows[1] - rows[0])) / r) - 1;
    for (let j = 0; j < c; j += 1) {
      if (columns[0] + Math.floor((j * (columns[1] - columns[0])) / c) > lastRow) break;
      const value = data[i * c + j];
      pixels[i * c + j] = isBytes ? ofByte[value] : colours[Math.round(last * inkOf(value))];
    }
  }
  const canvas = new OffscreenCanvas(c, r);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), c, r), 0, 0);
  return canvas;
}

/** The weights of one head of one explanation. */
export class Weights {
  #api;
  #path;
  #changed;
  #work = new AbortController();
  #signal;
  #tiles = new Map();
  #asked = new Set();
  #queue = [];
  #running = 0;
  #idle = [];
  /** What could not be had: an error, or null. */
  problem = null;

  /** `base`: the head's thumbnail, {data, shape}. `changed()` is called when there is more to see. */
  constructor({ api, id, layer, head, count, base, changed, signal }) {
    this.#api = api;
    this.#path = `/explain/prompt/${id}/attention/${layer}/${head}`;
    this.#changed = changed;
    this.#signal = AbortSignal.any([this.#work.signal, signal]);
    this.count = count;
    this.base = { ...base, rows: [0, count], columns: [0, count], field: count / base.shape[0] };
  }

  /** Nothing more is asked for. */
  close() {
    this.#work.abort();
  }

  /** Tiles for rows and columns [first, end) in cells of so many device pixels, coarsest first, a field about a pixel.
   * Those that are not here are asked for, those nearest the middle before others. */
  seen(rows, columns, cell, readable) {
    const field = 2 ** Math.max(0, Math.round(Math.log2(1 / cell)));
    const exact = readable || this.count <= SIDE;
    const span = SIDE * field;
    const found = [];
    const missing = [];
    for (let r = Math.floor(rows[0] / span); r * span < rows[1]; r += 1) {
      for (let c = Math.floor(columns[0] / span); c * span < columns[1] && c <= r; c += 1) {
        const at = `${field}.${r}.${c}.${exact}`;
        if (this.#tiles.has(at)) found.push(this.#tiles.get(at));
        else if (!this.#asked.has(at)) missing.push({ at, field, exact, rows: this.#range(r, span), columns: this.#range(c, span) });
      }
    }
    const far = (tile) => Math.abs(middle(tile.rows) - middle(rows)) + Math.abs(middle(tile.columns) - middle(columns));
    this.#queue = missing.sort((a, b) => far(a) - far(b));
    this.#pump();
    // What was seen before, finer or coarser, stands in for what is on its way.
    const others = missing.length || this.#running ? [...this.#tiles.values()].filter((tile) => !found.includes(tile) && meets(tile.rows, rows) && meets(tile.columns, columns)) : [];
    return [this.base, ...others.sort((a, b) => b.field - a.field), ...found];
  }

  /** {value, isExact, rows, columns} at query i and key j: the finest there is; of a field, its largest weight. */
  at(i, j) {
    let best = this.base;
    for (const tile of this.#tiles.values()) {
      const isFiner = tile.field < best.field || (tile.field === best.field && tile.isExact && !best.isExact);
      if (isFiner && within(i, tile.rows) && within(j, tile.columns)) best = tile;
    }
    const [row, column] = [place(i, best.rows, best.shape[0]), place(j, best.columns, best.shape[1])];
    const value = best.data[row.at * best.shape[1] + column.at] / (best.isExact ? 1 : 255);
    return { value, isExact: best.isExact === true, rows: row.field, columns: column.field };
  }

  /** Whether some of what was asked for is on its way. */
  get isBusy() {
    return this.#running > 0;
  }

  /** Resolves when nothing is on its way. */
  get settled() {
    if (this.#running === 0 || this.#signal.aborted) return Promise.resolve();
    return new Promise((done) => {
      this.#idle.push(done);
      this.#signal.addEventListener("abort", done);
    });
  }

  /** Colours anew, after the palette has changed. */
  recolour() {
    for (const tile of [this.base, ...this.#tiles.values()]) delete tile.canvas;
  }

  #range(at, span) {
    return [at * span, Math.min((at + 1) * span, this.count)];
  }

  #pump() {
    while (this.#running < AT_ONCE && this.#queue.length && this.problem === null) this.#fetch(this.#queue.shift());
  }

  async #fetch(tile) {
    this.#running += 1;
    this.#asked.add(tile.at);
    try {
      const part = this.count <= SIDE ? "" : `rows=${tile.rows.join(":")}&columns=${tile.columns.join(":")}&size=${SIDE}&`;
      const { data, shape } = await this.#api.array(`${this.#path}?${part}format=${tile.exact ? "float32" : "uint8"}`, { signal: this.#signal });
      this.#tiles.set(tile.at, { ...tile, data, shape, isExact: tile.exact });
    } catch (error) {
      if (error.name !== "AbortError") this.problem = error;
    }
    this.#running -= 1;
    if (this.#signal.aborted) return;
    this.#changed();
    this.#pump();
    if (this.#running === 0) for (const done of this.#idle.splice(0)) done();
  }
}

function middle([first, end]) {
  return (first + end) / 2;
}

function meets(a, b) {
  return a[0] < b[1] && b[0] < a[1];
}

function within(i, [first, end]) {
  return i >= first && i < end;
}

/** Which of n fields of a range has i, and what it covers. */
function place(i, [first, end], n) {
  const size = (end - first) / n;
  const at = Math.min(n - 1, Math.floor((i - first) / size));
  return { at, field: [first + Math.floor(at * size), first + Math.ceil((at + 1) * size)] };
}
