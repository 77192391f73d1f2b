// A line chart: several series over one axis of steps, with the values under the pointer.

import { h, s } from "./dom.js";
import { number } from "./i18n.js";

const LEFT = 44;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 26;

/** A figure that fits its width. `series`: [{name, label, points: [[x, y]…], dots}]; `marks`: x values on the axis, of which
 * `marked` has a line; `digits` of the values. */
export function lineChart({ title, unit, series, marks = [], marked = null, height = 260, digits = 3, signal }) {
  const readout = h("p", { class: "readout" });
  const figure = h("figure", { class: "chart" }, h("figcaption", {}, h("h2", { text: title }), readout));
  const filled = series.filter(({ points }) => points.length);
  const values = (at) => readout.replaceChildren(...filled.map(({ name, label, points }) => {
    const point = at === null ? points.at(-1) : points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    return h("span", { class: label ? `key ${name}` : "" }, label && `${label} `, h("b", { text: number(point[1], digits) }), h("span", { class: "muted", text: ` @ ${number(point[0])}` }));
  }), unit && h("span", { class: "muted", text: unit }));
  // Always the same node, which may be saved as a picture at any time.
  const node = s("svg", { role: "img", "aria-label": title, class: "plot" });
  figure.append(node);
  const draw = (width) => plot(node, { width, height, filled, marks, marked, values });
  const observer = new ResizeObserver(([entry]) => entry.contentRect.width > 0 && draw(entry.contentRect.width));
  observer.observe(figure);
  signal.addEventListener("abort", () => observer.disconnect());
  draw(640);
  values(marked);
  return figure;
}

function plot(node, { width, height, filled, marks, marked, values }) {
  const all = filled.flatMap(({ points }) => points);
  if (all.length === 0) return;
  const xs = [Math.min(0, ...all.map(([x]) => x)), Math.max(1, ...all.map(([x]) => x), ...marks)];
  const ys = all.map(([, y]) => y);
  const ticks = round([Math.min(...ys), Math.max(...ys)], Math.max(2, Math.round(height / 60)));
  const [low, high] = [Math.min(ticks[0], ...ys), Math.max(ticks.at(-1), ...ys)];
  const x = (value) => LEFT + ((value - xs[0]) / (xs[1] - xs[0])) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low || 1)) * (height - TOP - BOTTOM);
  const steps = round(xs, Math.max(2, Math.floor(width / 110))).filter((value) => value >= xs[0] && value <= xs[1] && Number.isInteger(value));
  const cross = s("line", { class: "cross", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) node.setAttribute(name, value);
  node.replaceChildren(
    ...ticks.map((value) => s("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) })),
    ...ticks.map((value) => s("text", { class: "tick", x: LEFT - 8, y: y(value), "text-anchor": "end", "dominant-baseline": "middle", text: short(value) })),
    ...steps.map((value) => s("text", { class: "tick", x: x(value), y: height - 6, "text-anchor": value === xs[0] ? "start" : x(value) > width - 24 ? "end" : "middle", text: short(value) })),
    ...marks.map((value) => s("line", { class: "mark", x1: x(value), x2: x(value), y1: height - BOTTOM, y2: height - BOTTOM + 5 })),
    ...(marked === null ? [] : [s("line", { class: "marked", x1: x(marked), x2: x(marked), y1: TOP, y2: height - BOTTOM + 5 })]),
    cross,
    ...filled.flatMap(({ name, points, dots }) => [
      s("path", { class: `line ${name}`, d: points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") }),
      ...(dots ? points.map(([a, b]) => s("circle", { class: `dot ${name}`, cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 3 })) : []),
    ]));
  node.onpointermove = (event) => {
    const at = xs[0] + ((event.offsetX - LEFT) / (width - LEFT - RIGHT)) * (xs[1] - xs[0]);
    const near = Math.max(xs[0], Math.min(xs[1], at));
    for (const key of ["x1", "x2"]) cross.setAttribute(key, x(near));
    cross.setAttribute("visibility", "visible");
    values(near);
  };
  node.onpointerleave = () => {
    cross.setAttribute("visibility", "hidden");
    values(marked);
  };
}

/** About `count` round numbers that span [low, high]. */
function round([low, high], count) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) ?? 10 * power;
  const found = [];
  for (let k = Math.floor(low / step + 1e-9); k * step <= high + step * 1e-6; k += 1) found.push(k * step);
  return found;
}

function short(value) {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(0);
  if (Math.abs(value) >= 10_000) return `${number(value / 1000, 1).replace(/[.,]0$/, "")}k`;
  return number(value, Math.abs(value) < 0.1 ? 3 : Math.abs(value) < 1 ? 2 : 1);
}
