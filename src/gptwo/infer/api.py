"""A loaded model as Python sees it: ``gptwo.load(path)`` → ``LanguageModel``. No torch until an engine needs it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.base.errors import TokenizerError
from gptwo.checkpoint.resolve import resolve_model
from gptwo.config import GPT2Config
from gptwo.infer.engine import Engine, Tokens, load_engine
from gptwo.infer.generate import Generation, Task, write
from gptwo.infer.prompt import require_room, require_tokens
from gptwo.infer.sampling import SamplingPolicy, log_probabilities
from gptwo.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float


def load(
    path: str | Path, device: str = "auto", dtype: str | None = None, *, engine: str = "auto"
) -> LanguageModel:
    """The model in a checkpoint folder, a run of ``gptwo train`` (its newest checkpoint), or on the hub.

    device   "auto" | "cpu" | "cuda[:n]" | "mps"
    dtype    "fp32" | "bf16" | "fp16" | "fp64"; None is as stored
    engine   "auto" | "torch"; what was chosen is in ``.description``

    Raises ``CheckpointError``, ``DeviceError`` or ``ConfigError``, each in one line.
    """
    folder = resolve_model(path)
    return LanguageModel(
        load_engine(folder, engine=engine, device=str(device), dtype=None if dtype is None else str(dtype)),
        folder,
    )


class TextPieces(Iterator[str]):
    """Text as it becomes final; joined, the pieces are ``generation.text``."""

    def __init__(self, written: Generator[tuple[int, str], None, list[Generation]]) -> None:
        self._written = written
        self.generation: Generation | None = None
        """The whole result, once the pieces are exhausted."""

    def __next__(self) -> str:
        try:
            while True:
                _, piece = next(self._written)
                if piece:
                    return piece
        except StopIteration as end:
            if end.value is not None:
                (self.generation,) = end.value
            raise StopIteration from None


class LanguageModel:
    """A GPT-2 with its tokenizer, ready to write and to be asked. Made by ``load``.

    Prompts are text or token ids. What every method of writing takes:

    max_new_tokens       most ids to write
    temperature          τ ≥ 0; 0 always takes the most probable token
    top_k, top_p, min_p  filters, None for none: ``sampling.SamplingPolicy``
    repetition_penalty   above 1, tokens that are there already become less probable
    seed                 the same seed, the same text; None draws one, returned in the result
    stop                 a string, or several, that end the text and are cut from it
    slide                when the context is full, go on from its last half; otherwise writing ends there
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._tokenizer: Tokenizer | TokenizerError | None = None

    @property
    def engine(self) -> Engine:
        """What runs it, with everything that an engine can do."""
        return self._engine

    @property
    def folder(self) -> Path:
        """Where it was loaded from: config.json, the weights and the tokenizer."""
        return self._folder

    @property
    def config(self) -> GPT2Config:
        """The model's shape."""
        return self._engine.config

    @property
    def description(self) -> str:
        """What runs it: ``"torch on cpu in float32"``."""
        return self._engine.description

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the model's folder; ``TokenizerError`` when there is none."""
        found = self._found_tokenizer()
        if isinstance(found, TokenizerError):
            raise TokenizerError(str(found))
        return found

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        slide: bool = False,
    ) -> Generation:
        """Go on from ``prompt``; an empty one begins at ``<|endoftext|>``.

        Raises ``ContextLengthError``, ``ConfigError`` or ``TokenizerError``, each in one line.
        """
        return self.generate_many(
            prompt,
            num=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            slide=slide,
        )[0]

    def generate_many(
        self,
        prompt: str | Sequence[int],
        *,
        num: int,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        slide: bool = False,
    ) -> list[Generation]:
        """``num`` texts from one prompt, run together. The i-th is that of ``generate`` with seed + i."""
        policy = SamplingPolicy(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        written = self._write(prompt, policy, max_new_tokens=max_new_tokens, num=num, stop=stop, slide=slide)
        while True:
            try:
                next(written)
            except StopIteration as end:
                generations: list[Generation] = end.value
                return generations

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        slide: bool = False,
    ) -> TextPieces:
        """``generate`` piece by piece: never half a character, never part of a stop string.

        Settings and prompt are checked at once; the model runs when pieces are asked for.
        """
        policy = SamplingPolicy(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        _ = self.tokenizer  # pieces of text need one
        return TextPieces(
            self._write(prompt, policy, max_new_tokens=max_new_tokens, num=1, stop=stop, slide=slide)
        )

    def logits(self, tokens: Sequence[int] | np.ndarray[Any, Any]) -> Float[np.ndarray, "T V"]:
        """The logits after each of T tokens, float32 (float64 when the model runs in that)."""
        return self._engine.logits(self._checked(tokens, "the text"))

    def score(self, tokens: Sequence[int] | np.ndarray[Any, Any]) -> Float[np.ndarray, " T-1"]:
        """log p(t_i | t_0 … t_i-1) for every token after the first, natural, float64: T - 1 values.

        Raises ``ContextLengthError`` for more than C tokens.
        """
        checked = self._checked(tokens, "the text")
        return log_probabilities(self._engine.logits(checked)[:-1], checked[1:])

    def _checked(self, tokens: Sequence[int] | np.ndarray[Any, Any], what: str) -> Tokens:
        checked = require_tokens(tokens, self.config.vocab_size)
        require_room(len(checked), self.config.context, what)
        if not len(checked):
            raise TokenizerError(f"{what} has no tokens; expected at least one")
        return checked

    def _write(
        self,
        prompt: str | Sequence[int],
        policy: SamplingPolicy,
        *,
        max_new_tokens: int,
        num: int,
        stop: str | Sequence[str] | None,
        slide: bool,
    ) -> Generator[tuple[int, str], None, list[Generation]]:
        found = self._found_tokenizer()
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        tokenizer = self.tokenizer if isinstance(prompt, str) or stops else found
        ids: Sequence[int] = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not len(ids):
            if isinstance(tokenizer, TokenizerError) or tokenizer.eot_id is None:
                raise TokenizerError(
                    "the prompt is empty and the tokenizer has no <|endoftext|> to begin from; expected a prompt"
                )
            ids = [tokenizer.eot_id]
        task = Task(
            prompt=self._checked(ids, "the prompt"),
            policy=policy,
            max_new_tokens=max_new_tokens,
            num=num,
            stop=stops,
            slide=slide,
        )
        return write(self._engine, tokenizer if isinstance(tokenizer, Tokenizer) else None, task)

    def _found_tokenizer(self) -> Tokenizer | TokenizerError:
        # Looked for on first use: logits and scores of ids need none.
        if self._tokenizer is None:
            try:
                self._tokenizer = Tokenizer.load(self._folder)
            except TokenizerError as error:
                self._tokenizer = error
        return self._tokenizer
