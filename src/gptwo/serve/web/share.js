// Sharing: a link, pictures, and the whole view as one file that opens without a server.

import { h } from "./dom.js";
import { LANGUAGES, language, number, t } from "./i18n.js";

const NAME = "gptwo/";

/** What a saved page holds: {language, strings, panel, state, replies: Map}; null where a server is behind the page. */
export function savedPage() {
  const node = document.getElementById("saved-page");
  if (!node) return null;
  const { replies, ...rest } = JSON.parse(node.textContent);
  const decoded = replies.map(([key, { headers, base64 }]) => [key, { headers, body: bytesFrom(base64).buffer }]);
  return { ...rest, replies: new Map(decoded) };
}

/** Puts "Save" buttons for a picture after it, or after another node: a canvas as PNG, an SVG as SVG and PNG. */
export function addSave(node, name, after = node) {
  const kinds = node instanceof SVGElement ? ["SVG", "PNG"] : ["PNG"];
  const buttons = kinds.map((kind) =>
    h("button", { type: "button", class: "quiet", text: kind, "aria-label": t("share.save_as", { name, kind }), on: { click: () => save(node, name, kind) } }));
  after.after(h("p", { class: "save" }, h("span", { text: t("share.picture") }), ...buttons));
}

async function save(node, name, kind) {
  const file = `gptwo-${name}.${kind.toLowerCase()}`;
  if (node instanceof HTMLCanvasElement) return node.toBlob((blob) => download(blob, file));
  const svg = new Blob([standalone(node)], { type: "image/svg+xml" });
  if (kind === "SVG") return download(svg, file);
  const { width, height } = node.getBoundingClientRect();
  const image = new Image(width * 2, height * 2);
  image.src = URL.createObjectURL(svg);
  await image.decode();
  const canvas = h("canvas", { width: width * 2, height: height * 2 });
  canvas.getContext("2d").drawImage(image, 0, 0, width * 2, height * 2);
  URL.revokeObjectURL(image.src);
  return canvas.toBlob((blob) => download(blob, file));
}

/** The SVG with the styles that the page gives it, on the page's ground. */
function standalone(node) {
  const copy = node.cloneNode(true);
  const from = [node, ...node.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((target, i) => {
    const style = getComputedStyle(from[i]);
    for (const name of ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline"])
      target.style.setProperty(name, style.getPropertyValue(name));
  });
  const { width, height } = node.getBoundingClientRect();
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  return new XMLSerializer().serializeToString(copy);
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The dialog of the button "Share". `shell` opens panels: {panels, panel, open(name), gather(name)}. */
export function openShare(app, shell) {
  const dialog = document.getElementById("share-dialog");
  const said = h("p", { class: "muted", role: "status" });
  const run = (work) => async () => {
    try {
      said.textContent = await work();
    } catch (error) {
      said.textContent = error.message;
    }
  };
  const copy = run(async () => {
    await navigator.clipboard.writeText(location.href);
    return t("share.copied");
  });
  const keep = (all) => run(async () => {
    said.textContent = t("share.gathering");
    if (all) await openEach(app, shell);
    const blob = new Blob([await wholePage(app, shell.panel)], { type: "text/html" });
    download(blob, `gptwo-${app.model.name.replace(/[^\w.-]+/g, "-")}.html`);
    return t("share.saved", { size: number(blob.size / 1e6, 1) });
  });
  const choice = (key, fn) => h("div", { class: "choice" },
    h("button", { type: "button", class: "button", text: t(`share.${key}`), on: { click: fn } }), h("p", { class: "muted", text: t(`share.${key}_what`) }));
  dialog.replaceChildren(
    h("h2", { id: "share-title", text: t("share.title") }),
    ...(app.saved
      ? [h("p", { text: t("share.is_saved") })]
      : [choice("link", copy), choice("page", keep(true)), choice("page_seen", keep(false))]),
    h("p", { class: "muted", text: t("share.pictures_what") }),
    said,
    h("form", { method: "dialog", class: "actions" }, h("button", { class: "button", text: t("share.close") })),
  );
  dialog.showModal();
}

/** Opens every panel once, so that what it asks for is in the saved page, and what it would ask for further down. */
async function openEach(app, { panels, panel, open, gather }) {
  for (const name of panels) {
    await open(name, { push: false });
    await gather(name);
  }
  await open(panel, { push: false });
}

/** The page in one file: its modules under names of their own, its style, its strings, and every reply it was given. */
async function wholePage(app, panel) {
  const sources = new Map();
  const gather = async (path) => {
    if (sources.has(path)) return;
    const text = await textAt(`/web/${path}`);
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    const found = [];
    const renamed = text.replace(/(\bfrom |\bimport\()"(\.[^"]+)"/g, (_, before, relative) => {
      const target = new URL(folder + relative, "http://page/").pathname.slice(1);
      found.push(target);
      return `${before}"${NAME}${target}"`;
    });
    sources.set(path, renamed);
    await Promise.all(found.map(gather));
  };
  const [html, style, ...strings] = await Promise.all([textAt("/"), textAt("/web/style.css"), ...LANGUAGES.map((name) => textAt(`/web/${name}.json`)), gather("app.js")]);
  const imports = Object.fromEntries([...sources].map(([path, text]) => [NAME + path, `data:text/javascript;base64,${base64From(new TextEncoder().encode(text))}`]));
  const replies = app.api.kept.map(([key, { headers, body }]) => [key, { headers, base64: base64From(new Uint8Array(body)) }]);
  const content = { language, strings: Object.fromEntries(LANGUAGES.map((name, i) => [name, JSON.parse(strings[i])])), replies, panel, state: { ...app.state, explanation: null } };
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const node of page.querySelectorAll("link, script")) node.remove();
  // Nothing in the file may reach out, and nothing needs to. Written as text: nodes would be held to this page's policy.
  const head = [
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src blob: data:">`,
    `<style>${style}</style>`,
    `<script type="importmap">${safe({ imports })}</script>`,
    `<script type="application/json" id="saved-page">${safe(content)}</script>`,
    `<script type="module">import "${NAME}app.js";</script>`,
  ];
  return `<!doctype html>\n${page.documentElement.outerHTML.replace("</head>", () => `${head.join("\n")}\n</head>`)}`;
}

async function textAt(path) {
  const reply = await fetch(path);
  if (!reply.ok) throw new Error(`${path}: HTTP ${reply.status}`);
  return reply.text();
}

/** JSON that can stand inside a script: no end tag, no comment. */
function safe(value) {
  return JSON.stringify(value).replaceAll("<", "\\u003c");
}

function base64From(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function bytesFrom(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
