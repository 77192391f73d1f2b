"""A loaded model as Python sees it: ``gptwo.load(path)`` → ``LanguageModel``. No torch until an engine needs it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from gptwo.base.errors import ConfigError, GptwoError, TokenizerError
from gptwo.checkpoint.resolve import resolve_model
from gptwo.config import GPT2Config
from gptwo.infer.engine import Engine, Tokens
from gptwo.infer.engines import choose_engine, load_chosen
from gptwo.infer.generate import result_of, write
from gptwo.infer.prompt import require_room, require_tokens
from gptwo.infer.sampling import SamplingPolicy, log_probabilities
from gptwo.infer.settings import SamplingSettings, WritingSettings
from gptwo.infer.task import Generation, Task, require_count
from gptwo.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float


def load(
    path: str | Path,
    device: str = "auto",
    dtype: str | None = None,
    *,
    engine: str = "auto",
    threads: int | None = None,
    kv_dtype: str | None = None,
) -> LanguageModel:
    """The model in a checkpoint folder, a run of ``gptwo train`` (its newest checkpoint), or on the hub.

    device    "auto" | "cpu" | "cuda[:n]" | "mps"
    dtype     "fp32" | "bf16" | on the native engine "int8" | "int4" | on torch "fp16" | "fp64"; None is as stored
    engine    "auto" | "native" | "torch"; auto is native on a CPU, and where it cannot be, ``.description`` says why
    threads   of the CPU; None for the physical cores (of torch: what it has)
    kv_dtype  of the keys and values that writing keeps: on the native engine "fp32" | "bf16" | "int8"; None is as the
              weights, and int8 beside int4

    Raises ``CheckpointError``, ``DeviceError`` or ``ConfigError``, each in one line.
    """
    folder = resolve_model(path)
    place, kind = str(device), None if dtype is None else str(dtype)
    kept = None if kv_dtype is None else str(kv_dtype)
    choice = choose_engine(folder, engine=engine, device=place, dtype=kind, kv_dtype=kept)
    loaded = load_chosen(folder, choice, device=place, dtype=kind, threads=threads, kv_dtype=kept)
    return LanguageModel(loaded, folder, engine_reason=choice.reason)


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

    Prompts are text or token ids. Every method of writing takes the same settings by name:

    max_new_tokens       most ids to write (default 128)
    temperature          τ ≥ 0; 0 always takes the most probable token (default 1)
    top_k, top_p, min_p  filters, None for none (default)
    repetition_penalty   above 1, tokens in the prompt and the text become less probable (default 1)
    presence_penalty     is taken from the logit of a token that the text has, the prompt left out (default 0)
    frequency_penalty    the same, as often as the text has it (default 0)
    logit_bias           {id: what is added to its logit}
    seed                 the same seed, the same text; None draws one, returned in the result
    stop                 a string, or several, that end the text and are cut from it
    slide                when the context is full, go on from its last half; otherwise writing ends there (default)
    lookup               guess from repetitions in the text: faster, the same output; not on every engine

    The equations of sampling and their order are in ``infer/sampling.py``.
    """

    def __init__(self, engine: Engine, folder: Path, *, engine_reason: str | None = None) -> None:
        self.engine_reason = engine_reason
        """Why ``engine="auto"`` did not take the native engine, in a line; None where it did, or was not asked."""
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
        """What runs it: ``"native on cpu in fp32 (avx2, 2 threads)"``, and why, where ``auto`` chose torch."""
        return self._engine.description + (f"; {self.engine_reason}" if self.engine_reason else "")

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the model's folder; ``TokenizerError`` when there is none."""
        found = self._found_tokenizer()
        if isinstance(found, TokenizerError):
            raise TokenizerError(str(found))
        return found

    def generate(self, prompt: str | Sequence[int], **settings: Unpack[WritingSettings]) -> Generation:
        """Go on from ``prompt``; an empty one begins at ``<|endoftext|>``. The settings are those of the class.

        Raises ``ContextLengthError``, ``ConfigError`` or ``TokenizerError``, each in one line.
        """
        return self.generate_many(prompt, num=1, **settings)[0]

    def generate_many(
        self, prompt: str | Sequence[int], *, num: int, **settings: Unpack[WritingSettings]
    ) -> list[Generation]:
        """``num`` texts from one prompt, run together. The i-th is that of ``generate`` with seed + i."""
        require_count("num", num)
        return result_of(self._write([self.prompt_ids(prompt)] * num, **settings))

    def generate_batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        batch: int = 8,
        **settings: Unpack[WritingSettings],
    ) -> list[Generation]:
        """A text for each prompt, in their order. That of ``prompts[i]`` is that of ``generate`` with seed + i.

        ``batch`` of them are written side by side, each with memory for its keys and values; when one ends, the next
        prompt takes its place. Errors as ``generate``, before anything is written, and saying which prompt.
        """
        if isinstance(prompts, str):
            raise ConfigError("prompts is one text; expected a list of prompts, or generate(prompt)")
        ids = []
        for number, prompt in enumerate(prompts, start=1):
            try:
                ids.append(self.prompt_ids(prompt))
            except GptwoError as error:
                raise type(error)(f"prompt {number} of {len(prompts)}: {error}") from error
        return result_of(self._write(ids, batch=batch, **settings)) if ids else []

    def stream(self, prompt: str | Sequence[int], **settings: Unpack[WritingSettings]) -> TextPieces:
        """``generate`` piece by piece: never half a character, never part of a stop string.

        Settings and prompt are checked at once; the model runs when pieces are asked for.
        """
        _ = self.tokenizer  # pieces of text need one
        return TextPieces(self._write([self.prompt_ids(prompt)], **settings))

    def logits(self, tokens: Sequence[int] | np.ndarray[Any, Any]) -> Float[np.ndarray, "T V"]:
        """The logits after each of T tokens, float32 (float64 when the model runs in that)."""
        return self._engine.logits(self._checked(tokens, "the text"))

    def score(self, tokens: Sequence[int] | np.ndarray[Any, Any]) -> Float[np.ndarray, " T-1"]:
        """log p(t_i | t_0 … t_i-1) for every token after the first, natural, float64: T - 1 values.

        Raises ``ContextLengthError`` for more than C tokens.
        """
        checked = self._checked(tokens, "the text")
        return log_probabilities(self._engine.logits(checked)[:-1], checked[1:])

    def prompt_ids(self, prompt: str | Sequence[int]) -> Tokens:
        """The ids that ``generate`` begins from, of an empty prompt ``<|endoftext|>``. Errors as ``generate``."""
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        checked = require_tokens(ids, self.config.vocab_size)
        if not len(checked):
            tokenizer = self._found_tokenizer()
            if isinstance(tokenizer, TokenizerError) or tokenizer.eot_id is None:
                raise TokenizerError(
                    "the prompt is empty and the tokenizer has no <|endoftext|> to begin from; expected a prompt"
                )
            checked = np.array([tokenizer.eot_id], dtype=np.int64)
        require_room(len(checked), self.config.context, "the prompt")
        return checked

    def _checked(self, tokens: Sequence[int] | np.ndarray[Any, Any], what: str) -> Tokens:
        checked = require_tokens(tokens, self.config.vocab_size)
        require_room(len(checked), self.config.context, what)
        if not len(checked):
            raise TokenizerError(f"{what} has no tokens; expected at least one")
        return checked

    def _write(
        self,
        prompts: Sequence[Tokens],
        *,
        batch: int | None = None,
        max_new_tokens: int = 128,
        stop: str | Sequence[str] | None = None,
        slide: bool = False,
        lookup: bool = False,
        **sampling: Unpack[SamplingSettings],
    ) -> Generator[tuple[int, str], None, list[Generation]]:
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        tokenizer = self.tokenizer if stops else self._found_tokenizer()
        task = Task(
            prompts=prompts,
            policy=SamplingPolicy(**sampling),
            max_new_tokens=max_new_tokens,
            batch=batch,
            stop=stops,
            slide=slide,
            lookup=lookup,
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
