// The forward pass, step by step, in the paper's letters: formulas, shapes, and the tensors that are drawn.

// Of a tensor: its name in an explanation ("block" ones are of the chosen block), its letter, what its rows and columns are
// counted by, and the formula of one entry.
const of = (name, symbol, rows, columns, entry, more = {}) => ({ name, symbol, rows, columns, entry, block: true, ...more });
const wide = { block: false };
const square = { head: true, cell: 40 };

/** What an index counts, by its letter: the size that it stays below, and the letter of that size. */
export const INDICES = { t: "T", s: "T", d: "D", j: "K", c: "D", f: "F", v: "V" };

/** `part` is the group it stands in: before, in, or after the blocks. `shape` is read with the sizes put in. */
export const STEPS = [
  {
    id: "embedding", part: "before", formula: "X = Δ E + P", shape: "{T}×{V} · {V}×{D} + {T}×{D} → {T}×{D}",
    pictures: [of("embedding", "X", "t", "d", "X_{t,d} = E_{\\fn{id}(t),d} + P_{t,d}", wide)],
  },
  {
    id: "input", part: "attention", formula: "X", shape: "{T}×{D}", after: 0,
    pictures: [of("input", "X", "t", "d", "X_{t,d} = X'_{t,d} + \\fn{MLP}_{t,d} \\text{ (block ℓ − 1)}")],
  },
  {
    id: "attention_norm", part: "attention", formula: "\\fn{LN}(X) = γ_1 ⊙ \\frac{X - μ}{\\sqrt{σ^2 + ε}} + β_1", shape: "{T}×{D} → {T}×{D}",
    pictures: [of("attention_norm", "\\fn{LN}(X)", "t", "d", "\\fn{LN}(X)_{t,d} = γ_d \\frac{X_{t,d} - μ_t}{\\sqrt{σ_t^2 + ε}} + β_d")],
  },
  {
    id: "qkv", part: "attention", formula: ["Q_h = \\fn{LN}(X) W_Q^h + b_Q^h", "K_h = \\fn{LN}(X) W_K^h + b_K^h", "V_h = \\fn{LN}(X) W_V^h + b_V^h"], shape: "{T}×{D} · {D}×{K} → {T}×{K}", three: true,
    pictures: [
      of("q", "Q_h", "t", "j", "Q_{t,j} = Σ_d \\fn{LN}(X)_{t,d} (W_Q^h)_{d,j} + (b_Q^h)_j", { head: true }),
      of("k", "K_h", "s", "j", "K_{s,j} = Σ_d \\fn{LN}(X)_{s,d} (W_K^h)_{d,j} + (b_K^h)_j", { head: true }),
      of("v", "V_h", "s", "j", "V_{s,j} = Σ_d \\fn{LN}(X)_{s,d} (W_V^h)_{d,j} + (b_V^h)_j", { head: true }),
    ],
  },
  {
    id: "scores", part: "attention", formula: "S_h = \\frac{Q_h K_h^⊤}{\\sqrt{D/H}}", shape: "{T}×{K} · {K}×{T} → {T}×{T}",
    pictures: [of("scores", "S_h", "t", "s", "S_{t,s} = \\frac{1}{\\sqrt{D/H}} Σ_j Q_{t,j} K_{s,j}", square)],
  },
  {
    id: "mask", part: "attention", formula: "S_h + M", shape: "{T}×{T} + {T}×{T} → {T}×{T}",
    pictures: [of("scores", "S_h + M", "t", "s", "S_{t,s} + M_{t,s}", { ...square, masked: true, derive: "mask" })],
  },
  {
    id: "softmax", part: "attention", formula: "α_h = \\fn{softmax}(S_h + M)", shape: "{T}×{T} → {T}×{T}",
    pictures: [of("attention", "α_h", "t", "s", "α_{t,s} = \\frac{e^{S_{t,s} - \\fn{max}}}{Σ_{r≤t} e^{S_{t,r} - \\fn{max}}}", { ...square, masked: true, palette: "sequential" })],
  },
  {
    id: "heads", part: "attention", formula: "A_h = α_h V_h", shape: "{T}×{T} · {T}×{K} → {T}×{K}",
    pictures: [of("heads", "A_h", "t", "j", "A_{t,j} = Σ_{s≤t} α_{t,s} V_{s,j}", { head: true })],
  },
  {
    id: "attention_output", part: "attention", formula: "A = \\fn{Concat}(A_1 … A_H) W_0 + b_0", shape: "{T}×{D} · {D}×{D} → {T}×{D}",
    pictures: [
      of("heads", "\\fn{Concat}", "t", "c", "\\fn{Concat}_{t,c} = (A_h)_{t,j} ¦\\text{ , } c = h · D/H + j", { concat: true }),
      of("attention_output", "A", "t", "d", "A_{t,d} = Σ_c \\fn{Concat}_{t,c} (W_0)_{c,d} + (b_0)_d"),
    ],
  },
  {
    id: "middle", part: "attention", formula: "X' = X + A", shape: "{T}×{D} + {T}×{D} → {T}×{D}",
    pictures: [of("middle", "X'", "t", "d", "X'_{t,d} = X_{t,d} + A_{t,d}")],
  },
  {
    id: "mlp_norm", part: "mlp", formula: "\\fn{LN}(X') = γ_2 ⊙ \\frac{X' - μ}{\\sqrt{σ^2 + ε}} + β_2", shape: "{T}×{D} → {T}×{D}",
    pictures: [of("mlp_norm", "\\fn{LN}(X')", "t", "d", "\\fn{LN}(X')_{t,d} = γ_d \\frac{X'_{t,d} - μ_t}{\\sqrt{σ_t^2 + ε}} + β_d")],
  },
  {
    id: "up", part: "mlp", formula: "Z = \\fn{LN}(X') W_1 + b_1", shape: "{T}×{D} · {D}×{F} → {T}×{F}",
    pictures: [of("mlp_up", "Z", "t", "f", "Z_{t,f} = Σ_d \\fn{LN}(X')_{t,d} (W_1)_{d,f} + (b_1)_f")],
  },
  {
    id: "gelu", part: "mlp", formula: "G = \\fn{GELU}(Z) = \\frac{1}{2} Z (1 + ¦\\fn{tanh}(\\sqrt{2/π} (Z + 0.044715 Z^3)))", shape: "{T}×{F} → {T}×{F}",
    pictures: [of("mlp_gelu", "G", "t", "f", "G_{t,f} = \\fn{GELU}(Z_{t,f})")],
  },
  {
    id: "down", part: "mlp", formula: "\\fn{MLP} = G W_2 + b_2", shape: "{T}×{F} · {F}×{D} → {T}×{D}",
    pictures: [of("mlp_output", "\\fn{MLP}", "t", "d", "\\fn{MLP}_{t,d} = Σ_f G_{t,f} (W_2)_{f,d} + (b_2)_d")],
  },
  {
    id: "output", part: "mlp", formula: "Y = X' + \\fn{MLP}", shape: "{T}×{D} + {T}×{D} → {T}×{D}",
    pictures: [of("output", "Y", "t", "d", "Y_{t,d} = X'_{t,d} + \\fn{MLP}_{t,d}")],
  },
  {
    id: "final_norm", part: "after", formula: "\\fn{LN}(X_{\\fn{out}}) = γ ⊙ \\frac{X_{\\fn{out}} - μ}{\\sqrt{σ^2 + ε}} + β", shape: "{T}×{D} → {T}×{D}",
    pictures: [of("final_norm", "\\fn{LN}(X_{\\fn{out}})", "t", "d", "\\fn{LN}(X_{\\fn{out}})_{t,d} = γ_d \\frac{X_{t,d} - μ_t}{\\sqrt{σ_t^2 + ε}} + β_d", wide)],
  },
  {
    id: "logits", part: "after", formula: "L = \\fn{LN}(X_{\\fn{out}}) E^⊤", shape: "{T}×{D} · {D}×{V} → {T}×{V}",
    pictures: [of("logits", "L", "t", "v", "L_{t,v} = Σ_d \\fn{LN}(X_{\\fn{out}})_{t,d} E_{v,d}", { ...wide, cell: 40 })],
  },
  {
    id: "probabilities", part: "after", formula: "p = \\fn{softmax}(L)", shape: "{T}×{V} → {T}×{V}", bars: true,
    pictures: [of("logits", "p", "t", "v", "p_{t,v} = \\frac{e^{L_{t,v}}}{Σ_w e^{L_{t,w}}}", { ...wide, derive: "softmax" })],
  },
];

export const PARTS = ["before", "attention", "mlp", "after"];
