"""The one table between our parameter names and the released ones. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gptwo.config import GPT2Config


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter under its two names.

    ``shape`` is ours. The released checkpoints keep the four projections of a block as Conv1D, (in, out), where our
    Linear is (out, in): those are ``transposed``.
    """

    ours: str
    released: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def released_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.transposed else self.shape


def parameter_table(config: GPT2Config) -> tuple[Parameter, ...]:
    """Every parameter of a model of this shape, in the order of the forward pass; 4 + 12 L rows.

    The head is token_embedding itself (paper §6), so it has no row.
    """
    D, F = config.n_embd, config.mlp_width
    rows = [
        Parameter("token_embedding.weight", "transformer.wte.weight", (config.vocab_size, D)),
        Parameter("position_embedding.weight", "transformer.wpe.weight", (config.context, D)),
    ]
    for i in range(config.n_layer):
        rows += _norm(f"blocks.{i}.attention_norm", f"transformer.h.{i}.ln_1", D)
        rows += _projection(f"blocks.{i}.attention.qkv", f"transformer.h.{i}.attn.c_attn", 3 * D, D)
        rows += _projection(f"blocks.{i}.attention.output", f"transformer.h.{i}.attn.c_proj", D, D)
        rows += _norm(f"blocks.{i}.mlp_norm", f"transformer.h.{i}.ln_2", D)
        rows += _projection(f"blocks.{i}.mlp.up", f"transformer.h.{i}.mlp.c_fc", F, D)
        rows += _projection(f"blocks.{i}.mlp.down", f"transformer.h.{i}.mlp.c_proj", D, F)
    rows += _norm("final_norm", "transformer.ln_f", D)
    return tuple(rows)


def _norm(ours: str, released: str, width: int) -> list[Parameter]:
    return [
        Parameter(f"{ours}.weight", f"{released}.weight", (width,)),
        Parameter(f"{ours}.bias", f"{released}.bias", (width,)),
    ]


def _projection(ours: str, released: str, outputs: int, inputs: int) -> list[Parameter]:
    return [
        Parameter(f"{ours}.weight", f"{released}.weight", (outputs, inputs), transposed=True),
        Parameter(f"{ours}.bias", f"{released}.bias", (outputs,)),
    ]
