// The prompt's tokens, coloured by surprisal; one of them is chosen, by a click or with the arrow keys.

import { h, roving } from "./dom.js";
import { fixed, number, probability, t } from "./i18n.js";
import { bytesOf, plain, visible } from "./tokens.js";

/** Nats at which the colour is at its fullest: a token of probability 1 in 22,000. */
export const FULL_NATS = 10;

/** How full the colour of a surprisal is, 0 to 1. */
export function fullness(nats) {
  return nats === null || nats === undefined ? 0 : Math.max(0, Math.min(1, nats / FULL_NATS));
}

export class Strip {
  #root;
  #choose;
  #items = [];

  constructor(root, choose) {
    this.#root = root;
    this.#choose = choose;
    roving(root, () => this.#items, { choose: (item) => choose(this.#items.indexOf(item)) });
    root.addEventListener("click", (event) => {
      const at = this.#items.indexOf(event.target.closest(".token"));
      if (at >= 0) choose(at);
    });
  }

  /** The tokens of an explanation. */
  show({ tokens, surprisal }, position) {
    this.#items = tokens.map((token, i) => this.#item(token, surprisal[i]));
    this.#root.replaceChildren(...this.#items);
    this.position = position;
  }

  /** The first tokens alone. */
  keep(count) {
    for (const item of this.#items.splice(count)) item.remove();
  }

  /** One more token, while it is being written. */
  append(token, nats) {
    const item = this.#item(token, nats);
    item.classList.add("new");
    this.#items.push(item);
    this.#root.append(item);
    this.#root.scrollTop = this.#root.scrollHeight;
  }

  set position(position) {
    const focused = this.#items.includes(document.activeElement);
    this.#items.forEach((item, i) => {
      item.setAttribute("aria-selected", i === position);
      item.tabIndex = i === position ? 0 : -1;
    });
    const item = this.#items[position];
    if (focused && document.activeElement !== item) item?.focus();
    if (item) this.#reveal(item);
  }

  /** Scrolls the strip, and never the page: the token may have been chosen far below it. */
  #reveal(item) {
    const [box, at] = [this.#root.getBoundingClientRect(), item.getBoundingClientRect()];
    if (at.top < box.top) this.#root.scrollTop += at.top - box.top;
    else if (at.bottom > box.bottom) this.#root.scrollTop += at.bottom - box.bottom;
  }

  #item(token, nats) {
    const label = nats === null || nats === undefined ? plain(token) : t("shell.token_nats", { token: plain(token), nats: fixed(nats) });
    return h("span", {
      class: "token", role: "option", tabindex: -1, "aria-selected": "false", "aria-label": label, title: label,
      style: { "--s": fullness(nats).toFixed(3) },
    }, ...visible(token, { flow: true }));
  }
}

/** What is known of a token, in one line: its place, its signs, id, bytes, surprisal. */
export function describe({ tokens, surprisal }, position) {
  const token = tokens[position];
  const nats = surprisal[position];
  const hex = [...bytesOf(token)].map((byte) => byte.toString(16).padStart(2, "0"));
  const shown = hex.length > 12 ? [...hex.slice(0, 12), "…"] : hex;
  const fact = (name, value) => h("span", { class: "fact" }, h("span", { class: "muted", text: t(`shell.${name}`) }), " ", value);
  return [
    h("span", { class: "fact muted", text: t("shell.place", { at: number(position + 1), of: number(tokens.length) }) }),
    h("b", { class: "word" }, ...visible(token)),
    fact("id", h("code", { text: String(token.id) })),
    fact("bytes", h("code", { text: shown.join(" ") })),
    nats === null
      ? h("span", { class: "fact muted", text: t("shell.first") })
      : fact("surprisal", t("shell.nats_p", { nats: fixed(nats, 3), p: probability(Math.exp(-nats)) })),
  ];
}
