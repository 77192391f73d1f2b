// Numbers as colours, mixed in OKLab from the page's own, so that they are right in light and in dark.

const STEPS = 255;
const dark = matchMedia("(prefers-color-scheme: dark)");
/** What a palette runs through, from its least value to its greatest. "far" is a colour moved half-way to the ink. */
const STOPS = {
  diverging: ["far cool", "cool", "raised", "warm", "far warm"],
  sequential: ["raised", "accent", "far accent"],
};

let tables = {};
dark.addEventListener("change", () => (tables = {}));

/** Calls `fn` whenever the colours have changed. */
export function onRecolour(fn, signal) {
  dark.addEventListener("change", fn, { signal });
}

/** A table of RGBA pixels, from the least value to the greatest: "diverging" (0 is its middle) or "sequential" (0 first). */
export function paletteOf(kind) {
  tables[kind] ??= table(STOPS[kind].map(stop));
  return tables[kind];
}

/** The same as a CSS gradient to the right. */
export function gradientOf(kind) {
  const pixels = new Uint8Array(paletteOf(kind).buffer);
  const at = (i) => `rgb(${pixels.subarray(4 * i, 4 * i + 3).join(" ")})`;
  const last = pixels.length / 4 - 1;
  return `linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => at(Math.round((i / 16) * last))).join(", ")})`;
}

/** Paints values as pixels, one each: `values` are numbers, or bytes of which 255 is 1. What is not finite stays clear.
 * `full` is the magnitude of the fullest colour. */
export function pixelsOf(values, { palette = "diverging", full = 1 } = {}) {
  const colours = paletteOf(palette);
  const last = colours.length - 1;
  const zero = palette === "diverging" ? last / 2 : 0;
  const scale = (last - zero) / (full || 1) / (values instanceof Uint8Array ? 255 : 1);
  const pixels = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i += 1) {
    if (Number.isFinite(values[i])) pixels[i] = colours[Math.max(0, Math.min(last, Math.round(zero + values[i] * scale)))];
  }
  return new Uint8ClampedArray(pixels.buffer);
}

/** A magnitude that all but one in a hundred stay within: one large value does not make all others pale. */
export function fullOf(values) {
  const magnitudes = Float32Array.from(values, Math.abs).filter(Number.isFinite).sort();
  if (magnitudes.length === 0) return 1;
  const most = magnitudes.at(-1);
  return magnitudes.length < 100 ? most || 1 : magnitudes[Math.ceil(magnitudes.length * 0.99) - 1] || most || 1;
}

function stop(name) {
  const style = getComputedStyle(document.documentElement);
  const colour = (key) => oklab(style.getPropertyValue(`--${key}`).trim());
  const [, far, key] = name.match(/^(far )?(\w+)$/);
  return far ? between(colour(key), colour("ink"), 0.5) : colour(key);
}

function table(stops) {
  const pixels = new Uint8Array(4 * ((stops.length - 1) * STEPS + 1));
  for (let i = 0; i < pixels.length / 4; i += 1) {
    const at = Math.min(Math.floor(i / STEPS), stops.length - 2);
    pixels.set([...srgb(between(stops[at], stops[at + 1], i / STEPS - at)), 255], 4 * i);
  }
  return new Uint32Array(pixels.buffer);
}

function between(a, b, share) {
  return a.map((value, i) => value + (b[i] - value) * share);
}

/** #rrggbb in OKLab (Björn Ottosson, 2020). */
function oklab(hex) {
  const [r, g, b] = hex.match(/[0-9a-f]{2}/gi).map((pair) => {
    const c = parseInt(pair, 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function srgb([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((c) => Math.round(255 * Math.max(0, Math.min(1, c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055))));
}
