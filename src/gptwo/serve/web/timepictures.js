// Where the time goes, as pictures: a pass step by step, the roofline, and the tokens one after the other.

import { h, s } from "./dom.js";
import { fixed, number, quantity, t } from "./i18n.js";
import { plain } from "./tokens.js";

const PASS_HEIGHT = 36;
const ROOF = { left: 64, right: 12, top: 28, bottom: 40, height: 336 };
const LINE = { row: 22, name: 104, value: 72, bar: 12 };
/** How far a bar goes that is longer than the others can be shown beside. */
const MOST_TIMES = 3;
/** What a token's time is made of, as its engine can tell. */
export const SHARES = ["weights", "kv", "model", "sampling", "python"];

function label(text, x, y, anchor = "start", more = "") {
  return s("text", { class: `tick ${more}`, x, y, "text-anchor": anchor, "dominant-baseline": "central", text });
}

function drawing(name, width, height, ...children) {
  return s("svg", { class: "plot time-picture", role: "img", "aria-label": name, width, height, viewBox: `0 0 ${width} ${height}` }, ...children);
}

/** Every step, as wide as it takes long; below them the layers. */
export function passPicture(rows, width, name) {
  const total = rows.reduce((sum, { us }) => sum + us, 0);
  const blocks = new Map();
  let x = 0;
  const steps = rows.map((row) => {
    const wide = (row.us / total) * width;
    const block = row.name.match(/^blocks\.(\d+)\./)?.[1];
    if (block !== undefined) blocks.set(block, [blocks.get(block)?.[0] ?? x, x + wide]);
    const node = s("rect", { class: row.bound_by, x: x.toFixed(2), y: 0, width: Math.max(0.3, wide - (wide > 4 ? 1 : 0)).toFixed(2), height: PASS_HEIGHT },
      s("title", { text: `${row.name}: ${fixed(row.us, 1)} µs, ${t(`time.${row.bound_by}`)}` }));
    x += wide;
    return node;
  });
  const marks = [...blocks].flatMap(([block, [from, to]]) => [
    s("line", { class: "mark", x1: from.toFixed(2), x2: from.toFixed(2), y1: PASS_HEIGHT, y2: PASS_HEIGHT + 5 }),
    ...(to - from > 14 ? [label(number(Number(block)), (from + to) / 2, PASS_HEIGHT + 12, "middle")] : []),
  ]);
  const last = blocks.size ? [...blocks.values()].at(-1)[1] : 0;
  const head = rows.find((row) => row.name === "head");
  if (head && (head.us / total) * width > 40) marks.push(label("head", last + (width - last) / 2, PASS_HEIGHT + 12, "middle"));
  return drawing(name, width, PASS_HEIGHT + 22, ...steps, ...marks);
}

/** FLOP/s over FLOP/byte, both logarithmic, with what the machine was measured to do. `points`: [{n, pass, x, y, name}]. */
export function roofline(points, { flops_per_s: peak, read_bytes_per_s: bandwidth }, width) {
  const { left, right, top, bottom, height } = ROOF;
  const powers = (values, [low, high]) => [Math.floor(Math.log10(Math.min(low, ...values))), Math.ceil(Math.log10(Math.max(high, ...values)))];
  const ridge = peak / bandwidth;
  const [x0, x1] = powers(points.map(({ x }) => x), [0.5, ridge * 4]);
  const [y0, y1] = powers(points.map(({ y }) => y), [peak / 100, peak * 1.2]);
  const x = (value) => left + ((Math.log10(value) - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => top + (1 - (Math.log10(value) - y0) / (y1 - y0)) * (height - top - bottom);
  const decades = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
  const slopeFrom = Math.max(10 ** x0, 10 ** y0 / bandwidth);
  return drawing(t("time.roofline"), width, height,
    ...decades(x0, x1).flatMap((value) => [
      s("line", { class: "rule", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
      label(number(value, value < 1 ? Math.round(-Math.log10(value)) : 0), x(value), height - bottom + 12, "middle")]),
    ...decades(y0, y1).flatMap((value) => [
      s("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      label(quantity(value, "").replace(/[.,]0+(?=\D|$)/, ""), left - 8, y(value), "end")]),
    label("FLOP/byte", width - right, height - 8, "end"), label("FLOP/s", left - 8, 10, "end"),
    s("path", { class: "roof", d: `M${x(slopeFrom)} ${y(slopeFrom * bandwidth)}L${x(ridge)} ${y(peak)}L${width - right} ${y(peak)}` }),
    label(quantity(peak, "FLOP/s"), width - right - 4, y(peak) - 9, "end", "of-roof"),
    label(quantity(bandwidth, "B/s"), (x(slopeFrom) + x(ridge)) / 2 - 8, (y(slopeFrom * bandwidth) + y(peak)) / 2 - 6, "end", "of-roof"),
    ...points.map(({ n, pass, x: a, y: b, name }) => s("g", { class: `point ${pass}`, transform: `translate(${x(a).toFixed(1)} ${y(b).toFixed(1)})` },
      s("title", { text: `${name}: ${fixed(a, 2)} FLOP/byte, ${quantity(b, "FLOP/s")}` }),
      pass === "prefill" ? s("circle", { r: 8 }) : s("rect", { x: -8, y: -8, width: 16, height: 16, rx: 2 }),
      s("text", { class: "n-th", "text-anchor": "middle", "dominant-baseline": "central", text: n }))));
}

/** The first token and those after it, each with what its time is made of. */
export function timelinePicture({ first_token_us: first, timeline }, width) {
  const { row, name, value, bar } = LINE;
  const room = width - name - value;
  const largest = Math.max(...timeline.map(({ us }) => us));
  const whole = Math.max(largest, Math.min(first, largest * MOST_TIMES));
  const scale = (us) => (us / whole) * room;
  const cut = first > whole;
  const each = timeline.map((entry, i) => {
    let x = name;
    const y = (i + 1) * row;
    const parts = SHARES.filter((share) => entry[`${share}_us`] !== undefined).map((share) => {
      const us = entry[`${share}_us`];
      const node = s("rect", { class: `of-${share}`, x: x.toFixed(2), y: y + (row - bar) / 2, width: scale(us).toFixed(2), height: bar },
        s("title", { text: `${t(`time.of_${share}`)}: ${fixed(us, 1)} µs` }));
      x += scale(us);
      return node;
    });
    return [label(plain(entry.token, 12), name - 8, y + row / 2, "end", "input"), ...parts, label(`${fixed(entry.us, 0)} µs`, width, y + row / 2, "end", "value")];
  });
  const end = name + scale(Math.min(first, whole));
  return drawing(t("time.timeline"), width, (timeline.length + 1) * row + 2,
    label(t("time.prompt"), name - 8, row / 2, "end"),
    s("rect", { class: "of-prompt", x: name, y: (row - bar) / 2, width: end - name, height: bar }),
    ...(cut ? [s("path", { class: "cut", d: `M${end - 30} ${row - 2}l8 ${4 - row}M${end - 24} ${row - 2}l8 ${4 - row}` })] : []),
    label(`${fixed(first, 0)} µs`, width, row / 2, "end", "value"), ...each.flat());
}

/** What a colour stands for. */
export function legend(keys) {
  return h("p", { class: "legend muted" }, ...keys.map(([kind, text]) => h("span", { class: `swatch ${kind}`, text })));
}
