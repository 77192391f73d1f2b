// The link that restores what is seen: the panel, the prompt, what is chosen in it, the sampling settings, and what is changed.

import { readEdits, writeEdits } from "./edits.js";

const DEFAULT_PROMPT = "When Mary and John went to the store, John gave a drink to";
const SETTINGS = { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0, seed: 1 };
/** The least and the most of each setting: what a link gives beyond is brought inside. */
const LIMITS = { temperature: [0, 2], top_k: [0, 200], top_p: [0.05, 1], min_p: [0, 0.5], seed: [0, 2 ** 32 - 1] };
const WHOLE = ["top_k", "seed"];
/** `start`: of tokens that were written, how many were there before. The number of a draw counts from those. */
const CHOSEN = ["position", "key", "layer", "head", "checkpoint", "start"];

/** {panel, state} of the address as it stands. */
export function readLink(panels) {
  const [name, query] = location.hash.slice(1).split("?");
  const values = new URLSearchParams(query);
  const numberOf = (key) => {
    const text = values.get(key);
    return text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : null;
  };
  // Of an empty text Number makes 0, which is a token.
  const tokens = values.get("tokens")?.split(".").map((text) => (/^\d+$/.test(text) ? Number(text) : NaN));
  const byTokens = tokens?.every(Number.isInteger) ?? false;
  const settings = Object.fromEntries(Object.entries(SETTINGS).map(([key, value]) => [key, inside(key, numberOf(key) ?? value)]));
  const chosen = Object.fromEntries(CHOSEN.map((key) => [key, placeOf(numberOf(key))]));
  return {
    panel: name in panels ? name : "write",
    state: {
      prompt: values.get("prompt") ?? DEFAULT_PROMPT,
      tokens: byTokens ? tokens : null,
      given: byTokens ? "tokens" : "prompt",
      ...chosen,
      layer: chosen.layer ?? 0,
      head: chosen.head ?? 0,
      settings,
      whatif: readEdits(values),
    },
  };
}

function inside(key, value) {
  const [least, most] = LIMITS[key];
  const within = Math.min(Math.max(value, least), most);
  return WHOLE.includes(key) ? Math.round(within) : within;
}

/** A place is counted from 0; what is none is as if it were not there. */
function placeOf(value) {
  return Number.isInteger(value) && value >= 0 ? value : null;
}

/** Puts it into the address; `push`: as a page of its own to go back from. */
export function writeLink(panel, state, push) {
  const values = new URLSearchParams();
  // Tokens that were given as such may be cut otherwise when their text is read again.
  if (state.given === "tokens") values.set("tokens", state.tokens.join("."));
  else values.set("prompt", state.prompt);
  for (const key of CHOSEN) if (state[key] !== null && state[key] !== undefined) values.set(key, state[key]);
  for (const [key, value] of Object.entries(SETTINGS)) if (state.settings[key] !== value) values.set(key, state.settings[key]);
  writeEdits(values, state);
  history[push ? "pushState" : "replaceState"](null, "", `#${panel}?${values}`);
}
