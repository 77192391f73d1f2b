// The server's replies. What belongs to an explanation never changes, so it is kept, and can be put into a saved page.

import { t } from "./i18n.js";

const MOST_KEPT_BYTES = 64e6;
// What is the model's and not a prompt's.
const STAYS = /^\/explain\/(model|training)/;

/** What the server said it could not do, in its words. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  #kept = new Map();
  #keptBytes = 0;
  #requests = new Map();
  #renamed = new Map();
  #askKey;
  #key = null;
  #asking = null;

  /** `saved`: the replies of a saved page, or null. `askKey(wrong)`: a promise of a key from the user, or of null. */
  constructor(saved, askKey) {
    this.saved = saved;
    this.#askKey = askKey;
    if (!saved) this.#key = sessionStorage.getItem("gptwo-key");
  }

  /** A JSON reply; with `body`, of a POST. `keep`: it stays true, so that it need not be asked for again. */
  async json(path, body, { signal, keep = path.startsWith("/explain/prompt") } = {}) {
    const reply = await this.#reply(path, body, signal, keep);
    return JSON.parse(new TextDecoder().decode(reply.body));
  }

  /** {data: Float32Array or Uint8Array, shape: [n…], range: [least, most] or null}. */
  async array(path, { signal } = {}) {
    const reply = await this.#reply(path, undefined, signal, true);
    const shape = reply.headers.shape.split(",").map(Number);
    const bytes = reply.body.byteLength === shape.reduce((a, b) => a * b, 1);
    const data = bytes ? new Uint8Array(reply.body) : new Float32Array(reply.body);
    return { data, shape, range: reply.headers.range?.split(",").map(Number) ?? null };
  }

  /** The reply to POST /explain/prompt. Asked for once more when the server has let go of it. */
  async explain(body, { signal } = {}) {
    const reply = await this.json("/explain/prompt", body, { signal });
    this.#requests.set(reply.id, body);
    return reply;
  }

  /** The events of a stream, as objects, until it ends or `signal` stops it. */
  async *stream(path, body, { signal } = {}) {
    const response = await this.#fetch(path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    while (true) {
      const { value, done } = await arrived(reader.read());
      if (done) return;
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        signal?.throwIfAborted();
        if (!frame.startsWith("data: ") || frame === "data: [DONE]") continue;
        const event = JSON.parse(frame.slice(6));
        if (event.error) throw new ApiError(0, event.error.code, event.error.message);
        yield event;
      }
    }
  }

  /** Lets go of what belongs to earlier prompts. */
  forget() {
    for (const [key, { body }] of this.#kept) {
      if (STAYS.test(key)) continue;
      this.#kept.delete(key);
      this.#keptBytes -= body.byteLength;
    }
  }

  /** Every reply kept, for a saved page: [[key, {headers, body}]…]. */
  get kept() {
    return [...this.#kept];
  }

  async #reply(path, body, signal, keep) {
    const key = keyOf(path, body);
    const known = this.saved?.get(key) ?? (keep && this.#kept.get(key));
    if (known) return known;
    if (this.saved) throw new ApiError(0, "saved", "saved");
    const response = await this.#fetch(path, body, signal);
    const headers = {};
    for (const name of ["shape", "range"]) headers[name] = response.headers.get(`X-${name}`) ?? undefined;
    const reply = { headers, body: await arrived(response.arrayBuffer()) };
    this.#keep(key, reply);
    return reply;
  }

  #keep(key, reply) {
    this.#keptBytes += reply.body.byteLength - (this.#kept.get(key)?.body.byteLength ?? 0);
    this.#kept.delete(key);
    this.#kept.set(key, reply);
    for (const [old, { body }] of this.#kept) {
      if (this.#keptBytes <= MOST_KEPT_BYTES) break;
      this.#kept.delete(old);
      this.#keptBytes -= body.byteLength;
    }
  }

  /** Asks once for all requests that wait. ApiError when the user gives none; the next request asks again. */
  #newKey() {
    const wrong = this.#key !== null;
    this.#key = null;
    sessionStorage.removeItem("gptwo-key");
    this.#asking ??= this.#askKey(wrong)
      .then((key) => {
        if (key === null) throw new ApiError(401, "no_key", t("shell.key_none"));
        this.#key = key;
      })
      .finally(() => (this.#asking = null));
    return this.#asking;
  }

  async #fetch(path, body, signal, again = true) {
    const [, head, id, rest] = path.match(/^(\/explain\/prompt\/)([^/?]+)(.*)$/) ?? [];
    const target = id && this.#renamed.has(id) ? head + this.#renamed.get(id) + rest : path;
    const key = this.#key;
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key !== null && { Authorization: `Bearer ${inBytes(key)}` }) };
    const response = await arrived(fetch(target, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal }));
    if (response.status === 401) {
      // Another request may have been given a key meanwhile.
      if (key === this.#key) await this.#newKey();
      return this.#fetch(path, body, signal, again);
    }
    if (key !== null) sessionStorage.setItem("gptwo-key", key);
    if (response.ok) return response;
    const error = await errorOf(response);
    if (error.code === "explanation_gone" && again && this.#requests.has(id)) {
      const renewed = await this.#fetch("/explain/prompt", this.#requests.get(id), signal);
      this.#renamed.set(id, (await renewed.json()).id);
      return this.#fetch(path, body, signal, false);
    }
    throw error;
  }
}

/** A header holds bytes, one a character: those of the key in UTF-8. */
function inBytes(key) {
  return String.fromCharCode(...new TextEncoder().encode(key));
}

/** What the network gives; where it fails, an ApiError that says so. */
async function arrived(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, "unreachable", t("shell.unreachable", { error: error.message }));
  }
}

/** What a reply is kept under. */
export function keyOf(path, body) {
  return body === undefined ? path : `${path} ${JSON.stringify(body)}`;
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.code, error.message);
  } catch {
    return new ApiError(response.status, null, `HTTP ${response.status}`);
  }
}
