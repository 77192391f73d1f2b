// What is changed in What if: {edits: {place: mode}, other, heat}, in the page's state, so that a saved page has it too.
// A place is "layer.head" or "layer.mlp"; `other` is the second prompt; `heat` is the request of the heat map that is shown,
// null, or of a link the token alone, until What if is opened and asks for it.

/** By mode, its letter in a link: "0.3z,1.mlpm,2.1p". */
const LETTERS = { zero: "z", mean: "m", patch: "p" };

/** What a link holds of it. */
export function readEdits(values) {
  const edits = {};
  for (const text of (values.get("edits") ?? "").split(",")) {
    const [, place, letter] = text.match(/^(\d+\.(?:\d+|mlp))([zmp])$/) ?? [];
    if (place) edits[place] = Object.keys(LETTERS).find((mode) => LETTERS[mode] === letter);
  }
  const heat = values.get("heat") ?? "";
  return { edits, other: values.get("other") ?? "", heat: /^\d+$/.test(heat) ? Number(heat) : null };
}

/** Puts it into a link. */
export function writeEdits(values, state) {
  const { edits, other, heat } = state.whatif;
  const places = Object.keys(edits).sort();
  if (places.length) values.set("edits", places.map((place) => place + LETTERS[edits[place]]).join(","));
  if (other !== "") values.set("other", other);
  if (Number.isInteger(heat)) values.set("heat", heat);
  else if (isOfNow(heat, state)) values.set("heat", heat.token);
}

/** Of a link's heat map the token, where `patch` changes what the link was of: nobody asked for one of that. */
export function forgetLinked(state, patch) {
  const changed = ["prompt", "tokens", "checkpoint", "position"].some((key) => key in patch);
  if (changed && !("whatif" in patch) && Number.isInteger(state.whatif.heat)) state.whatif = { ...state.whatif, heat: null };
}

/** The edits with one more; without it, where it is there. */
export function toggled(edits, place, mode) {
  const { [place]: before, ...rest } = edits;
  return before === mode ? rest : { ...rest, [place]: mode };
}

/** The edits of places that a model of this size has: a link may come from another. */
export function within(edits, { layers, heads }) {
  const has = ([layer, part]) => Number(layer) < layers && (part === "mlp" || Number(part) < heads);
  return Object.fromEntries(Object.entries(edits).filter(([place]) => has(place.split("."))));
}

export function usesPatch({ edits }) {
  return Object.values(edits).includes("patch");
}

/** The fields of a request that describe the edits. */
export function asked({ edits, other }) {
  const place = (key) => {
    const [layer, part] = key.split(".");
    return { layer: Number(layer), ...(part === "mlp" ? { mlp: true } : { head: Number(part) }) };
  };
  const of = (want) => Object.entries(edits).filter(([, mode]) => want(mode)).sort();
  const ablate = of((mode) => mode !== "patch").map(([key, mode]) => ({ ...place(key), with: mode }));
  const places = of((mode) => mode === "patch").map(([key]) => place(key));
  return { ...(ablate.length && { ablate }), ...(places.length && { patch: { prompt: other, places } }) };
}

/** The checkpoint that is looked at, where it is not the one that is served. */
export function at({ checkpoint }) {
  return checkpoint === null ? {} : { checkpoint };
}

/** What a heat map of what is seen now would be asked with, but for the token. */
export function heatAsked({ tokens, position, checkpoint, whatif }) {
  return { tokens, ...at({ checkpoint }), other: whatif.other, position };
}

/** Whether this request is of the prompts, the checkpoint and the position that are seen now. */
export function isOfNow(heat, state) {
  if (heat === null) return false;
  const { token: _, ...rest } = heat;
  return JSON.stringify(rest) === JSON.stringify(heatAsked(state));
}
