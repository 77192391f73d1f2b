"""Settings as frozen, validated dataclasses; the four published sizes and a few that train on a CPU. No torch."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from gptwo.base.errors import ConfigError


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}={value!r} is not possible; expected a whole number of at least 1")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value read from a flag or from TOML is of the annotated type; a whole number may stand for a float."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return value in options
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, options[0]) for item in value)
    for option in options or (hint,):
        if isinstance(value, bool):
            if option is bool:
                return True
        elif isinstance(value, option) or (option is float and isinstance(value, int)):
            return True
    return False


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
        if not (_fits(self.dropout, float) and 0.0 <= self.dropout < 1.0):
            raise ConfigError(f"dropout={self.dropout!r} is not possible; expected 0 <= dropout < 1")
        epsilon = self.layer_norm_epsilon
        if not (_fits(epsilon, float) and 0.0 < epsilon < float("inf")):
            raise ConfigError(f"layer_norm_epsilon={epsilon!r} is not possible; expected a finite number > 0")

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
    "micro": GPT2Config(n_layer=4, n_head=4, n_embd=192, context=128, vocab_size=4096, dropout=0.0),
    "mini": GPT2Config(n_layer=6, n_head=6, n_embd=384, context=256, vocab_size=4096, dropout=0.0),
}


def preset(name: str) -> GPT2Config:
    """The configuration of a named size; ``ConfigError`` lists the names when there is no such size."""
    if name not in PRESETS:
        raise ConfigError(f"there is no size {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def setting(default: Any = dataclasses.MISSING, *, help: str) -> Any:  # noqa: A002 - argparse calls it so
    """A field whose help line is the one that ``gptwo train --help`` prints."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of a training run: the flags of ``gptwo train`` and the keys of its TOML file, the same names.

    Raises ``ConfigError`` for a value, or a combination, that cannot be.
    """

    data: str = setting(help="folder made by `gptwo prepare`")
    out: str = setting(help="folder of the run: checkpoints, log, plot, samples")
    model: str = setting(
        "micro", help="a size (`gptwo info --help` lists them), or a checkpoint to start from"
    )
    n_layer: int | None = setting(None, help="blocks L, instead of the size's own")
    n_head: int | None = setting(None, help="attention heads H, instead of the size's own")
    n_embd: int | None = setting(None, help="width D, instead of the size's own")
    context: int | None = setting(None, help="context length C in tokens, instead of the size's own")
    dropout: float | None = setting(None, help="dropout, instead of the size's own")
    batch_tokens: int = setting(4096, help="tokens per step, a multiple of the context")
    micro_batch: int | None = setting(
        None, help="sequences that run at once; derived from the free memory when not given"
    )
    steps: int = setting(1000, help="optimizer steps")
    optimizer: Literal["auto", "adamw", "muon"] = setting(
        "auto", help="muon: Muon for the blocks' matrices, AdamW for the rest; auto is muon for a fresh model"
    )
    lr: float | None = setting(None, help="AdamW's highest learning rate; the size's own when not given")
    muon_lr: float | None = setting(None, help="Muon's highest learning rate; the size's own when not given")
    schedule: Literal["auto", "cosine", "wsd", "linear"] = setting(
        "auto", help="how learning rates fall after the warm-up; wsd keeps them, then falls linearly"
    )
    min_lr: float | None = setting(
        None, help="AdamW's learning rate at the end, Muon's in proportion; the size's own when not given"
    )
    warmup_steps: int | None = setting(
        None, help="steps over which learning rates rise from 0; the size's own when not given"
    )
    decay_fraction: float | None = setting(
        None, help="wsd: share of the steps, at the end, over which it falls; the size's own when not given"
    )
    weight_decay: float | None = setting(
        None, help="decay of matrices, none for biases and norms; the size's own when not given"
    )
    beta1: float = setting(0.9, help="AdamW's decay of the mean of gradients")
    beta2: float | None = setting(
        None, help="AdamW's decay of the mean of squared gradients; the size's own when not given"
    )
    grad_clip: float = setting(1.0, help="largest norm of the gradient; 0 for no limit")
    eval_every: int = setting(250, help="steps between evaluations on the validation split")
    eval_tokens: int | None = setting(
        None, help="validation tokens to evaluate; the whole split when not given"
    )
    spike_nats: float = setting(
        1.0, help="go back when 3 losses in a row lie so far above all of the last 100; 0 for never"
    )
    save_every: int = setting(250, help="steps between checkpoints; the last step is always saved")
    keep_last: int = setting(
        3, help="newest checkpoints to keep, beside the one of the lowest validation loss"
    )
    log_every: int = setting(10, help="steps between lines of metrics.jsonl")
    sample_prompt: str = setting("\n", help="what the sample at each evaluation goes on from")
    sample_tokens: int = setting(128, help="tokens of the sample at each evaluation; 0 for none")
    seed: int = setting(0, help="decides the initial weights, the order of the data and dropout")
    device: str = setting("auto", help="auto, cpu, cuda, cuda:N or mps")
    dtype: Literal["auto", "fp32", "bf16"] = setting(
        "auto", help="arithmetic of the step; auto is bf16 where the device has it in hardware, else fp32"
    )
    compile: bool | None = setting(
        None,
        help="compile the step with torch.compile, which needs a C++ compiler; "
        "when not given, on a GPU where there is one (on a CPU the step as written is as fast, and starts at once)",
    )
    checkpoint_activations: bool = setting(
        False, help="keep one activation per block and compute the rest again: less memory, a third more work"
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "ddp",
        help="several ranks (torchrun): ddp has the whole model on each, fsdp a part of every parameter",
    )
    force: bool = setting(False, help="begin even where the plan says that the memory is too small")
    track: Literal["none", "tensorboard", "trackio"] = setting(
        "none", help="also write the metrics for a tracker"
    )

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, hints[field.name]):
                raise ConfigError(
                    f"{field.name}={value!r} is not possible; expected {_describe(hints[field.name])}"
                )
            _require_storable(field.name, value)
        _require_positive(self, "steps", "eval_every", "save_every", "keep_last", "log_every")
        for name in ("n_layer", "n_head", "n_embd", "context", "batch_tokens", "micro_batch", "eval_tokens"):
            if getattr(self, name) is not None:
                _require_positive(self, name)
        for name in ("warmup_steps", "sample_tokens", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} is not possible; expected 0 or more")
        for name in ("weight_decay", "grad_clip", "lr", "muon_lr", "spike_nats"):
            if not 0.0 <= (getattr(self, name) or 0.0) < float("inf"):
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not possible; expected a finite number >= 0"
                )
        for name in ("beta1", "beta2"):
            if not 0.0 <= (getattr(self, name) or 0.0) < 1.0:
                raise ConfigError(f"{name}={getattr(self, name)} is not possible; expected 0 <= {name} < 1")
        self._require_schedule()

    def _require_schedule(self) -> None:
        if self.decay_fraction is not None and not 0.0 < self.decay_fraction <= 1.0:
            raise ConfigError(
                f"decay_fraction={self.decay_fraction} is not possible; expected 0 < decay_fraction <= 1"
            )
        if self.min_lr is None:
            return
        if self.lr is None and not 0.0 <= self.min_lr < float("inf"):
            raise ConfigError(f"min_lr={self.min_lr} is not possible; expected a finite number >= 0")
        if self.lr is not None and not 0.0 <= self.min_lr <= self.lr:
            raise ConfigError(f"min_lr={self.min_lr} is not possible; expected 0 <= min_lr <= lr={self.lr}")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], *, where: str = "settings") -> Self:
        """The configuration of a mapping, e.g. a parsed TOML file. An unknown or missing key is a ``ConfigError``."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"{where}: unknown key {name!r}; expected one of {', '.join(known)}")
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in settings:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{where}: {name!r} is missing; give {flag} {name.upper()}: {field.metadata['help']}"
                )
        return cls(**settings)

    def to_mapping(self) -> dict[str, Any]:
        """The settings that are not None, ready for TOML; ``from_mapping`` is the inverse."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def resolved(self, name: str) -> float:
        """A number that a user may leave out, once ``recipes.resolve_recipe`` has filled it in."""
        value: float | None = getattr(self, name)
        assert value is not None, f"{name} is not resolved"
        return value

    def model_changes(self) -> dict[str, Any]:
        """The fields of ``GPT2Config`` that this run sets itself."""
        names = ("n_layer", "n_head", "n_embd", "context", "dropout")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _require_storable(name: str, value: object) -> None:
    # A generator's seed, a tensor's size and a TOML file's whole numbers are signed 64-bit integers.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{name}={value} is not possible; expected at most 2**63 - 1")
    # Bytes of a command line that are not UTF-8 arrive as lone surrogates.
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{name}={value!r} is not possible; expected text in UTF-8")


def _describe(hint: Any) -> str:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(option) for option in options)
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return " or ".join(words[option] for option in options or (hint,) if option in words)
