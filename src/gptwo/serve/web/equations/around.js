// What the equations are shown of: the prompt, the block, the head and the entry, and where the server has its numbers.

const CANDIDATES = 20;
// Rows and columns of a picture: of all entries where they are few, else of means.
const SIZES = [768, 384];
const MOST_CELLS = 1 << 17;

/** What is looked at: the prompt, the block, the head, and the entry; and where the server has its numbers. */
export class Around {
  constructor(app) {
    this.app = app;
    const { config } = app.model;
    const { explanation, position, layer, head } = app.state;
    const T = explanation.tokens.length;
    this.sizes = { T, V: config.vocab_size, D: config.n_embd, K: config.n_embd / config.n_head, F: config.n_inner ?? 4 * config.n_embd };
    this.layers = config.n_layer;
    this.heads = config.n_head;
    this.layer = Math.min(layer, config.n_layer - 1);
    this.head = Math.min(head, config.n_head - 1);
    const { D, K, F } = this.sizes;
    const chosen = app.state.entry ?? {};
    const within = (value, size) => Math.min(value ?? size >> 1, size - 1);
    const j = within(chosen.j, K);
    this.at = { t: position, s: within(chosen.s ?? position, T), d: within(chosen.d, D), j, c: this.head * K + j, f: within(chosen.f, F), v: chosen.v ?? null };
    this.tokens = explanation.tokens;
  }

  get #root() {
    return `/explain/prompt/${this.app.state.explanation.id}`;
  }

  #name({ name, block }) {
    return block ? `blocks.${this.layer}.${name}` : name;
  }

  /** The most probable tokens after the chosen position; the first of them is chosen where none is. */
  async candidates(options) {
    const k = Math.min(CANDIDATES, this.sizes.V);
    const found = await this.app.api.json(`${this.#root}/next?position=${this.at.t}&k=${k}`, undefined, options);
    this.at.v ??= found.top[0].id;
    return found;
  }

  /** {values, shape, whole} of a picture. */
  async matrix(picture, options) {
    const { T, D, K } = this.sizes;
    const size = T * SIZES[0] > MOST_CELLS ? SIZES[1] : SIZES[0];
    let query = `name=${this.#name(picture)}&size=${size}`;
    if (picture.head) query += `&head=${this.head}`;
    if (picture.columns === "v") {
      const { top } = await this.candidates(options);
      query = `name=logits&tokens=${top.map((entry) => entry.id)}&size=${size}`;
    }
    const { data, shape } = await this.app.api.array(`${this.#root}/tensor?${query}`, options);
    if (picture.concat) return { values: sideBySide(data, shape), shape: [shape[1], shape[0] * shape[2]], whole: [T, D] };
    const whole = [T, picture.columns === "v" ? shape[1] : { d: D, j: K, s: T, f: this.sizes.F }[picture.columns]];
    return { values: picture.masked ? masked(data, shape) : data, shape, whole };
  }

  /** The chosen entry in numbers, or null where it is masked. */
  async worked(picture, options) {
    if (picture.columns === "v") await this.candidates(options);
    const [row, column] = [this.at[picture.rows], this.at[picture.columns]];
    if (picture.masked && column > row) return null;
    const place = picture.concat ? [this.at.j, this.head] : [column, picture.head ? this.head : null];
    const head = place[1] === null ? "" : `&head=${place[1]}`;
    return this.app.api.json(`${this.#root}/worked?name=${this.#name(picture)}&row=${row}&column=${place[0]}${head}`, undefined, options);
  }
}

/** H×T×K as T×(H·K). */
function sideBySide(data, [H, T, K]) {
  const values = new Float32Array(data.length);
  for (let head = 0; head < H; head += 1)
    for (let row = 0; row < T; row += 1) values.set(data.subarray((head * T + row) * K, (head * T + row + 1) * K), (row * H + head) * K);
  return values;
}

/** Without what stands above the diagonal. */
function masked(data, [rows, columns]) {
  return data.map((value, i) => (i % columns > Math.floor(i / columns) && rows === columns ? -Infinity : value));
}
