"""What generation needs from whatever runs the model, and the table of those that can. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_log = logging.getLogger(__name__)


class Session(Protocol):
    """B sequences of one length side by side, with the keys and values of the tokens they hold."""

    @property
    def length(self) -> int:
        """Tokens that every row holds; the next token has this position."""

    def prefill(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B V"]:
        """Add T tokens to every row; the logits that follow the last of them, in host memory.

        A long text may come in several calls. Raises ``ContextLengthError`` past the session's capacity.
        """

    def decode(self, tokens: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B V"]:
        """Add one token to every row; the logits that follow it. Errors as ``prefill``."""

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was: rows may be dropped, or repeated to write them on differently."""


class Scores(NamedTuple):
    """Of n tokens in a row: log p of each, natural, and whether it was the most probable one (the first of equals)."""

    log_probs: Float[np.ndarray, " n"]
    greedy: Bool[np.ndarray, " n"]


class Engine(Protocol):
    """A loaded model that can be run. Logits are float32; float64 from an engine that computes in float64."""

    @property
    def config(self) -> GPT2Config:
        """The model's shape."""

    @property
    def description(self) -> str:
        """The engine, its device and its dtype, for people: ``"torch on cpu in float32"``."""

    def start(self, *, rows: int, capacity: int) -> Session:
        """An empty session of ``rows`` rows; ``capacity`` is the most tokens that a row will hold (at most C)."""

    def logits(self, tokens: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T V"]:
        """The logits after every token of one sequence, in host memory. ``ContextLengthError`` past C tokens."""

    def score(self, rows: Sequence[Int[np.ndarray, " T"]], last: Sequence[int]) -> list[Scores]:
        """Of every row, how its last ``last[i]`` tokens follow from those before them; all rows in one pass.

        Rows may have several lengths, 2 to C + 1 tokens (the final one is only predicted); 1 <= last[i] < length.
        What is computed follows from the rows alone: no logits leave the device, and V of them for each of all
        predicted tokens are never held at once. ``ContextLengthError`` past C + 1 tokens.
        """


Tokens = NDArray[np.int64]

# folder, device ("auto" | "cpu" | "cuda[:n]" | "mps"), dtype (a name such as "fp32"; None is as stored)
EngineFactory = Callable[[Path, str, str | None], Engine]


def _load_torch_engine(folder: Path, device: str, dtype: str | None) -> Engine:
    from gptwo.infer.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, dtype=dtype)


# ``auto`` takes the first. The contract test runs over this table: an engine is tested by being here.
ENGINES: dict[str, EngineFactory] = {"torch": _load_torch_engine}


def load_engine(
    folder: Path, *, engine: str = "auto", device: str = "auto", dtype: str | None = None
) -> Engine:
    """The model in ``folder``, on the engine of that name. What ``auto`` chose is in ``description`` and the log.

    Raises ``ConfigError`` for an unknown name, and what the engine raises for a device, dtype or folder.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ConfigError(f"there is no engine {engine!r}; expected auto or one of {', '.join(ENGINES)}")
    name = next(iter(ENGINES)) if engine == "auto" else engine
    loaded = ENGINES[name](folder, device, dtype)
    _log.info("engine=%s device=%s dtype=%s: %s", engine, device, dtype, loaded.description)
    return loaded
