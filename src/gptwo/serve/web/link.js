// The link that restores what is seen: the panel, the prompt, what is chosen in it, the sampling settings, and what is changed.

import { readEdits, writeEdits } from "./edits.js";

const DEFAULT_PROMPT = "When Mary and John went to the store, John gave a drink to";
const SETTINGS = { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0, seed: 1 };
const CHOSEN = ["position", "key", "layer", "head", "checkpoint"];

/** {panel, state} of the address as it stands. */
export function readLink(panels) {
  const [name, query] = location.hash.slice(1).split("?");
  const values = new URLSearchParams(query);
  const numberOf = (key) => {
    const text = values.get(key);
    return text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : null;
  };
  const tokens = values.get("tokens")?.split(".").map(Number);
  const byTokens = tokens?.every(Number.isInteger) ?? false;
  const settings = Object.fromEntries(Object.entries(SETTINGS).map(([key, value]) => [key, numberOf(key) ?? value]));
  const chosen = Object.fromEntries(CHOSEN.map((key) => [key, numberOf(key)]));
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

/** Puts it into the address; `push`: as a page of its own to go back from. */
export function writeLink(panel, state, push) {
  const values = new URLSearchParams();
  // Tokens that were given as such may be cut otherwise when their text is read again.
  if (state.given === "tokens") values.set("tokens", state.tokens.join("."));
  else values.set("prompt", state.prompt);
  for (const key of CHOSEN) if (state[key] !== null && state[key] !== undefined) values.set(key, state[key]);
  for (const [key, value] of Object.entries(SETTINGS)) if (state.settings[key] !== value) values.set(key, state.settings[key]);
  writeEdits(values, state.whatif);
  history[push ? "pushState" : "replaceState"](null, "", `#${panel}?${values}`);
}
