// Attention: all heads small, one of them tokens × tokens, and of one pair q, k and v.

import { Heads } from "../attention/heads.js";
import { Matrix } from "../attention/matrix.js";
import { Pair } from "../attention/pair.js";
import { Weights } from "../attention/weights.js";
import { debounced, h } from "../dom.js";
import { t } from "../i18n.js";

export const id = "attention";
export const keeps = true;

// While keys are held down, only the last pair is looked at.
const PAUSE_MS = 60;

/** The tokens that the chosen key is one of. */
let shown = null;

export async function show(root, app) {
  const { explanation, tokens } = app.state;
  const count = tokens.length;
  if (shown !== null && shown !== tokens.join()) app.set({ key: null });
  shown = tokens.join();
  const thumbnails = await app.api.array(`/explain/prompt/${explanation.id}/attention`, app);
  app.signal.throwIfAborted();
  const heads = new Heads({ thumbnails, count, signal: app.signal, choose: (layer, head) => app.set({ layer, head }) });
  const choose = (position, key) => app.set({ position, key });
  const matrix = new Matrix({ app, tokens: explanation.tokens, choose });
  const pair = new Pair({ app, choose });
  const title = h("h2");
  const zoomed = h("div", { class: "card zoomed" }, h("div", { class: "row head" }, title, matrix.controls), matrix.node);
  root.replaceChildren(
    h("p", { class: "lede", text: t("attention.lede") }),
    h("div", { class: "stack" },
      h("div", { class: "columns attention" },
        h("div", { class: "card" }, h("h2", { text: t("attention.all") }), h("p", { class: "muted note", text: t("attention.all_what") }), heads.node),
        zoomed),
      pair.node,
      h("p", { class: "muted note", text: t("attention.reference") })));
  app.picture(heads.canvas, "heads", heads.node);
  app.picture(matrix.canvas, "attention", matrix.node);
  pair.saved(app.picture);

  const open = () => {
    const { layer, head } = chosenHead(app, thumbnails);
    heads.mark(layer, head);
    title.textContent = t("attention.head_at", { layer, head });
    const weights = new Weights({ api: app.api, id: explanation.id, layer, head, count, base: heads.of(layer, head), changed: () => matrix.changed(), signal: app.signal });
    matrix.open(weights, t("attention.matrix", { layer, head, n: count }));
  };
  const look = async () => {
    const { position, key } = app.state;
    const query = Math.min(position, count - 1);
    const given = key !== null && key <= query ? key : null;
    // Before the strongest key is known, the token itself is marked.
    matrix.mark(query, given ?? query);
    const found = await pair.show({ ...chosenHead(app, thumbnails), query, key: given });
    if (found !== null && !app.signal.aborted) matrix.mark(query, found.key, found.weight);
  };
  const lookSoon = debounced(() => app.signal.aborted || look(), PAUSE_MS);
  app.on("change", (patch) => {
    if ("layer" in patch || "head" in patch) open();
    // Of another token chosen in the strip, another key is of interest.
    if ("position" in patch && !("key" in patch)) return app.set({ key: null });
    if ("key" in patch) matrix.mark(app.state.position, app.state.key ?? app.state.position);
    if (!["layer", "head", "key"].some((name) => name in patch)) return undefined;
    pair.node.classList.add("working");
    return lookSoon();
  });
  open();
  await Promise.all([matrix.settled, look()]);
}

/** The head of the link, where the model has it. */
function chosenHead({ state }, { shape: [layers, heads] }) {
  return { layer: Math.min(state.layer, layers - 1), head: Math.min(state.head, heads - 1) };
}
