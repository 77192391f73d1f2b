// Write: the model goes on from the prompt, and each token shows what it was drawn from.

import { isElsewhere } from "../checkpoints.js";
import { debounced, h } from "../dom.js";
import { fixed, number, percent, t } from "../i18n.js";
import { plain, visible } from "../tokens.js";

export const id = "write";
export const keeps = true;

const TOP = 20;
const LENGTHS = [1, 10, 20, 50, 100, 200];
const SLIDERS = [
  { name: "temperature", min: 0, max: 2, step: 0.05, digits: 2 },
  { name: "top_k", min: 0, max: 200, step: 1, digits: 0, off: 0 },
  { name: "top_p", min: 0.05, max: 1, step: 0.01, digits: 2, off: 1 },
  { name: "min_p", min: 0, max: 0.5, step: 0.01, digits: 2, off: 0 },
];
const SLIDER_PAUSE_MS = 40;

let length = 20;
let looking = new AbortController();
/** Whether the table is of what stands at the chosen place, or of what comes after it; null: as fits the place. */
let afterwards = null;
let running = null;

export async function show(root, app) {
  if (!root.firstChild || (!running && !agrees(root, app.state.settings))) build(root, app);
  const view = root.querySelector(".distribution");
  app.on("change", (patch) => {
    if ("position" in patch) afterwards = null;
    if ("position" in patch || "settings" in patch) refresh(view, app);
  });
  afterwards = null;
  served(root, app);
  await refresh(view, app);
}

/** Whether the controls show these settings: a link, or going back, brings others. */
function agrees(root, settings) {
  return [...root.querySelectorAll("[data-setting]")].every((input) => input.valueAsNumber === settings[input.dataset.setting]);
}

function build(root, app) {
  const { settings } = app.state;
  const change = debounced((patch) => app.set({ settings: { ...app.state.settings, ...patch } }), SLIDER_PAUSE_MS);
  const sliders = SLIDERS.map(({ name, min, max, step, digits, off }) => {
    const shown = (value) => (value === off ? t("write.off") : number(value, digits));
    const output = h("output", { text: shown(settings[name]) });
    const input = h("input", {
      type: "range", min, max, step, value: settings[name], disabled: app.saved, "data-setting": name, on: {
        input: () => {
          output.textContent = shown(input.valueAsNumber);
          change({ [name]: input.valueAsNumber });
        },
      },
    });
    return h("label", { class: "field" }, h("span", { text: t(`write.${name}`) }), output, input);
  });
  const seed = h("input", {
    type: "number", min: 0, max: 2 ** 32 - 1, step: 1, required: true, value: settings.seed, disabled: app.saved, "data-setting": "seed", on: {
      input: () => seed.validity.valid && change({ seed: seed.valueAsNumber }),
      // What is no seed is marked as long as one writes; the one that holds comes back then.
      blur: () => {
        change.flush();
        if (!seed.validity.valid) seed.value = app.state.settings.seed;
      },
    },
  });
  const dice = h("button", {
    type: "button", class: "quiet", text: t("write.another_seed"), disabled: app.saved, on: {
      click: () => {
        seed.value = Math.floor(Math.random() * 2 ** 32);
        change({ seed: seed.valueAsNumber });
      },
    },
  });
  const most = h("select", { on: { change: () => (length = Number(most.value)) } },
    ...LENGTHS.map((n) => h("option", { value: n, selected: n === length, text: number(n) })));
  root.replaceChildren(
    h("p", { class: "lede", text: t("write.lede") }),
    h("div", { class: "columns" },
      h("div", { class: "card stack controls" },
        h("div", { class: "row needs-server" },
          h("button", { type: "button", class: "button primary go", text: t("write.go"), on: { click: () => (running ? running.abort() : write(root, app)) } }),
          h("span", { class: "muted spoken", role: "status" })),
        h("p", { class: "muted elsewhere", hidden: true }),
        ...sliders,
        h("label", { class: "field" }, h("span", { text: t("write.seed") }), seed),
        h("p", { class: "needs-server" }, dice),
        h("label", { class: "field needs-server" }, h("span", { text: t("write.length") }), most)),
      h("div", { class: "card distribution" })));
}

/** Another checkpoint than the one that is served can be looked at, and doesn't write. */
function served(root, app) {
  const { checkpoint } = app.state;
  const other = isElsewhere(app);
  root.querySelector(".go").disabled = other && !running;
  const note = root.querySelector(".elsewhere");
  note.hidden = !other;
  note.textContent = other ? t("write.elsewhere", { step: number(checkpoint) }) : "";
}

/** Goes on from the prompt as it stands in its box, or `from` tokens of what is shown. */
async function write(root, app, from = null) {
  const shown = app.state.explanation;
  const waiting = new AbortController();
  running = waiting;
  const ready = await app.ready();
  running = null;
  // Text that is being typed is not to be lost: nothing is written from what stood there before.
  if (waiting.signal.aborted || (ready && from && shown !== app.state.explanation)) return undefined;
  if (!ready) return void (root.querySelector(".spoken").textContent = t("write.no_prompt"));
  return goOn(root, app, from ?? app.state.tokens);
}

async function goOn(root, app, from) {
  const go = root.querySelector(".go");
  const spoken = root.querySelector(".spoken");
  const room = app.model.context - from.length;
  if (room < 1) {
    spoken.textContent = t("write.full", { most: number(app.model.context) });
    return;
  }
  running = new AbortController();
  go.textContent = t("write.stop");
  spoken.textContent = "";
  const ids = [...from];
  let ended = false;
  const body = { prompt: from, max_tokens: Math.min(length, room), stream: true, logprobs: 0, return_token_ids: true, ...policy(app.state.settings) };
  const begun = performance.now();
  try {
    app.writing(null, from.length);
    for await (const { choices } of app.api.stream("/v1/completions", body, { signal: running.signal })) {
      for (const { token_ids: more, logprobs } of choices) {
        more.forEach((token, i) => {
          ended = token === app.model.special.eot;
          if (ended) return;
          ids.push(token);
          app.writing({ text: nameText(logprobs.tokens[i]) }, -logprobs.token_logprobs[i]);
        });
      }
      const count = ids.length - from.length;
      spoken.textContent = t("write.speed", { n: number(count), speed: number(count / ((performance.now() - begun) / 1000), 0) });
    }
    if (ended) spoken.textContent = t("write.ended");
  } catch (error) {
    if (error.name !== "AbortError") spoken.textContent = error.message;
  } finally {
    running = null;
    go.textContent = t("write.go");
    app.written();
  }
  await app.set({ tokens: ids, start: from.length, position: ids.length - 1 });
}

/** The settings that do something: a filter that is off is left out. */
function policy(settings) {
  const off = new Map(SLIDERS.map((slider) => [slider.name, slider.off]));
  return Object.fromEntries(Object.entries(settings).filter(([name, value]) => value !== off.get(name)));
}

/** A token's text as the API names it: "bytes:\xe2\x82" is a piece of a character. */
function nameText(name) {
  return name.startsWith("bytes:\\x") ? name.slice(6).replace(/\\x(..)/g, (_, hex) => `⟨${hex.toUpperCase()}⟩`) : name;
}

async function refresh(view, app) {
  looking.abort();
  looking = new AbortController();
  const asking = { signal: AbortSignal.any([looking.signal, app.signal]) };
  const { explanation, position, settings, start } = app.state;
  const last = explanation.tokens.length - 1;
  const after = position === 0 ? true : (afterwards ?? position === last);
  const from = after ? position : position - 1;
  // What comes after the last token is the first draw of what would be written next.
  const step = from === last ? 0 : Math.max(0, from + 1 - (start ?? explanation.tokens.length));
  const path = `/explain/prompt/${explanation.id}`;
  const [next, sampling] = await Promise.all([
    app.api.json(`${path}/next?position=${from}&k=${TOP}`, undefined, asking),
    app.api.json(`${path}/sampling`, { position: from, ...policy(settings), step }, asking),
  ]).catch((error) => {
    // What was there is of another token, or drawn with other settings.
    if (error.name !== "AbortError") view.replaceChildren(h("p", { class: "problem", role: "alert", text: app.messageOf(error) }));
    return [];
  });
  if (!next || asking.signal.aborted) return;
  const focused = view.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  view.replaceChildren(...distribution(view, app, { after, from, step, next, sampling }));
  if (focused) view.querySelector(`[data-key="${focused}"]`)?.focus();
}

function distribution(view, app, { after, from, step, next, sampling }) {
  const { explanation, position } = app.state;
  const { tokens } = explanation;
  const word = () => h("b", { class: "word" }, ...visible(tokens[position]));
  const choose = (value, key, disabled) => h("button", {
    type: "button", "aria-pressed": String(after === value), text: t(`write.${key}`), disabled, "data-key": key,
    on: {
      click: () => {
        afterwards = value;
        refresh(view, app);
      },
    },
  });
  return [
    h("div", { class: "row head" },
      h("h2", {}, after ? t("write.after_title") : t("write.place_title"), " ", word()),
      h("div", { class: "segments", role: "group", "aria-label": t("write.which") }, choose(false, "place", position === 0), choose(true, "after", false))),
    h("p", { class: "row facts" },
      fact("entropy", t("write.nats", { nats: fixed(next.entropy, 3) })),
      fact("effective", number(Math.exp(next.entropy), 1)),
      fact("drawn", h("b", { class: "word" }, ...visible(sampling.drawn)))),
    table(app, { after, from, next, sampling }),
    h("p", { class: "muted legend" }, h("span", { text: t("write.legend_drawn") }), from + 1 < tokens.length && h("span", { class: "stands", text: t("write.legend_actual") })),
    ...draw(app, step, sampling),
  ];
}

/** The number that was drawn, and the share of [0, 1) that is the token's. */
function draw(app, step, { stages, drawn }) {
  if (drawn.u === null) return [h("p", { class: "muted note", text: t("write.greedy", { token: plain(drawn) }) })];
  const p = stages.at(-1).top.find((entry) => entry.id === drawn.id)?.p ?? drawn.high - drawn.low;
  const values = { seed: String(app.state.settings.seed), step: number(step), u: fixed(drawn.u, 4), low: fixed(drawn.low, 4), high: fixed(drawn.high, 4), token: plain(drawn), p: percent(p) };
  return [
    h("div", { class: "draw", "aria-hidden": "true", style: { "--low": `${100 * drawn.low}%`, "--width": `${100 * (drawn.high - drawn.low)}%`, "--u": `${100 * drawn.u}%` } }, h("i"), h("b")),
    h("p", { class: "muted note", text: t("write.draw", values) }),
  ];
}

function fact(key, ...value) {
  return h("span", { class: "fact" }, h("span", { class: "muted", text: t(`write.${key}`) }), " ", ...value);
}

function table(app, { after, from, next, sampling }) {
  const { tokens } = app.state.explanation;
  const actual = after ? tokens[from + 1]?.id : tokens[app.state.position].id;
  const stages = sampling.stages.map((stage) => ({ ...stage, by: new Map(stage.top.map((entry) => [entry.id, entry])) }));
  const highest = Math.max(...stages.flatMap((stage) => stage.top.map((entry) => entry.p)));
  // The token drawn and the one that stands there, where they are not among the most probable.
  const known = new Set(next.top.map((entry) => entry.id));
  const beyond = stages[0].top.filter((entry) => !known.has(entry.id)).map((entry) => ({ ...entry, logit: entry.value }));
  const rows = [...next.top, ...beyond].map((entry, i) => {
    const drawn = entry.id === sampling.drawn.id;
    const take = h("button", {
      type: "button", class: "take", disabled: app.saved, "data-key": `take-${entry.id}`, title: t("write.take", { token: plain(entry) }), "aria-label": t("write.take", { token: plain(entry) }),
      on: { click: () => write(document.querySelector(".panel-write"), app, [...tokens.slice(0, from + 1).map((token) => token.id), entry.id]) },
    }, ...visible(entry, { most: 16 }));
    return h("tr", { class: `${drawn ? "drawn" : ""} ${entry.id === actual ? "actual" : ""} ${i >= next.top.length ? "beyond" : ""}` },
      h("th", { scope: "row" }, take),
      h("td", { class: "n id", text: String(entry.id) }),
      h("td", { class: "n", text: fixed(entry.logit) }),
      probability(entry.p, highest),
      ...stages.slice(1).map((stage) => (stage.by.has(entry.id) ? probability(stage.by.get(entry.id).p, highest) : h("td", { class: "n gone" }, h("span", { role: "img", "aria-label": t("write.removed"), text: "–" })))));
  });
  return h("div", { class: "scroll" }, h("table", { class: "pipeline" },
    h("thead", {}, h("tr", {},
      h("th", { scope: "col", text: t("write.token") }),
      h("th", { scope: "col", class: "n id", text: t("write.id") }),
      h("th", { scope: "col", class: "n", text: t("write.logit") }),
      h("th", { scope: "col", class: "n", text: t("write.softmax") }),
      ...stages.slice(1).map((stage) => h("th", { scope: "col", class: "n" }, t(`write.stage_${stage.name}`), h("small", { text: t("write.kept", { n: number(stage.kept) }) }))))),
    h("tbody", {}, ...rows)));
}

function probability(p, highest) {
  return h("td", { class: "n bar", style: { "--w": `${(100 * p / highest).toFixed(1)}%` }, text: percent(p) });
}
