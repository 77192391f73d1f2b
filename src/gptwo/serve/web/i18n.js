// The strings of the page, in one file a language, and numbers as that language writes them.

export const LANGUAGES = ["en", "vi"];
export let language = "en";
let strings = {};

/** The language asked for by ?lang=, else the browser's, else English. */
export function preferred() {
  const asked = new URLSearchParams(location.search).get("lang");
  if (LANGUAGES.includes(asked)) return asked;
  return (navigator.language || "").startsWith("vi") ? "vi" : "en";
}

/** Takes up a language; `read(name)` gives the strings of its file. */
export async function use(name, read) {
  strings = await read(name);
  language = name;
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
}

/** The string "block.name", with {values} put in. A key that there is not is shown as it is. */
export function t(key, values = {}) {
  const found = key.split(".").reduce((block, name) => block?.[name], strings);
  if (typeof found !== "string") return key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** A number with at most so many digits after the point. */
export function number(x, digits = 2) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  return format(x, { maximumFractionDigits: digits, minimumFractionDigits: Number.isInteger(x) ? 0 : digits });
}

/** The same, always with that many digits: for columns. */
export function fixed(x, digits = 2) {
  if (x === null || x === undefined || !Number.isFinite(x)) return number(x);
  return format(x, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** With so many digits that count, wherever its point is. */
export function figures(x, count = 4) {
  if (!Number.isFinite(x) || x === 0) return number(x);
  return Math.abs(x) < 0.001 ? scientific(x) : format(x, { minimumSignificantDigits: count, maximumSignificantDigits: count });
}

/** With a sign: a change. */
export function signed(x, digits = 2) {
  if (!Number.isFinite(x)) return number(x);
  return format(x, { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "exceptZero" });
}

/** A probability as a share of hundred, in few digits. */
export function percent(p) {
  if (!Number.isFinite(p)) return number(p);
  if (p > 0 && p < 0.0001) return `<${format(0.01, {})}%`;
  const digits = p >= 0.9995 || p >= 0.1 ? 1 : 2;
  return `${format(p * 100, { minimumFractionDigits: digits, maximumFractionDigits: digits })}%`;
}

/** A probability that may be very small, in full. */
export function probability(p) {
  return p >= 0.0001 ? percent(p) : scientific(p);
}

/** 1.9e-6, for what is very small or very large. */
export function scientific(x) {
  if (!Number.isFinite(x) || x === 0) return number(x);
  const [digits, power] = x.toExponential(1).split("e");
  return `${format(Number(digits), { minimumFractionDigits: 1 })}e${Number(power)}`;
}

const SCALES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];

/** A quantity in three digits with the prefix of its unit: 1.23 GFLOP. */
export function quantity(x, unit) {
  const [size, prefix] = SCALES.find(([least]) => Math.abs(x) >= least) ?? [1, ""];
  const value = x / size;
  const digits = Number.isInteger(value) && size === 1 ? 0 : value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${fixed(value, digits)}\u00a0${prefix}${unit}`;
}

const formats = new Map();
function format(x, options) {
  const key = language + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(language, options));
  return formats.get(key).format(x).replace(/^-/, "−");
}
