"""Notation: the same letters in code, docs and plots. ``docs/notation.md`` is this table, and a test says so.

A name like ``q_BHTK`` carries its layout as a suffix; annotations at borders use the same letters
(``Float[Tensor, "B T D"]``, read by people and never enforced at run time).
"""

AXES: dict[str, str] = {
    "B": "batch: sequences side by side",
    "T": "query positions: tokens of this call",
    "S": "key positions: tokens that a query may look at, the cached ones included",
    "D": "width of the residual stream",
    "H": "attention heads",
    "K": "head width, D/H",
    "F": "MLP width, 4 D unless said otherwise",
    "V": "vocabulary size",
    "L": "layers (blocks); in the paper's P (L×D) the context length, which is C here",
    "C": "context length: positions that the model knows",
}
