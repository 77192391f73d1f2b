// Formulas: a few signs of TeX become MathML, which browsers set and screen readers speak without any library.

const NAMESPACE = "http://www.w3.org/1998/Math/MathML";
const SIGNS = { "-": "−", Σ: "∑" };

/** Formulas in a line of their own, which breaks before "=" and at "¦" where it is too long. */
export function lines(source) {
  return source.trim().split(/ *¦ *| (?== )/).map((part) => formula(part, { tall: true }));
}

/** A `math` element of `source`: letters, numbers, signs; x_{…} x^{…} x', \frac{…}{…}, \sqrt{…}, \fn{a name},
 * \text{words}. `tall`: fractions and sums have their full height. */
export function formula(source, { tall = false } = {}) {
  const tokens = source.match(/\\[a-z]+|[0-9]+(?:[.,][0-9]+)*|\s+|./gu) ?? [];
  const node = m("math", ...sequence(tokens));
  if (tall) node.setAttribute("displaystyle", "true");
  return node;
}

function m(tag, ...children) {
  const node = document.createElementNS(NAMESPACE, tag);
  node.append(...children);
  return node;
}

/** Items up to the end, or to the brace that closes. */
function sequence(tokens) {
  const items = [];
  while (tokens.length && tokens[0] !== "}") {
    if (/^\s+$/.test(tokens[0])) tokens.shift();
    else items.push(item(tokens));
  }
  tokens.shift();
  return items;
}

/** An atom with what hangs on it. */
function item(tokens) {
  let base = atom(tokens);
  let below = null;
  let above = null;
  while (tokens[0] === "_" || tokens[0] === "^" || tokens[0] === "'") {
    const sign = tokens.shift();
    // The glyph is raised already: as an exponent it would be raised twice.
    if (sign === "'") base = m("mrow", base, m("mo", "′"));
    else if (sign === "_") below = atom(tokens);
    else above = atom(tokens);
  }
  if (below !== null && above !== null) return m("msubsup", base, below, above);
  if (above !== null) return m("msup", base, above);
  if (below === null) return base;
  return m(base.textContent === "∑" ? "munder" : "msub", base, below);
}

function atom(tokens) {
  const token = tokens.shift();
  if (token === "{") return m("mrow", ...sequence(tokens));
  if (token === "\\frac") return m("mfrac", atom(tokens), atom(tokens));
  if (token === "\\sqrt") return m("msqrt", atom(tokens));
  if (token === "\\fn") return upright("mi", words(tokens));
  if (token === "\\text") return upright("mtext", words(tokens));
  if (/^[0-9]/.test(token)) return m("mn", token);
  if (token !== "Σ" && /^[\p{L}∞]$/u.test(token)) return m("mi", token);
  const sign = m("mo", SIGNS[token] ?? token);
  // Without a mathematical font a browser stretches parentheses far too much.
  if (token === "(" || token === ")") sign.setAttribute("stretchy", "false");
  return sign;
}

/** The text inside braces as it stands. */
function words(tokens) {
  const end = tokens.indexOf("}");
  return tokens.splice(0, end + 1).slice(1, -1).join("");
}

function upright(tag, text) {
  const node = m(tag, text);
  if (tag === "mi" && [...text].length === 1) node.setAttribute("mathvariant", "normal");
  return node;
}
