// Elements, made without markup: whatever a model wrote is text, and never HTML.

/** An element. `class`, `text`, `on: {event: fn}`, `style: {"--name": value}`; any other key is an attribute, of which
 * false, null and undefined are left out, and true is written empty. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same, of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, fn] of Object.entries(value)) node.addEventListener(event, fn);
    else if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Arrow keys between the items of a group, one of which is in the tab order. `across` items make a row, so that up and
 * down work too; `choose(item, event)` is called with the item that the focus came to. */
export function roving(group, items, { across = 0, choose = () => {} } = {}) {
  group.onkeydown = (event) => {
    const list = items();
    const at = list.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const row = across || list.length;
    const start = at - (at % row);
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: across ? at + across : at + 1,
      ArrowUp: across ? at - across : at - 1,
      Home: event.shiftKey ? 0 : start,
      End: event.shiftKey ? list.length - 1 : Math.min(start + row, list.length) - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = list[Math.max(0, Math.min(list.length - 1, to))];
    if (!next) return;
    for (const item of list) item.tabIndex = item === next ? 0 : -1;
    next.focus();
    choose(next, event);
  };
}

/** Calls `fn` when `ms` have gone by since the last call; `.flush()` calls it now if it is still to come, and says so. */
export function debounced(fn, ms) {
  let timer;
  let call = null;
  const flush = () => {
    if (!call) return false;
    clearTimeout(timer);
    const due = call;
    call = null;
    due();
    return true;
  };
  const later = (...values) => {
    clearTimeout(timer);
    call = () => fn(...values);
    timer = setTimeout(flush, ms);
  };
  return Object.assign(later, { flush });
}
