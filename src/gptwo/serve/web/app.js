// The shell: the prompt and its tokens, the panels, the state they share, and the link that restores it.

import { Api, ApiError } from "./api.js";
import { checkpointSlider, growSlider } from "./checkpoints.js";
import { debounced, h, roving } from "./dom.js";
import { forgetLinked } from "./edits.js";
import { LANGUAGES, language, preferred, number, scientific, t, use } from "./i18n.js";
import { askKey } from "./key.js";
import { readLink, writeLink } from "./link.js";
import { addSave, openShare, savedPage } from "./share.js";
import { describe, FULL_NATS, Strip } from "./strip.js";
import { textOf } from "./tokens.js";

const PANELS = {
  write: () => import("./panels/write.js"),
  equations: () => import("./panels/equations.js"),
  attention: () => import("./panels/attention.js"),
  layers: () => import("./panels/layers.js"),
  whatif: () => import("./panels/whatif.js"),
  time: () => import("./panels/time.js"),
  training: () => import("./panels/training.js"),
};
const TYPING_PAUSE_MS = 120;
// What is old fades only when it stays: the fading itself takes the processor's time from the model.
const FADE_AFTER_MS = 600;
const element = (id) => document.getElementById(id);

const saved = savedPage();
const listeners = new Set();
const link = saved ?? readLink(PANELS);
let panel = link.panel;
let panelWork = new AbortController();
let explained = null;
let promptWork = new AbortController();

/** What every panel is given, with a `signal` and an `on` of its own that end when it is closed or shown anew. */
const app = {
  api: new Api(saved?.replies ?? null, askKey),
  saved: saved !== null,
  t,
  state: { ...link.state, explanation: null },
  set,
  picture: addSave,
  writing,
  written,
  messageOf,
  ready,
  get language() {
    return language;
  },
};

const typed = debounced(() => set({ prompt: element("prompt").value }), TYPING_PAUSE_MS);
/** Of the last prompt: whether it was explained. */
let explaining = Promise.resolve(false);
const strip = new Strip(element("strip"), (position) => set({ position }));

/** Changes the state. A new prompt, tokens or checkpoint is explained; listeners to "change" hear of anything else. */
function set(patch) {
  Object.assign(app.state, patch);
  forgetLinked(app.state, patch);
  if ("prompt" in patch) Object.assign(app.state, { given: "prompt", start: null });
  if ("tokens" in patch) Object.assign(app.state, { given: "tokens", start: patch.start ?? null });
  remember();
  if (["prompt", "tokens", "checkpoint"].some((key) => key in patch)) return (explaining = explainPrompt("position" in patch));
  if ("position" in patch) showPosition();
  if ("checkpoints" in patch) {
    app.model.checkpoints = patch.checkpoints;
    growSlider(element("checkpoint"), app);
  }
  for (const fn of [...listeners]) fn(patch);
  return Promise.resolve();
}

/** Waits for what was typed last to be explained. False: it was refused, which the page says. */
async function ready() {
  let latest = null;
  let done = false;
  while (typed.flush() || latest !== explaining) {
    latest = explaining;
    done = await latest.catch(() => false);
  }
  return done === true;
}

/** Whether it was done: not refused, and not given up for a later prompt. */
async function explainPrompt(keepPosition) {
  const { prompt, tokens, checkpoint, given } = app.state;
  promptWork.abort();
  promptWork = new AbortController();
  const { signal } = promptWork;
  const asked = JSON.stringify(given === "tokens" ? tokens : prompt);
  if (asked !== explained) app.api.forget();
  explained = asked;
  const fading = setTimeout(() => document.body.classList.add("fading"), FADE_AFTER_MS);
  document.body.classList.add("busy");
  try {
    if (!app.model) await meetModel();
    if (given === "prompt" && prompt === "") return say(t("shell.empty"));
    const body = { ...(given === "tokens" ? { tokens } : { prompt }), ...(checkpoint !== null && { checkpoint }) };
    const explanation = await app.api.explain(body, { signal });
    const last = explanation.tokens.length - 1;
    const position = keepPosition ? Math.min(app.state.position ?? last, last) : last;
    Object.assign(app.state, { explanation, position, tokens: explanation.tokens.map((token) => token.id) });
    if (given === "tokens") {
      app.state.prompt = textOf(explanation.tokens);
      fillPrompt(app.state.prompt);
    }
    say("");
    remember();
    showExplanation();
    await showPanel({ again: true });
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    say(messageOf(error));
    if (!(error instanceof ApiError)) throw error;
    return false;
  } finally {
    clearTimeout(fading);
    if (!signal.aborted) document.body.classList.remove("busy", "fading");
  }
  return undefined;
}

function showExplanation() {
  const { explanation, position } = app.state;
  strip.show(explanation, position);
  showPosition();
  const { badge } = explanation;
  const button = element("badge");
  button.hidden = false;
  button.className = `badge ${badge.ok ? "good" : "bad"}`;
  button.replaceChildren(t(badge.ok ? "shell.badge_good" : "shell.badge_bad", { engine: badge.engine.match(/^\w+/)[0], largest: scientific(badge.largest) }));
  element("badge-text").replaceChildren(
    h("p", { text: t("shell.badge_what", { engine: badge.engine, largest: scientific(badge.largest), tolerance: scientific(badge.tolerance) }) }),
    h("p", { class: "muted", text: t("shell.badge_why") }),
  );
}

function showPosition() {
  const { explanation, position } = app.state;
  if (!explanation) return;
  strip.position = position;
  element("chosen").replaceChildren(...describe(explanation, position));
}

async function showPanel({ again = false } = {}) {
  panelWork.abort();
  panelWork = new AbortController();
  const { signal } = panelWork;
  for (const tab of element("tabs").children) {
    tab.setAttribute("aria-selected", tab.id === `tab-${panel}`);
    tab.tabIndex = tab.id === `tab-${panel}` ? 0 : -1;
  }
  const section = element("panel");
  section.setAttribute("aria-labelledby", `tab-${panel}`);
  section.setAttribute("aria-busy", "true");
  let root = section.firstElementChild;
  try {
    const module = await PANELS[panel]();
    if (signal.aborted) return;
    // A panel that keeps its root changes what is there; any other begins with an empty one, of the same height.
    if (!(again && module.keeps && root?.dataset.panel === panel)) {
      section.style.minHeight = again ? `${section.offsetHeight}px` : "";
      root = h("div", { class: `panel-${panel}`, "data-panel": panel });
      section.replaceChildren(root);
    }
    if (app.state.explanation || module.id === "training") await module.show(root, panelApp(signal));
  } catch (error) {
    if (!signal.aborted) root.append(h("p", { class: "problem", role: "alert", text: messageOf(error) }));
    if (!signal.aborted && !(error instanceof ApiError)) throw error;
  } finally {
    if (!signal.aborted) {
      section.style.minHeight = "";
      section.dataset.shown = panel;
      section.setAttribute("aria-busy", "false");
    }
  }
}

function panelApp(signal) {
  const on = (event, fn) => {
    listeners.add(fn);
    signal.addEventListener("abort", () => listeners.delete(fn));
  };
  return Object.create(app, { signal: { value: signal }, on: { value: on } });
}

/** Keeps the address true. That of a saved page is its file's, and stays. */
function remember(push = false) {
  if (!app.saved) writeLink(panel, app.state, push);
}

function open(name, { push = true } = {}) {
  panel = name;
  remember(push);
  return showPanel();
}

/** Has a panel ask for all of the prompt that it shows only when one scrolls to it. */
async function gather(name) {
  const module = await PANELS[name]();
  await module.gather?.(app);
}

/** While a panel writes, each token is put after the last. It begins with `writing(null, kept)`: those that stay. */
function writing(token, value) {
  element("prompt").readOnly = true;
  if (token === null) strip.keep(value);
  else strip.append(token, value);
}

/** The end of what `writing` began. */
function written() {
  element("prompt").readOnly = app.saved;
}

function fillPrompt(text) {
  const box = element("prompt");
  if (box.value !== text) box.value = text;
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 160)}px`;
}

function say(message) {
  element("problem").textContent = message;
  element("problem").hidden = message === "";
}

function messageOf(error) {
  if (error.code === "saved") return t("share.not_saved");
  return error instanceof ApiError ? error.message : t("shell.fault", { error: error.message });
}

async function speak(name, { again = true } = {}) {
  await use(name, (file) => saved?.strings[file] ?? fetch(`/web/${file}.json`).then((reply) => reply.json()));
  const tabs = Object.keys(PANELS).map((id) =>
    h("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "panel", text: t(`${id}.tab`), on: { click: () => open(id) } }));
  element("tabs").replaceChildren(...tabs);
  for (const button of element("languages").children) button.setAttribute("aria-pressed", button.dataset.lang === name);
  element("scale-end").textContent = t("shell.scale_end", { nats: number(FULL_NATS, 0) });
  if (!again) return;
  if (app.model) {
    nameModel();
    checkpointSlider(element("checkpoint"), app);
  }
  if (!saved) {
    const url = new URL(location.href);
    url.searchParams.set("lang", name);
    history.replaceState(null, "", url);
  }
  if (app.state.explanation) showExplanation();
  await showPanel();
}

async function start() {
  await speak(saved?.language ?? preferred(), { again: false });
  roving(element("tabs"), () => [...element("tabs").children], { choose: (tab) => tab.click() });
  for (const button of element("languages").children) button.addEventListener("click", () => speak(button.dataset.lang));
  element("share").addEventListener("click", () => openShare(app, { panels: Object.keys(PANELS), panel, open, gather }));
  element("skip").addEventListener("click", (event) => {
    event.preventDefault();
    element("panel").focus();
  });
  element("prompt").addEventListener("input", () => {
    fillPrompt(element("prompt").value);
    typed();
  });
  element("prompt").readOnly = app.saved;
  addEventListener("hashchange", () => {
    const next = readLink(PANELS);
    panel = next.panel;
    restore(next.state);
  });
  document.body.classList.toggle("saved", app.saved);
  fillPrompt(app.state.prompt ?? "");
  return restore(app.state);
}

/** Asked before the first prompt, and with later ones until the server has answered. */
async function meetModel() {
  app.model = await app.api.json("/explain/model", undefined, { keep: true });
  nameModel();
  checkpointSlider(element("checkpoint"), app);
  document.title = `${app.model.name} · gptwo`;
}

function nameModel() {
  const { name, parameters, description } = app.model;
  element("model").textContent = t("shell.model", { name, parameters: number(parameters) });
  element("model").title = description;
}

function restore({ given, ...state }) {
  delete state[given === "tokens" ? "prompt" : "tokens"];
  return set(state);
}

start();
