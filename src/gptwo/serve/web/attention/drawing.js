// The picture of a head: weights, the pairs that are pointed at, and tokens on both sides.

import { fixed, t } from "../i18n.js";
import { fitted } from "./canvas.js";
import { inkOf, paint, READABLE } from "./weights.js";

const LINE = 13;
const COLOURS = ["ink", "ink-2", "surface", "line"];

/** Draws what is seen of a matrix that is scrolled by [left, top], in cells of `cell` pixels, beside `labels` pixels of
 * tokens. `pair` is chosen; `hover`, where there is one, pointed at: [query, key]. */
export function drawMatrix({ canvas, width, height, ...view }) {
  const context = fitted(canvas, width, height);
  const style = getComputedStyle(canvas);
  const [wide, high] = [width - view.labels, height - view.labels];
  const seen = (from, room) => [Math.max(0, Math.floor(from / view.cell)), Math.min(view.weights.count, Math.ceil((from + room) / view.cell))];
  Object.assign(view, {
    context, wide, high,
    rows: seen(view.top, high), columns: seen(view.left, wide),
    colour: Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`)])),
    font: (size, weight = 400) => `${weight} ${size}px ${style.getPropertyValue("--mono")}`,
  });
  within(context, [view.labels, view.labels, wide, high], () => {
    context.translate(view.labels - view.left, view.labels - view.top);
    drawWeights(view);
    hideLater(view);
    if (view.cell >= READABLE) writeWeights(view);
    drawPairs(view);
  });
  drawTokens(view);
}

function drawWeights({ context, weights, rows, columns, cell }) {
  for (const tile of weights.seen(rows, columns, cell * devicePixelRatio, cell >= READABLE)) {
    tile.canvas ??= paint(tile);
    const [w, h] = [(tile.columns[1] - tile.columns[0]) * cell, (tile.rows[1] - tile.rows[0]) * cell];
    context.imageSmoothingEnabled = tile.canvas.width > w * devicePixelRatio;
    context.drawImage(tile.canvas, tile.columns[0] * cell, tile.rows[0] * cell, w, h);
  }
}

/** What comes after each token is hidden from it: no colour, as no weight. */
function hideLater({ context, colour, weights: { count }, rows, cell }) {
  context.beginPath();
  context.moveTo(count * cell, rows[0] * cell);
  for (let i = rows[0]; i < rows[1]; i += 1) {
    context.lineTo((i + 1) * cell, i * cell);
    context.lineTo((i + 1) * cell, (i + 1) * cell);
  }
  context.lineTo(count * cell, rows[1] * cell);
  context.fillStyle = colour.surface;
  context.fill();
  context.globalAlpha = 0.3;
  context.fillStyle = colour.line;
  context.fill();
  context.globalAlpha = 1;
}

function writeWeights({ context, colour, font, weights, rows, columns, cell }) {
  context.font = font(11);
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let i = rows[0]; i < rows[1]; i += 1) {
    for (let j = columns[0]; j < Math.min(columns[1], i + 1); j += 1) {
      const { value, isExact } = weights.at(i, j);
      if (!isExact) continue;
      context.fillStyle = inkOf(value) > 0.45 ? colour.surface : colour.ink;
      context.fillText(inCell(value), (j + 0.5) * cell, (i + 0.5) * cell);
    }
  }
}

function drawPairs({ context, colour, weights: { count }, pair, hover, cell }) {
  const [query, key] = pair;
  context.strokeStyle = colour["ink-2"];
  context.lineWidth = 1;
  context.globalAlpha = 0.55;
  for (const edge of cell >= 6 ? [0, 1] : [0.5]) {
    line(context, 0, (query + edge) * cell, (query + 1) * cell, (query + edge) * cell);
    line(context, (key + edge) * cell, key * cell, (key + edge) * cell, count * cell);
  }
  context.globalAlpha = 1;
  const side = Math.max(cell, 5);
  const box = ([i, j], grow) => context.strokeRect((j + 0.5) * cell - side / 2 - grow, (i + 0.5) * cell - side / 2 - grow, side + 2 * grow, side + 2 * grow);
  if (hover) box(hover, 0.5);
  context.strokeStyle = colour.ink;
  context.lineWidth = 2;
  box(pair, 1);
}

/** Queries on the left, keys above, as many as there is room for; and always those of the pair. */
function drawTokens(view) {
  const { context, colour, font, tokens, labels, left, top, wide, high } = view;
  const [query, key] = view.hover ?? view.pair;
  const write = (i, x, y, isChosen, turned) => {
    context.save();
    context.translate(x, y);
    if (turned) context.rotate(Math.PI / 2);
    context.font = font(11, isChosen ? 700 : 400);
    context.fillStyle = isChosen ? colour.ink : colour["ink-2"];
    context.fillText(tokens[i], -8, 0, labels - 10);
    context.restore();
  };
  context.textAlign = "right";
  context.textBaseline = "middle";
  within(context, [0, labels, labels, high], () => {
    for (const [i, y, isChosen] of named(view.cell, [top, high], query, tokens.length)) write(i, labels, labels + y, isChosen, false);
  });
  within(context, [labels, 0, wide, labels], () => {
    for (const [i, x, isChosen] of named(view.cell, [left, wide], key, tokens.length)) write(i, labels + x, labels, isChosen, true);
  });
  context.fillStyle = colour["ink-2"];
  context.font = font(10);
  context.textAlign = "left";
  context.fillText(`${t("attention.keys")} →`, 2, 8, labels - 4);
  context.fillText(`${t("attention.queries")} ↓`, 2, labels - 8, labels - 4);
}

/** [which, where, is chosen] of the tokens whose names have room within `room` pixels from `from` on. */
function named(cell, [from, room], chosen, count) {
  const step = Math.max(1, Math.ceil(LINE / cell));
  const edge = Math.min(LINE, cell) / 2;
  const at = (i) => (i + 0.5) * cell - from;
  // The one that is pointed at is named at the edge rather than not at all.
  const marked = at(chosen) > -cell && at(chosen) < room + cell ? Math.max(LINE / 2, Math.min(room - LINE / 2, at(chosen))) : at(chosen);
  const found = [];
  for (let i = Math.max(0, Math.ceil(from / cell / step)) * step; i < count && at(i) <= room - edge; i += step) {
    if (at(i) >= edge && Math.abs(at(i) - marked) >= LINE) found.push([i, at(i), false]);
  }
  return [...found, [chosen, marked, true]];
}

function within(context, area, fn) {
  context.save();
  context.beginPath();
  context.rect(...area);
  context.clip();
  fn();
  context.restore();
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

/** .23: what fits into a cell. */
function inCell(weight) {
  return weight < 0.005 ? "0" : weight > 0.995 ? "1" : fixed(weight, 2).replace(/^0/, "");
}
