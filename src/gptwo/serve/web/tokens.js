// Tokens as one can see them: spaces, newlines, control characters and pieces of a character have signs of their own.

import { h } from "./dom.js";

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const loose = new TextDecoder("utf-8", { ignoreBOM: true });
const SIGNS = { "\n": "↵", "\r": "←", "\t": "⇥", "\u00a0": "⍽" };
// Controls, what has no width or turns the line round, what is not assigned.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const MARK = /^\p{M}/u;

/** The bytes that `token.bytes` names in hexadecimal. */
export function bytesOf(token) {
  return Uint8Array.from(token.bytes.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** The text of tokens together: two halves of a character are one character. */
export function textOf(tokens) {
  const parts = tokens.map(bytesOf);
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return loose.decode(whole);
}

/** The token in signs, as plain text: for names and labels. */
export function plain(token, most = 40) {
  return pieces(token, most).map(([text]) => text).join("");
}

/** The token in signs, as nodes; signs are of the class "sign". With `flow`, spaces stay and lines break: for running text. */
export function visible(token, { most = 40, flow = false } = {}) {
  return pieces(token, most).flatMap(([text, isSign, character]) => {
    if (flow && character === " ") return [" "];
    const node = isSign ? h("span", { class: "sign", text }) : text;
    return flow && character === "\n" ? [node, "\n"] : [node];
  });
}

/** [text, is a sign, the character] of a token. Without bytes (a token as it is streamed) its text is taken. */
function pieces(token, most) {
  let text = token.text;
  if (token.bytes !== undefined) {
    const bytes = bytesOf(token);
    try {
      text = strict.decode(bytes);
    } catch {
      return [...bytes].slice(0, most).map((byte) => [hex(byte), true, null]);
    }
  }
  const found = [];
  let run = "";
  const flush = () => {
    if (run) found.push([MARK.test(run) ? `◌${run}` : run, false, null]);
    run = "";
  };
  const characters = [...text];
  for (const character of characters.slice(0, most)) {
    const sign = signOf(character);
    if (sign === null) run += character;
    else {
      flush();
      found.push([sign, true, character]);
    }
  }
  flush();
  if (characters.length > most) found.push(["…", true, null]);
  return found;
}

function hex(byte) {
  return `⟨${byte.toString(16).toUpperCase().padStart(2, "0")}⟩`;
}

function signOf(character) {
  if (character === " ") return "·";
  if (character in SIGNS) return SIGNS[character];
  const code = character.codePointAt(0);
  // U+200D joins emoji, and stays.
  if (code !== 0x200d && UNSEEN.test(character)) return code < 0x80 ? hex(code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  return null;
}
