// Where the time goes: every step of a prompt's pass and of one token's, measured, beside what this machine can do.

import { isElsewhere } from "../checkpoints.js";
import { h } from "../dom.js";
import { fixed, number, percent, quantity, signed, t } from "../i18n.js";
import { legend, passPicture, roofline, SHARES, timelinePicture } from "../timepictures.js";

export const id = "time";
export const keeps = true;

const COUNTS = [4, 16, 32, 64];
// Whoever types is not measured at every letter.
const PAUSE_MS = 500;
const PADDING = 42;
const PICTURE_WIDTH = 560;
const PASSES = ["prefill", "decode"];
const BOUNDS = ["compute", "bandwidth", "overhead"];
const FORMULAS = {
  embedding: "Δ E + P", attention_norm: "LN(X)", "attention.qkv": "Q, K, V = LN(X) W", attention: "softmax(QKᵀ/√K + M) V",
  "attention.scores": "QKᵀ/√K", "attention.softmax": "softmax(… + M)", "attention.mix": "A V", "attention.output": "X′ = X + Concat(A) W₀",
  mlp_norm: "LN(X′)", "mlp.up": "LN(X′) W₁", "mlp.gelu": "GELU", "mlp.down": "Y = X′ + … W₂", final_norm: "LN(X)", head: "L = LN(X) Eᵀ",
};

let pass = "prefill";
let every = false;
/** The tokens that the last measurement is of. */
let measured = null;

export async function show(root, app) {
  const { tokens } = app.state;
  app.state.decode ??= 16;
  const said = h("p", { class: "muted spoken", role: "status" });
  if (!root.firstChild || measured === null) root.replaceChildren(lede(), h("div", { class: "card" }, said));
  else root.querySelector("[role=status]")?.replaceWith(said);
  said.textContent = app.saved ? "" : t("time.measuring");
  if (measured !== null && measured !== tokens.join() && !app.saved) await pause(app.signal);
  await measure(root, app, said, true);
}

async function measure(root, app, said, keep) {
  const { tokens, decode } = app.state;
  if (app.signal.aborted) return;
  said.textContent = app.saved ? "" : t("time.measuring");
  root.classList.add("working");
  try {
    const result = await app.api.json("/explain/time", { tokens, decode_tokens: decode }, { signal: app.signal, keep });
    measured = tokens.join();
    render(root, app, result);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === undefined) throw error;
    said.className = "problem";
    said.textContent = error.code === "saved" ? t("share.not_saved") : error.message;
  } finally {
    if (!app.signal.aborted) root.classList.remove("working");
  }
}

function pause(signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, PAUSE_MS);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()));
  });
}

function lede() {
  return h("p", { class: "lede", text: t("time.lede") });
}

function render(root, app, result) {
  const width = Math.max(260, root.clientWidth - PADDING);
  const steps = h("div", { class: "card" });
  const line = timelinePicture(result, Math.min(width, 760));
  if (result[pass] === null) pass = "prefill";
  root.replaceChildren(lede(), h("div", { class: "stack" }, summary(root, app, result), steps, roof(app, result, width),
    h("div", { class: "card" },
      h("h2", { text: t("time.timeline") }), h("p", { class: "muted note", text: t("time.timeline_what") }),
      legend([["of-prompt", t("time.prompt")], ...SHARES.filter((share) => `${share}_us` in result.timeline[0]).map((share) => [`of-${share}`, t(`time.of_${share}`)])]),
      scrolling(t("time.timeline"), line), means(result.timeline))));
  app.picture(line, "timeline");
  fillSteps(steps, app, result, width);
}

/** A box that scrolls sideways on a narrow page, by keys too. */
function scrolling(name, node, more = "") {
  return h("div", { class: `scroll ${more}`, tabindex: 0, role: "region", "aria-label": name }, node);
}

// --- The whole ---

function summary(root, app, result) {
  const { ceilings } = result;
  const passes = PASSES.filter((name) => result[name] !== null);
  const tokensOf = { prefill: result.prefill.rows[0].shape[1], decode: 1 };
  const sum = (name, key) => result[name].rows.reduce((total, row) => total + row[key], 0);
  const row = (key, of, marked = () => false) => h("tr", {}, h("th", { scope: "row", text: t(`time.${key}`) }), ...passes.map((name) => h("td", { class: marked(name) || "n", "data-sum": `${name}.${key}`, text: of(name) })));
  const said = h("span", { class: "muted spoken", role: "status" });
  const select = h("select", { disabled: app.saved, on: { change: () => {
    app.state.decode = Number(select.value);
    measure(root, app, said, true);
  } } }, ...[...new Set([...COUNTS, app.state.decode])].sort((a, b) => a - b).map((count) => h("option", { value: count, selected: count === app.state.decode, text: number(count) })));
  const again = h("button", { type: "button", class: "button needs-server", text: t("time.again"), on: { click: () => measure(root, app, said, false) } });
  return h("div", { class: "card" },
    h("h2", { text: t("time.whole") }),
    h("p", { class: "muted note", text: result.engine }),
    isElsewhere(app) && h("p", { class: "muted note elsewhere", text: t("time.elsewhere", { step: number(app.state.checkpoint) }) }),
    h("div", { class: "row controls" }, h("label", { class: "row" }, h("span", { text: t("time.count") }), select), again, said),
    scrolling(t("time.whole"), h("table", { class: "whole" },
      h("thead", {}, h("tr", {}, h("td"), ...passes.map((name) => h("th", { scope: "col", class: "n", text: t(`time.${name}_of`, { tokens: number(tokensOf[name]), depth: number(result.depth) }) })))),
      h("tbody", {},
        row("sum", (name) => `${fixed(result[name].sum_us, 0)} µs`),
        row("forward", (name) => `${fixed(result[name].forward_us, 0)} µs`),
        row("difference", (name) => `${signed(100 * (result[name].sum_us / result[name].forward_us - 1), 1)}%`, (name) => !result[name].agrees && "n bad"),
        row("speed", (name) => fixed(tokensOf[name] / result[name].forward_us * 1e6, 1)),
        row("flops", (name) => quantity(sum(name, "flops"), "FLOP")),
        row("bytes", (name) => quantity(sum(name, "bytes"), "B"))))),
    passes.some((name) => !result[name].agrees) && h("p", { class: "disturbed", text: t("time.busy") }),
    result.decode === null && h("p", { class: "muted note", text: t("time.no_decode") }),
    h("p", { class: "muted note", text: t("time.ceilings", {
      flops: quantity(ceilings.flops_per_s, "FLOP/s"), dtype: ceilings.dtype, bytes: quantity(ceilings.read_bytes_per_s, "B/s"),
      device: ceilings.device, threads: number(ceilings.threads), at: ceilings.measured_at.slice(0, 10),
    }) }));
}

// --- The steps ---

/** The same step of all layers as one; what bounds most of its time bounds it. */
function summed(rows) {
  const groups = new Map();
  for (const row of rows) {
    const name = row.name.replace(/^blocks\.\d+\./, "");
    const group = groups.get(name) ?? { name, shape: row.shape, count: 0, parameters: 0, flops: 0, bytes: 0, us: 0, floor_us: 0, by: {} };
    for (const key of ["parameters", "flops", "bytes", "us", "floor_us"]) group[key] += row[key];
    group.count += 1;
    group.by[row.bound_by] = (group.by[row.bound_by] ?? 0) + row.us;
    groups.set(name, group);
  }
  return [...groups.values()].map(({ by, ...group }) => ({
    ...group, share: group.us > 0 ? group.floor_us / group.us : 0, bound_by: Object.keys(by).reduce((a, b) => (by[b] > by[a] ? b : a)),
  }));
}

function fillSteps(card, app, result, width) {
  const segments = (name, values, chosen, choose) => h("div", { class: "segments", role: "group", "aria-label": t(`time.${name}`) }, ...values.map((value) => h("button", {
    type: "button", "aria-pressed": String(value === chosen), "data-value": value, text: t(`time.${value}`), on: { click: () => {
      choose(value);
      fillSteps(card, app, result, width);
      card.querySelector(`[data-value=${value}]`).focus();
    } },
  })));
  const { rows, sum_us: total } = result[pass];
  const shown = every ? rows.map((row) => ({ ...row, count: 1 })) : summed(rows);
  const most = Math.max(...shown.map(({ us }) => us));
  const svg = passPicture(rows, width, t("time.pass_picture", { pass: t(`time.${pass}`) }));
  const column = (key, more = "") => h("th", { scope: "col", class: `n ${more}`, text: t(`time.${key}`) });
  const exact = (value, shownAs, more = "") => h("td", { class: `n ${more}`, title: number(value), text: value === 0 ? "–" : shownAs });
  card.replaceChildren(
    h("h2", { text: t("time.steps") }),
    h("p", { class: "muted note", text: t("time.steps_what") }),
    h("div", { class: "row" },
      segments("which_pass", PASSES.filter((name) => result[name] !== null), pass, (value) => (pass = value)),
      segments("which_rows", ["by_step", "by_layer"], every ? "by_layer" : "by_step", (value) => (every = value === "by_layer"))),
    legend(BOUNDS.map((bound) => [bound, t(`time.${bound}`)])),
    svg,
    scrolling(t("time.steps"), h("table", { class: "steps" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col", text: t("time.step") }), column("us"), column("part", "optional"), h("th", { scope: "col", text: t("time.bound_by") }), column("of_ceiling"), column("flops"), column("bytes"), column("parameters"), column("shape", "optional"))),
      h("tbody", {}, ...shown.map((row) => h("tr", { "data-step": row.name },
        h("th", { scope: "row" }, h("code", { text: row.name }), row.count > 1 && h("span", { class: "muted", text: ` ×${row.count}` }),
          h("small", { text: FORMULAS[row.name.replace(/^blocks\.\d+\./, "")] ?? (row.name === "python" ? t("time.python_what") : "") })),
        h("td", { class: `n bar ${row.bound_by}`, style: { "--w": `${(100 * row.us / most).toFixed(1)}%` }, text: fixed(row.us, 1) }),
        h("td", { class: "n optional", text: percent(row.us / total) }),
        h("td", {}, h("span", { class: `swatch ${row.bound_by}`, text: t(`time.${row.bound_by}`) })),
        h("td", { class: "n", text: row.floor_us > 0 ? percent(row.share) : "–" }),
        exact(row.flops, quantity(row.flops, "")), exact(row.bytes, quantity(row.bytes, "B")), exact(row.parameters, number(row.parameters)),
        h("td", { class: "n optional", text: row.shape.length ? row.shape.slice(1).join("×") : "–" }))))), every ? "tall" : ""));
  app.picture(svg, `steps-${pass}`);
}

// --- The roofline ---

function roof(app, result, width) {
  const points = [];
  const names = new Map();
  for (const name of PASSES.filter((one) => result[one] !== null)) {
    for (const row of summed(result[name].rows)) {
      if (row.flops === 0) continue;
      if (!names.has(row.name)) names.set(row.name, names.size + 1);
      points.push({ n: names.get(row.name), pass: name, name: row.name, x: row.flops / row.bytes, y: row.flops / row.us * 1e6, share: row.share });
    }
  }
  const svg = roofline(points, result.ceilings, Math.min(width, PICTURE_WIDTH));
  const column = (key, more = "n") => h("th", { scope: "col", class: more, text: t(`time.${key}`) });
  const card = h("div", { class: "card" },
    h("h2", { text: t("time.roofline") }),
    h("p", { class: "muted note", text: t("time.roofline_what") }),
    h("div", { class: "heat" }, h("div", {}, svg),
      h("div", {}, legend(PASSES.filter((name) => result[name] !== null).map((name) => [`at-${name}`, t(`time.${name}`)])), scrolling(t("time.roofline"), h("table", { class: "points" },
        h("thead", {}, h("tr", {}, column("step", ""), column("intensity"), column("reached"), column("of_ceiling"))),
        h("tbody", {}, ...points.map((point) => h("tr", {},
          h("th", { scope: "row" }, h("span", { class: `swatch at-${point.pass}` }), `${point.n} `, h("code", { text: point.name })),
          h("td", { class: "n", text: fixed(point.x, 2) }), h("td", { class: "n", text: quantity(point.y, "FLOP/s") }), h("td", { class: "n", text: percent(point.share) })))))))));
  app.picture(svg, "roofline");
  return card;
}

// --- The tokens ---

function means(timeline) {
  const mean = (key) => timeline.reduce((sum, entry) => sum + entry[key], 0) / timeline.length;
  const fact = (name, value) => h("span", { class: "fact" }, h("span", { class: "muted", text: name }), ` ${fixed(value, 1)} µs`);
  return h("p", { class: "row facts means" }, fact(t("time.mean"), mean("us")),
    ...SHARES.filter((share) => `${share}_us` in timeline[0]).map((share) => fact(t(`time.of_${share}`), mean(`${share}_us`))));
}
