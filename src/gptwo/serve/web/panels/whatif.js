// What if: heads and MLPs switched off, or taken from a second prompt, and what the model says then.

import { h, roving, s } from "../dom.js";
import { asked, at, heatAsked, isOfNow, toggled, usesPatch, within } from "../edits.js";
import { fixed, number, percent, signed, t } from "../i18n.js";
import { plain, visible } from "../tokens.js";

export const id = "whatif";

const MODES = ["zero", "mean", "patch"];
const SIGNS = { zero: "0", mean: "μ", patch: "⇄" };
const CANDIDATES = 100;
const SHOWN = 12;
// Squares grow where there are few: those of the heat map, and the switches, of which there is one more in a row.
const CELL = [20, 36];
const SWITCH = [22, 36];
const PICTURE_WIDTH = 260;

const CONTINUATION = 20;
// Each token is a whole pass, twice: of a long prompt fewer are asked for, 2 at 1,000 tokens.
const CONTINUATION_PASSES = 2000;

let mode = "zero";
let work = new AbortController();

export async function show(root, app) {
  const { whatif } = app.state;
  app.state.whatif = { ...whatif, edits: within(whatif.edits, sizes(app)) };
  const results = h("div", { class: "card results" });
  const heatCard = h("div", { class: "card" });
  root.replaceChildren(
    h("p", { class: "lede", text: t("whatif.lede") }),
    h("div", { class: "stack" },
      h("div", { class: "columns whatif" }, switches(root, app), results),
      heatCard));
  app.on("change", (patch) => {
    if ("position" in patch || "whatif" in patch) refresh(results, app);
    if ("position" in patch) heatMap(heatCard, root, app);
    if (!("whatif" in patch)) return;
    paint(root, app);
    drawHeat(root, app);
  });
  await Promise.all([refresh(results, app), heatMap(heatCard, root, app)]);
}

/** Changes some of {edits, other, heat}. */
function change(app, patch) {
  app.set({ whatif: { ...app.state.whatif, ...patch } });
}

// --- The switches ---

function switches(root, app) {
  const { layers, heads } = sizes(app);
  const cell = (layer, part) => h("button", {
    type: "button", class: "switch", tabindex: layer === 0 && part === 0 ? 0 : -1, "data-place": `${layer}.${part}`, disabled: app.saved,
    on: { click: (event) => toggle(app, event.currentTarget.dataset.place) },
  });
  const grid = h("div", { class: "switches", role: "group", "aria-label": t("whatif.grid"), style: { "--columns": heads + 1, "--cell": `${sizeOf(SWITCH, heads + 1)}px` } },
    h("span"), ...Array.from({ length: heads }, (_, head) => h("span", { class: "axis", text: number(head) })), h("span", { class: "axis", text: "MLP" }),
    ...Array.from({ length: layers }, (_, layer) => [
      h("span", { class: "axis", text: number(layer) }), ...Array.from({ length: heads }, (__, head) => cell(layer, head)), cell(layer, "mlp")]).flat());
  roving(grid, () => [...grid.querySelectorAll(".switch")], { across: heads + 1 });
  const second = h("textarea", {
    class: "second", rows: 2, text: app.state.whatif.other, spellcheck: "false", placeholder: t("whatif.other_hint"), disabled: app.saved,
    on: { change: () => change(app, { other: second.value }) },
  });
  const clear = h("button", { type: "button", class: "quiet", text: t("whatif.clear"), disabled: app.saved, on: { click: () => change(app, { edits: {} }) } });
  const brush = h("div", { class: "segments", role: "group", "aria-label": t("whatif.brush") }, ...MODES.map((name) => h("button", {
    type: "button", "aria-pressed": String(name === mode), text: `${SIGNS[name]} ${t(`whatif.${name}`)}`, on: {
      click: (event) => {
        mode = name;
        for (const button of event.currentTarget.parentNode.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      },
    },
  })));
  const card = h("div", { class: "card stack" },
    h("div", { class: "row" }, brush, clear),
    h("p", { class: "muted note", text: t("whatif.brush_what") }),
    h("div", { class: "scroll" }, grid),
    h("p", { class: "muted note axes", text: t("whatif.axes") }),
    h("label", { class: "stacked" }, h("span", { text: t("whatif.other") }), second));
  queueMicrotask(() => paint(root, app));
  return card;
}

function sizes({ model: { config } }) {
  return { layers: config.n_layer, heads: config.n_head };
}

/** px of a square, of so many in a row. */
function sizeOf([least, most], count) {
  return Math.max(least, Math.min(most, Math.floor(PICTURE_WIDTH / count)));
}

function toggle(app, place, to = mode) {
  change(app, { edits: toggled(app.state.whatif.edits, place, to) });
}

function paint(root, app) {
  const { edits } = app.state.whatif;
  for (const node of root.querySelectorAll(".switch")) {
    const [layer, part] = node.dataset.place.split(".");
    const value = edits[node.dataset.place];
    node.textContent = value ? SIGNS[value] : "";
    node.dataset.value = value ?? "";
    node.setAttribute("aria-pressed", String(value !== undefined));
    node.setAttribute("aria-label", t(part === "mlp" ? "whatif.mlp_at" : "whatif.head_at", { layer, head: part, state: t(`whatif.${value ?? "untouched"}`) }));
  }
}

// --- What comes of it ---

async function refresh(card, app) {
  work.abort();
  work = new AbortController();
  const signal = AbortSignal.any([work.signal, app.signal]);
  const { whatif } = app.state;
  const { explanation, position, tokens } = app.state;
  const next = (id) => app.api.json(`/explain/prompt/${id}/next?position=${position}&k=${CANDIDATES}`, undefined, { signal });
  const missing = Object.keys(whatif.edits).length === 0 ? "nothing" : usesPatch(whatif) && whatif.other === "" ? "needs_other" : null;
  const of = { tokens, ...at(app.state), ...asked(whatif) };
  const goOn = h("div", { class: "going-on" });
  card.classList.add("working");
  try {
    if (missing) return void card.replaceChildren(...unchanged(app, await next(explanation.id), missing));
    const changed = await app.api.explain(of, { signal });
    const [before, after] = await Promise.all([next(explanation.id), next(changed.id)]);
    card.replaceChildren(...compared(app, { before, after, changed }), goOn);
    const most = Math.min(CONTINUATION, Math.ceil(CONTINUATION_PASSES / tokens.length));
    goOn.replaceChildren(h("p", { class: "muted", role: "status", text: t("whatif.going_on", { n: number(most) }) }));
    const texts = await app.api.json("/explain/continue", { ...of, max_tokens: most }, { signal, keep: true });
    goOn.replaceChildren(h("h3", { text: t("whatif.continuation") }), continuation("before", texts), continuation("after", texts));
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.status === undefined) throw error;
    // What was there is of other edits, or of another token, unless only the continuation failed.
    if (!card.contains(goOn)) card.replaceChildren(h("h2", { text: t("whatif.results") }));
    goOn.replaceChildren();
    card.append(problem(error));
  } finally {
    if (!signal.aborted) card.classList.remove("working");
  }
  return undefined;
}

function problem(error) {
  return h("p", { class: "problem", role: "alert", text: error.code === "saved" ? t("share.not_saved") : error.message });
}

/** What the model says as it is, while there is nothing to compare it with; `missing` says why. */
function unchanged(app, { top, entropy }, missing) {
  const rows = top.slice(0, SHOWN).map((entry) => h("tr", {},
    h("th", { scope: "row" }, h("b", { class: "word" }, ...visible(entry, { most: 16 }))), bar(entry, "before", top[0].p), h("td", { class: "n optional", text: fixed(entry.logit) })));
  return [
    ...titled(app, [["entropy", fixed(entropy)], ["mean_surprisal", fixed(mean(app.state.explanation.surprisal))]]),
    h("p", { class: "muted note", text: t(`whatif.${missing}`) }),
    tabled(rows, [["p_before"], ["logit", "optional"]]),
  ];
}

function titled({ state: { explanation, position } }, facts) {
  return [
    h("h2", {}, t("whatif.after_token"), " ", h("b", { class: "word" }, ...visible(explanation.tokens[position]))),
    h("p", { class: "row facts" }, ...facts.map(([key, value]) => h("span", { class: "fact" }, h("span", { class: "muted", text: t(`whatif.${key}`) }), ` ${value}`))),
  ];
}

function tabled(rows, columns) {
  const heads = columns.map(([key, more = ""]) => h("th", { scope: "col", class: `n ${more}`, text: t(`whatif.${key}`) }));
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col", text: t("whatif.token") }), ...heads)), h("tbody", {}, ...rows)));
}

function bar(entry, kind, highest) {
  return h("td", { class: `n bar ${kind}`, style: { "--w": `${(100 * (entry?.p ?? 0) / highest).toFixed(1)}%` }, text: entry ? percent(entry.p) : "–" });
}

function compared(app, { before, after, changed }) {
  const from = new Map(before.top.map((entry) => [entry.id, entry]));
  const to = new Map(after.top.map((entry) => [entry.id, entry]));
  const ids = [...new Set([...before.top.slice(0, SHOWN), ...after.top.slice(0, SHOWN)].map((entry) => entry.id))];
  const p = (entry) => entry?.p ?? 0;
  ids.sort((a, b) => Math.max(p(from.get(b)), p(to.get(b))) - Math.max(p(from.get(a)), p(to.get(a))));
  const highest = Math.max(before.top[0].p, after.top[0].p);
  const rows = ids.slice(0, SHOWN).map((token) => {
    const [a, b] = [from.get(token), to.get(token)];
    const change = a && b ? b.logit - a.logit : NaN;
    return h("tr", {},
      h("th", { scope: "row" }, h("b", { class: "word" }, ...visible(a ?? b, { most: 16 }))),
      bar(a, "before", highest), bar(b, "after", highest),
      h("td", { class: "n optional", text: a ? fixed(a.logit) : "–" }),
      h("td", { class: `n ${change > 0 ? "up" : "down"}`, text: Number.isNaN(change) ? "–" : signed(change) }));
  });
  const pair = (of) => `${fixed(of(app.state.explanation, before))} → ${fixed(of(changed, after))}`;
  return [
    ...titled(app, [["entropy", pair((_, next) => next.entropy)], ["mean_surprisal", pair((pass) => mean(pass.surprisal))]]),
    tabled(rows, [["p_before"], ["p_after"], ["logit", "optional"], ["change"]]),
  ];
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

function continuation(which, texts) {
  const same = texts.before.tokens.findIndex((token, i) => token.id !== texts.after.tokens[i]?.id);
  const tokens = texts[which].tokens.map((token, i) => h("span", { class: same >= 0 && i >= same ? "token differs" : "token" }, ...visible(token, { flow: true })));
  return h("div", { class: "continuation" }, h("span", { class: "muted", text: t(`whatif.${which}`) }), h("p", { class: "written" }, ...tokens));
}

// --- All heads at once ---

async function heatMap(card, root, app) {
  const { explanation, position } = app.state;
  const path = `/explain/prompt/${explanation.id}/next?position=${position}&k=${CANDIDATES}`;
  const next = await app.api.json(path, undefined, app).catch((error) => {
    if (error.name !== "AbortError") card.replaceChildren(h("h2", { text: t("whatif.heat") }), problem(error));
    return null;
  });
  if (next === null || position !== app.state.position) return;
  const select = h("select", { disabled: app.saved }, ...next.top.slice(0, 20).map((entry) => h("option", { value: entry.id, text: `${plain(entry)}  ${percent(entry.p)}` })));
  const picture = h("div", { class: "heat" });
  const said = h("span", { class: "muted spoken", role: "status" });
  const go = h("button", { type: "button", class: "button needs-server", text: t("whatif.heat_go"), on: { click: () => run() } });
  const run = async () => {
    const body = { ...heatAsked(app.state), token: Number(select.value) };
    if (body.other === "") return void (said.textContent = t("whatif.needs_other"));
    go.disabled = true;
    said.textContent = t("whatif.heat_running");
    try {
      await app.api.json("/explain/heatmap", body, { signal: app.signal, keep: true });
      said.textContent = "";
      change(app, { heat: body });
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      change(app, { heat: null });
      said.textContent = error.message;
    } finally {
      go.disabled = false;
    }
    return undefined;
  };
  card.replaceChildren(h("h2", { text: t("whatif.heat") }), h("p", { class: "muted note", text: t("whatif.heat_what") }),
    h("div", { class: "row" }, h("label", { class: "row" }, h("span", { text: t("whatif.heat_token") }), select), go, said), picture);
  const { heat, other } = app.state.whatif;
  const linked = Number.isInteger(heat);
  if (linked || isOfNow(heat, app.state)) select.value = linked ? heat : heat.token;
  if (linked && select.value !== "" && other !== "" && !app.saved) return run();
  // Of a link to another prompt, or to a token that is not among those.
  if (linked) change(app, { heat: null });
  if (select.value === "") select.selectedIndex = 0;
  return drawHeat(root, app);
}

/** The heat map that was asked for, or nothing where it was of something else. */
async function drawHeat(root, app) {
  const { heat } = app.state.whatif;
  const shown = isOfNow(heat, app.state) ? await app.api.json("/explain/heatmap", heat, { signal: app.signal, keep: true }).catch(() => null) : null;
  const picture = root.querySelector(".heat");
  if (!picture || app.state.whatif.heat !== heat) return;
  if (shown === null) return void picture.replaceChildren();
  const svg = heatPicture(shown.grid, (layer, head) => toggle(app, `${layer}.${head}`, "patch"));
  picture.replaceChildren(h("div", {}, svg), strongest(shown.grid));
  app.picture(svg, "heat-map");
}

/** The heads that change the logit most. */
function strongest(grid) {
  const cells = grid.flatMap((row, layer) => row.map((change, head) => ({ layer, head, change })));
  cells.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  const column = (key) => h("th", { scope: "col", class: "n", text: t(`whatif.${key}`) });
  return h("table", {},
    h("thead", {}, h("tr", {}, column("layer"), column("head"), column("change"))),
    h("tbody", {}, ...cells.slice(0, 8).map(({ layer, head, change }) => h("tr", {},
      h("td", { class: "n", text: number(layer) }), h("td", { class: "n", text: number(head) }), h("td", { class: `n ${change > 0 ? "up" : "down"}`, text: signed(change, 3) })))));
}

/** L×H squares, warm where patching raises the logit, cool where it lowers it. */
function heatPicture(grid, choose) {
  const [L, H] = [grid.length, grid[0].length];
  const cell = sizeOf(CELL, H);
  const largest = Math.max(...grid.flat().map(Math.abs)) || 1;
  const squares = grid.flatMap((row, layer) => row.map((change, head) => {
    const name = t("whatif.heat_cell", { layer, head, change: signed(change, 3) });
    return s("rect", {
      x: 28 + head * cell, y: 20 + layer * cell, width: cell - 1, height: cell - 1, class: change > 0 ? "warm" : "cool", "fill-opacity": (Math.abs(change) / largest).toFixed(3),
      role: "button", tabindex: layer === 0 && head === 0 ? 0 : -1, "aria-label": name,
      on: { click: () => choose(layer, head), keydown: (event) => [" ", "Enter"].includes(event.key) && (event.preventDefault(), choose(layer, head)) },
    }, s("title", { text: name }));
  }));
  const label = (text, x, y, anchor) => s("text", { x, y, class: "tick", "text-anchor": anchor, "dominant-baseline": "middle", text });
  const svg = s("svg", { width: Math.max(28 + H * cell, PICTURE_WIDTH), height: 20 + L * cell + 26, class: "plot", role: "group", "aria-label": t("whatif.heat") },
    ...Array.from({ length: H }, (_, head) => label(number(head), 28 + (head + 0.5) * cell, 10, "middle")),
    ...Array.from({ length: L }, (_, layer) => label(number(layer), 20, 20 + (layer + 0.5) * cell, "end")),
    s("rect", { class: "ground", x: 28, y: 20, width: H * cell - 1, height: L * cell - 1 }), ...squares,
    s("text", { x: 28, y: 20 + L * cell + 16, class: "tick", text: t("whatif.heat_scale", { largest: fixed(largest, 2) }) }));
  roving(svg, () => squares, { across: H });
  return svg;
}
