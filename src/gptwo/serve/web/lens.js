// The logit lens as a picture: layer × position, in each square the most probable token and its probability.

import { h, roving, s } from "./dom.js";
import { percent, t } from "./i18n.js";
import { plain } from "./tokens.js";

/** Positions of one picture, and of one request. */
const WINDOW = 32;
/** Of a prompt of at most so many positions all pictures are made, unseen ones too: a saved page has what was read. */
const ALL = 128;

const CELL = [64, 32];
const LABEL = 52;
const TOP = 26;
/** Signs that fit into a cell; a wide one counts as two. */
const SIGNS = 8;
const FAR = 1200;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}/u;

/** What stands for a layer: the embedding is what there is before block 0. */
export function layerName(row) {
  return row === 0 ? t("layers.embedding_short") : String(row - 1);
}

/** All positions, side by side: a picture for every `WINDOW` of them, made when it comes into sight.
 *
 * `read(begin, end)` gives {top: rows of entries}; `choose(layer, position, entry)` is called for a square that is clicked;
 * `made(svg)` for each picture. Resolves when the picture of the chosen position is there, to {scroller, rest}; `rest()`
 * makes the others of a short prompt. */
export async function lensGrid({ explanation, layers, position, read, choose, made, signal }) {
  const count = explanation.tokens.length;
  const scroller = h("div", { class: "scroll lens" });
  const labels = h("div", { class: "labels", "aria-hidden": "true" }, ...Array.from({ length: layers + 1 }, (_, row) => h("span", { text: layerName(row) })));
  scroller.append(labels);
  const places = [];
  for (let begin = 0; begin < count; begin += WINDOW) {
    const end = Math.min(count, begin + WINDOW);
    places.push(h("div", { class: "window", style: { "--width": `${LABEL + (end - begin) * CELL[0]}px`, "--height": `${TOP + (layers + 1) * CELL[1]}px` } }));
  }
  scroller.append(...places);
  const asked = new Set();
  const fill = async (at) => {
    if (asked.has(at)) return;
    asked.add(at);
    const begin = at * WINDOW;
    const end = Math.min(count, begin + WINDOW);
    const { top } = await read(begin, end);
    const svg = picture({ explanation, top, begin, end, position, choose });
    places[at].replaceChildren(svg);
    made(svg);
  };
  const failed = (at) => (error) => {
    if (signal.aborted) return;
    asked.delete(at);
    const saved = error.code === "saved";
    places[at].replaceChildren(h("p", { class: saved ? "muted" : "problem", text: saved ? t("share.not_saved") : error.message }));
  };
  await fill(Math.floor(position / WINDOW));
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      const at = places.indexOf(target);
      if (isIntersecting) fill(at).catch(failed(at));
    }
  }, { root: scroller, rootMargin: `0px ${FAR}px` });
  for (const place of places) observer.observe(place);
  signal.addEventListener("abort", () => observer.disconnect());
  const rest = async () => {
    // One after the other: a new prompt has to wait for the one that is being made.
    for (let at = 0; count <= ALL && at < places.length && !signal.aborted; at += 1) await fill(at).catch(failed(at));
  };
  return { scroller, rest };
}

/** Marks a position, in the pictures that there are, and brings it into sight. */
export function markPosition(scroller, position) {
  for (const svg of scroller.querySelectorAll(".window > svg")) {
    const at = position - Number(svg.dataset.begin);
    const mark = svg.querySelector(".column");
    mark.setAttribute("x", LABEL + at * CELL[0]);
    mark.setAttribute("visibility", at >= 0 && at < Number(svg.dataset.count) ? "visible" : "hidden");
  }
  const left = LABEL * (Math.floor(position / WINDOW) + 1) + position * CELL[0];
  const seen = scroller.clientWidth;
  if (left - LABEL < scroller.scrollLeft || left + CELL[0] > scroller.scrollLeft + seen) scroller.scrollLeft = left - seen / 2;
}

function picture({ explanation: { tokens }, top, begin, end, position, choose }) {
  const width = LABEL + (end - begin) * CELL[0];
  const height = TOP + top.length * CELL[1];
  const x = (i) => LABEL + i * CELL[0];
  const label = (text, more) => s("text", { class: "tick", "dominant-baseline": "central", text, ...more });
  const cells = top.flatMap((row, layer) => row.map((entry, i) => cell({ entry, layer, at: begin + i, x: x(i), y: TOP + layer * CELL[1], tokens })));
  const svg = s("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": t("layers.lens_of", { from: begin + 1, to: end }), "data-begin": begin, "data-count": end - begin },
    s("rect", { class: "column", x: x(position - begin), y: 0, width: CELL[0], height, rx: 4, visibility: position >= begin && position < end ? "visible" : "hidden" }),
    ...tokens.slice(begin, end).map((token, i) => label(short(plain(token, SIGNS + 1)), { x: x(i) + CELL[0] / 2, y: TOP / 2, "text-anchor": "middle", class: "tick input" })),
    ...top.map((_, layer) => label(layerName(layer), { x: LABEL - 8, y: TOP + (layer + 0.5) * CELL[1], "text-anchor": "end" })),
    ...cells);
  const inReach = position >= begin && position < end ? position : begin;
  cells.find((node) => node.dataset.place === `${top.length - 1}.${inReach}`).setAttribute("tabindex", 0);
  roving(svg, () => cells, { across: end - begin });
  const chosen = (event) => {
    const node = event.target.closest(".cell");
    if (!node) return;
    const [layer, at] = node.dataset.place.split(".").map(Number);
    choose(layer, at, top[layer][at - begin]);
  };
  svg.addEventListener("click", chosen);
  svg.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    chosen(event);
  });
  return svg;
}

function cell({ entry, layer, at, x, y, tokens }) {
  const name = t("layers.cell", { layer: layerName(layer), position: at + 1, input: plain(tokens[at], 16), token: plain(entry, 24), p: percent(entry.p) });
  const text = (kind, up, shown) => s("text", { class: kind, x: CELL[0] / 2, y: up, "text-anchor": "middle", text: shown });
  return s("svg", {
    x, y, width: CELL[0], height: CELL[1], class: tokens[at + 1]?.id === entry.id ? "cell right" : "cell", role: "button", tabindex: -1,
    "aria-label": name, "data-place": `${layer}.${at}`, "data-id": entry.id,
  },
  s("title", { text: name }),
  s("rect", { class: "ground", x: 1, y: 1, width: CELL[0] - 2, height: CELL[1] - 2, rx: 3, "fill-opacity": (0.03 + 0.5 * entry.p).toFixed(3) }),
  text("token-text", 13, short(plain(entry, SIGNS + 1))), text("p", 26, percent(entry.p)));
}

/** As much as fits into a cell. */
function short(text) {
  let room = SIGNS;
  let shown = "";
  for (const sign of text) {
    room -= WIDE.test(sign) ? 2 : 1;
    if (room < 0) return `${shown.slice(0, -1)}…`;
    shown += sign;
  }
  return shown;
}
