// One step of the forward pass as a card: formula, shape, tensor, and the chosen entry.

import { h, roving } from "../dom.js";
import { formula, lines } from "../formula.js";
import { figures, number, percent, t } from "../i18n.js";
import { fullOf } from "../palette.js";
import { MOST_LABELS, Picture } from "../pictures.js";
import { plain, visible } from "../tokens.js";
import { entryNodes, maskedNodes } from "./entry.js";
import { INDICES } from "./steps.js";

/** `view` has what is shown, as `around` and `app`, and takes what is chosen: `choose({letter: value})`. */
export class Step {
  #view;
  #pictures;
  #entry = h("div", { class: "numbers" });
  #inputs = h("p", { class: "row indices" });
  #said = h("p", { class: "muted note", hidden: true });
  #place = h("span", { class: "place", "aria-hidden": "true" });
  #what = h("p", { class: "note" });
  #shape = h("p", { class: "shape" });
  #bars = null;
  #fields = null;
  #active = null;
  #drawn = "";
  #entryDrawn = "";

  constructor(definition, view, signal) {
    this.definition = definition;
    this.#view = view;
    this.title = t(`equations.step_${definition.id}`);
    this.#pictures = definition.pictures.map((picture) => ({ ...picture, view: this.#picture(picture, signal) }));
    this.#active = this.#pictures.at(definition.three ? 0 : -1);
    if (definition.bars) this.#bars = h("div", { class: "shares", role: "group", "aria-label": this.title });
    const pictures = this.#pictures.map((picture) => h("div", {}, this.#pictures.length > 1 && h("p", { class: "letter" }, formula(picture.symbol)), picture.view.node));
    const beside = definition.pictures[0].cell !== undefined;
    this.node = h("article", { class: "card step", id: `step-${definition.id}`, tabindex: -1, "aria-labelledby": `title-${definition.id}` },
      h("header", {},
        h("h3", { id: `title-${definition.id}` }, this.#place, this.title),
        this.#shape),
      this.#what,
      h("div", { class: "formulas" }, ...[definition.formula].flat().map((source) => h("div", { class: "set" }, lines(source)))),
      this.#said,
      h("div", { class: beside ? "beside" : "" },
        h("div", { class: definition.three ? "pictures three" : "pictures" }, ...(this.#bars ? [this.#bars] : pictures)),
        h("div", { class: "entry" }, this.#inputs, this.#entry)));
  }

  get inSight() {
    if (this.node.hidden) return false;
    const { top, bottom } = this.node.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  }

  reveal() {
    this.node.scrollIntoView({ block: "start" });
    this.node.focus({ preventScroll: true });
  }

  /** What does not wait for numbers; `place` is the step's number among those that are shown. */
  prepare(place) {
    this.#place.textContent = place;
    const { sizes } = this.#view.around;
    this.#what.textContent = t(`equations.what_${this.definition.id}`, { factor: number(sizes.F / sizes.D) });
    const read = (as) => this.definition.shape.replace(/\{(\w)\}/g, (_, letter) => as(letter));
    this.#shape.replaceChildren(h("span", { class: "muted", text: read((letter) => (letter === "K" ? "D/H" : letter)) }), " ", h("b", { text: read((letter) => String(sizes[letter])) }));
  }

  async draw() {
    const { around, app } = this.#view;
    const { signal } = app;
    const known = JSON.stringify([app.state.explanation.id, around.layer, around.head, this.definition.pictures[0].columns === "v" && around.at.t]);
    const { name, concat, rows, columns } = this.#active;
    const entry = JSON.stringify([known, name, concat, around.at[rows], around.at[columns]]);
    try {
      if (this.#drawn !== known) await Promise.all(this.#pictures.map((picture) => this.#drawPicture(picture, around, signal)));
      else this.#pictures.forEach((picture) => this.#mark(picture, around));
      if (around !== this.#view.around) return;
      this.#drawn = known;
      if (this.#entryDrawn !== entry) await this.#drawEntry(around, signal);
      if (around !== this.#view.around) return;
      this.#entryDrawn = entry;
      this.#said.hidden = true;
      this.node.dataset.drawn = "";
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === undefined) throw error;
      this.#said.hidden = false;
      this.#said.textContent = error.code === "saved" ? t("share.not_saved") : error.message;
    }
  }

  #picture(picture, signal) {
    return new Picture({
      palette: picture.palette,
      signal,
      choose: (row, column) => {
        this.#active = this.#pictures.find(({ name, concat }) => name === picture.name && concat === picture.concat);
        const value = picture.columns === "v" ? this.#active.top[column].id : column;
        this.#view.choose({ [picture.rows]: row, [picture.columns]: value });
      },
      describe: (row, column, value, isMean) => {
        const place = picture.columns === "v" ? this.#pictures[0].top?.[column]?.id : column;
        return t(isMean ? "equations.mean_at" : "equations.entry_at", { name: plainOf(picture.symbol), row, column: place, value: Number.isFinite(value) ? figures(value) : number(value) });
      },
    });
  }

  async #drawPicture(picture, around, signal) {
    const { tokens } = around;
    if (picture.columns === "v") picture.top = (await around.candidates({ signal })).top;
    if (this.#bars) return void this.#drawBars(picture.top);
    const matrix = await around.matrix(picture, { signal });
    if (around !== this.#view.around) return undefined;
    const words = (list) => (list.length <= MOST_LABELS ? list.map((token) => h("span", {}, ...visible(token, { most: 12 }))) : null);
    const names = { rows: words(tokens), columns: { s: words(tokens), v: words(picture.top ?? []) }[picture.columns] };
    const full = picture.palette === "sequential" ? 1 : fullOf(matrix.values);
    picture.view.draw({ ...matrix, names, full, cell: picture.cell, bands: picture.concat ? around.heads : 1, name: plainOf(picture.symbol) });
    this.#mark(picture, around);
    if (!picture.saves) {
      picture.saves = true;
      picture.view.saved(this.#view.app.picture, `${this.definition.id}-${picture.name}`);
    }
    return undefined;
  }

  /** The most probable tokens, as bars to choose from. */
  #drawBars(top) {
    const chosen = (id) => this.#view.choose({ v: id });
    this.#bars.replaceChildren(...top.map((token) => h("button", {
      type: "button", class: "share", "data-token": token.id, style: { "--w": `${(100 * token.p / top[0].p).toFixed(1)}%` }, "aria-label": `${plain(token)} ${percent(token.p)}`,
      on: { click: () => chosen(token.id) },
    }, h("b", { class: "word" }, ...visible(token, { most: 14 })), h("span", { text: percent(token.p) }))));
    roving(this.#bars, () => [...this.#bars.children], { choose: (item) => chosen(Number(item.dataset.token)) });
    this.#mark(this.#active, this.#view.around);
  }

  #mark(picture, { at }) {
    if (this.#bars) {
      const items = [...this.#bars.children];
      const pressed = items.find((item) => Number(item.dataset.token) === at.v);
      for (const item of items) {
        item.setAttribute("aria-pressed", String(item === pressed));
        item.tabIndex = item === (pressed ?? items[0]) ? 0 : -1;
      }
      return;
    }
    const column = picture.columns === "v" ? picture.top.findIndex((token) => token.id === at.v) : at[picture.columns];
    picture.view.mark(at[picture.rows], column < 0 ? null : column);
  }

  async #drawEntry(around, signal) {
    const picture = this.#active;
    this.#showIndices(picture, around);
    const [worked, found] = await Promise.all([around.worked(picture, { signal }), picture.derive === "softmax" ? around.candidates({ signal }) : null]);
    if (around !== this.#view.around) return;
    this.#entry.replaceChildren(...(worked === null ? maskedNodes(picture) : entryNodes(picture, worked, { tokens: around.tokens, logSumExp: found?.logsumexp })));
  }

  /** Row and column as fields, which stay while their numbers change. */
  #showIndices(picture, around) {
    if (this.#fields?.picture !== picture) {
      const field = (letter) => {
        const input = h("input", { type: "number", min: 0, on: { change: () => this.#view.choose({ [letter]: Math.max(0, Math.min(Number(input.max), Math.round(input.valueAsNumber) || 0)) }) } });
        return { letter, input, word: h("b", { class: "word" }) };
      };
      this.#fields = { picture, list: [field(picture.rows), field(picture.columns)] };
      this.#inputs.replaceChildren(
        h("span", { class: "one", text: t("equations.one") }), formula(picture.symbol),
        ...this.#fields.list.map(({ letter, input, word }) => h("label", {}, h("i", { text: letter }), h("span", { class: "unseen", text: t(`equations.index_${letter}`) }), input, word)));
    }
    for (const { letter, input, word } of this.#fields.list) {
      input.max = around.sizes[INDICES[letter]] - 1;
      input.value = around.at[letter];
      const token = { t: around.tokens[around.at.t], s: around.tokens[around.at.s], v: picture.top?.find((entry) => entry.id === around.at.v) }[letter];
      word.replaceChildren(...(token ? visible(token, { most: 14 }) : []));
    }
  }
}

/** A letter with its marks, as plain text. */
function plainOf(symbol) {
  const letter = symbol.includes("+") ? `(${symbol})` : symbol;
  return letter.replace(/_h/g, "").replace(/\\fn\{([^}]*)\}/g, "$1").replace(/[_{}]/g, "").replace(/'/g, "′");
}
