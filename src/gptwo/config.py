"""Settings as frozen, validated dataclasses; the four published sizes and a few that train on a CPU. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gptwo.base.errors import ConfigError


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}={value!r} is not possible; expected a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2: everything that decides its parameters and its forward pass.

    n_layer L · n_head H · n_embd D · n_inner F (4 D when None) · context C · vocab_size V ·
    dropout on embeddings, attention and residuals alike · layer_norm_epsilon ε.
    Raises ``ConfigError`` for a shape that cannot be.
    """

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    context: int = 1024
    vocab_size: int = 50257
    n_inner: int | None = None
    dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _require_positive(self, "n_layer", "n_head", "n_embd", "context", "vocab_size")
        if self.n_inner is not None:
            _require_positive(self, "n_inner")
        if self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            above = below + self.n_head
            widths = f"widths are {below} and {above}" if below else f"width is {above}"
            raise ConfigError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; nearest {widths}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout} is not possible; expected 0 <= dropout < 1")
        if not self.layer_norm_epsilon > 0.0:
            raise ConfigError(f"layer_norm_epsilon={self.layer_norm_epsilon} is not possible; expected > 0")

    @property
    def head_width(self) -> int:
        """K = D / H."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """F, 4 D unless ``n_inner`` says otherwise."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd


PRESETS: dict[str, GPT2Config] = {
    # The published sizes (paper §6, §9).
    "gpt2": GPT2Config(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": GPT2Config(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPT2Config(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPT2Config(n_layer=48, n_head=25, n_embd=1600),
    # Sizes that train on a CPU. vocab_size is replaced by the data's own when training.
    "nano": GPT2Config(n_layer=4, n_head=4, n_embd=128, context=64, vocab_size=256, dropout=0.0),
    "micro": GPT2Config(n_layer=4, n_head=4, n_embd=256, context=256, vocab_size=4096, dropout=0.0),
    "mini": GPT2Config(n_layer=6, n_head=6, n_embd=384, context=256, vocab_size=4096, dropout=0.0),
}


def preset(name: str) -> GPT2Config:
    """The configuration of a named size; ``ConfigError`` lists the names when there is no such size."""
    if name not in PRESETS:
        raise ConfigError(f"there is no size {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
