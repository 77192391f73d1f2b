// Training: the log of the run, and how this prompt fared at each checkpoint that was looked at.

import { lineChart } from "../chart.js";
import { h } from "../dom.js";
import { fixed, number, percent, t } from "../i18n.js";
import { visible } from "../tokens.js";

export const id = "training";
export const keeps = true;

const POLL_MS = 3000;

let log = null;
/** What the checkpoints made of one prompt: {tokens: its ids, by: step → explanation}. */
let seen = { tokens: "", by: new Map() };

export async function show(root, app) {
  if (app.model.checkpoints === null) {
    root.replaceChildren(h("p", { class: "lede", text: t("training.none") }));
    return;
  }
  log = await app.api.json("/explain/training", undefined, app);
  remember(app);
  render(root, app);
  if (!app.saved) follow(root, app);
}

/** While the run goes on, asks for what is new. */
async function follow(root, app) {
  while (log.live && !app.signal.aborted) {
    await new Promise((done) => {
      setTimeout(done, POLL_MS);
    });
    const last = log.records.at(-1)?.step ?? -1;
    const more = await app.api.json(`/explain/training?after=${last}`, undefined, { ...app, keep: false }).catch(() => null);
    if (app.signal.aborted || more === null) return;
    if (more.records.length === 0 && more.live && more.checkpoints.length === log.checkpoints.length) continue;
    log = { ...more, records: [...log.records, ...more.records] };
    app.set({ checkpoints: more.checkpoints });
    render(root, app);
  }
}

function remember({ state }) {
  const { explanation, tokens, checkpoint } = state;
  if (!explanation) return;
  if (seen.tokens !== tokens.join()) seen = { tokens: tokens.join(), by: new Map() };
  seen.by.set(checkpoint ?? explanation.checkpoint, explanation);
}

function render(root, app) {
  const { records } = log;
  const { checkpoints } = app.model;
  const points = (key) => records.filter((record) => Number.isFinite(record[key])).map((record) => [record.step, record[key]]);
  const marked = app.state.checkpoint ?? app.state.explanation?.checkpoint ?? null;
  const chart = (title, unit, series, options = {}) => {
    const figure = lineChart({ title, unit, series, marks: checkpoints, marked, signal: app.signal, ...options });
    return h("div", { class: "card" }, figure);
  };
  const small = (key, unit, digits) => chart(t(`training.${key}`), unit, [{ name: "second", label: "", points: points(key) }], { height: 140, digits });
  const loss = chart(t("training.loss"), t("training.nats"), [
    { name: "first", label: t("training.train"), points: points("loss") },
    { name: "second", label: t("training.validation"), points: points("val_loss"), dots: true },
  ]);
  root.replaceChildren(
    h("p", { class: "lede", text: t("training.lede") }),
    h("div", { class: "stack" },
      log.live && h("p", { class: "live", role: "status", text: t("training.live", { step: number(records.at(-1)?.step ?? 0) }) }),
      loss,
      h("div", { class: "thirds" }, small("lr", "", 6), small("gradient_norm", "", 2), small("tokens_per_s", "", 0)),
      checkpointsSeen(app)));
  app.picture(loss.querySelector("svg"), "loss");
}

function checkpointsSeen(app) {
  const steps = [...seen.by.keys()].sort((a, b) => a - b);
  const rows = steps.map((step) => {
    const { surprisal, top } = seen.by.get(step);
    const known = surprisal.filter((nats) => nats !== null);
    const mean = known.reduce((sum, nats) => sum + nats, 0) / known.length;
    return h("tr", { class: step === app.state.checkpoint ? "current" : "" },
      h("th", { scope: "row", class: "n", text: step === undefined ? t("training.served") : number(step) }),
      h("td", { class: "n", text: known.length ? fixed(mean, 3) : "–" }),
      h("td", {}, h("span", { class: "guesses" }, ...top.at(-1).map((entry) =>
        h("span", { class: "guess" }, h("b", { class: "word" }, ...visible(entry, { most: 14 })), " ", h("span", { class: "muted", text: percent(entry.p) }))))));
  });
  return h("div", { class: "card" },
    h("h2", { text: t("training.seen") }),
    h("p", { class: "muted note", text: t("training.seen_what") }),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {},
        h("th", { scope: "col", class: "n", text: t("training.step") }),
        h("th", { scope: "col", class: "n", text: t("training.mean_surprisal") }),
        h("th", { scope: "col", text: t("training.next") }))),
      h("tbody", {}, ...rows))));
}
