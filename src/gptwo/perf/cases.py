"""What is timed of an engine: a pass over many tokens, reading a text, and writing one token after another.

Each measures in the process that it runs in, which should be a fresh one (``worker``). What is run is what users run:
an engine's session, and for ``with_text`` the tokenizer and the loop that writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.base.errors import ConfigError
from gptwo.base.memory import resident_bytes
from gptwo.infer.engine import Engine, Session, Tokens
from gptwo.infer.engines import choose_engine, load_chosen
from gptwo.infer.generate import write
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.policy import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.tokenizer import Tokenizer

# Tokens that are written before the first one that counts; on a GPU all are, so that every graph is captured.
_WARM_UP_TOKENS = 4
_TEXT = "The sea keeps what rivers bring it, and gives back what the clouds ask for; it tires of neither. "


class Bench:
    """An engine and what is measured of it: ``batch`` texts of random tokens, ``samples`` times."""

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        engine: str = "auto",
        dtype: str | None = None,
        threads: int | None = None,
        kv_dtype: str | None = None,
        batch: int = 1,
        samples: int = 5,
    ) -> None:
        if batch < 1 or samples < 1:
            raise ConfigError(
                f"batch={batch}, samples={samples} is not possible; expected both to be at least 1"
            )
        self._folder = Path(model)
        self._device = device
        choice = choose_engine(self._folder, engine=engine, device=device, dtype=dtype, kv_dtype=kv_dtype)
        if choice.name == "torch":
            import_module("gptwo.infer.torch_engine")
        self._before, _ = resident_bytes()
        self._engine: Engine = load_chosen(
            self._folder, choice, device=device, dtype=dtype, threads=threads, kv_dtype=kv_dtype
        )
        self._slots = list(range(batch))
        self._samples = samples

    def forward(self, *, tokens: int) -> dict[str, Any]:
        """Seconds of a pass over ``batch`` × ``tokens`` to the logits of every token, which stay on the device."""
        texts = self._texts(tokens)
        if not isinstance(self._engine, NativeEngine):
            return self._result(seconds=torch_forward(self._engine, np.stack(texts), self._samples))
        session = self._start(tokens)
        lasts = [tokens] * len(texts)
        return self._result(seconds=self._passes(session, lambda: session.read(self._slots, texts, lasts)))

    def prefill(self, *, tokens: int, with_text: bool = False) -> dict[str, Any]:
        """Seconds to the logits that follow ``batch`` texts of ``tokens``; ``with_text`` encodes them first."""
        session = self._start(tokens)
        if not with_text:
            texts = self._texts(tokens)
            return self._result(seconds=self._passes(session, lambda: session.prefill(self._slots, texts)))
        tokenizer = Tokenizer.load(self._folder)
        text = _text_of(tokenizer, tokens)

        def from_text() -> None:
            ids = [np.array(tokenizer.encode(text)[:tokens], dtype=np.int64) for _ in self._slots]
            session.prefill(self._slots, ids)

        return self._result(seconds=self._passes(session, from_text))

    def decode(self, *, past: int, with_text: bool = False) -> dict[str, Any]:
        """Seconds of each of ``samples`` steps, that add a token to each of ``batch`` texts of ``past`` tokens.

        Where the context ends before the last step, the texts are cut back to ``past`` and written anew. The most
        probable token is taken; ``with_text`` draws from the whole distribution (temperature 1) and gives text, in the
        loop that ``generate`` runs. ``first_token_s``: from the prompt's tokens to the first new one; None where there
        is no prompt. With text, the prompt of ``past`` 0 is one token.
        """
        return self._written(past) if with_text else self._decoded(past)

    def _decoded(self, past: int) -> dict[str, Any]:
        warm_ups = self._samples if self._device.startswith("cuda") else min(_WARM_UP_TOKENS, self._samples)
        # At least one, which then says that it is too long.
        run = max(1, min(self._samples, self._engine.config.context - past))
        session, texts = self._start(past + run), self._texts(past) if past else []
        began = time.perf_counter()
        if past:
            session.prefill(self._slots, texts)
        first_token_s = time.perf_counter() - began if past else None
        token = self._texts(1)
        for count in (warm_ups, self._samples):
            seconds: list[float] = []
            for step in range(count):
                if step % run == 0:
                    for slot in self._slots:
                        session.truncate(slot, past)
                began = time.perf_counter()
                tops = session.read_top(self._slots, token, [1] * len(token), 1)
                token = [top.ids_nk[0].astype(np.int64) for top in tops]
                seconds.append(time.perf_counter() - began)
        return self._result(seconds=seconds, first_token_s=first_token_s)

    def _written(self, past: int) -> dict[str, Any]:
        tokenizer = Tokenizer.load(self._folder)
        warm_ups = self._samples if self._device.startswith("cuda") else min(_WARM_UP_TOKENS, self._samples)
        for count in (warm_ups, self._samples):
            task = Task(
                prompts=self._texts(max(1, past)),
                policy=SamplingPolicy(seed=0),
                max_new_tokens=count + 1,
                ignore_eos=True,
            )
            times = [time.perf_counter()]
            # Rows that began alike would be read once; these differ, and each gives one piece in a step.
            for number, _ in write(self._engine, tokenizer, task):
                if number == self._slots[-1]:
                    times.append(time.perf_counter())
        steps = np.diff(times).tolist()
        return self._result(seconds=steps[1:], first_token_s=steps[0])

    def _start(self, capacity: int) -> Session:
        return self._engine.start(slots=len(self._slots), capacity=capacity)

    def _texts(self, tokens: int) -> list[Tokens]:
        drawn = np.random.default_rng(0).integers(
            self._engine.config.vocab_size - 1, size=(len(self._slots), tokens)
        )
        return list(drawn.astype(np.int64))

    def _passes(self, session: Session, work: Callable[[], object]) -> list[float]:
        """Seconds of ``work`` on an empty session, after once to warm up. Its logits reach the host."""
        seconds = []
        for _ in range(1 + self._samples):
            for slot in self._slots:
                session.truncate(slot, 0)
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return seconds[1:]

    def _result(self, **figures: Any) -> dict[str, Any]:
        return {
            **figures,
            "peak_memory_bytes": peak_memory_bytes(self._device),
            "memory_before_bytes": self._before,
            "description": self._engine.description,
        }


def torch_forward(engine: Any, tokens: np.ndarray[Any, np.dtype[np.int64]], samples: int) -> list[float]:
    """Seconds of the model's own forward pass, of a ``TorchEngine``, after one to warm up; its device is waited for."""
    import torch

    from gptwo.perf.clock import host_clock

    model = engine.model
    device = model.token_embedding.weight.device
    given, seconds = torch.tensor(tokens, device=device), host_clock(device)
    with torch.inference_mode():
        return [seconds(lambda: model(given)) for _ in range(1 + samples)][1:]


def peak_memory_bytes(device: str) -> int:
    """The most so far: of torch's tensors on a GPU, else of the process's resident memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(torch.device(device))
    return resident_bytes()[1]


def _text_of(tokenizer: Tokenizer, tokens: int) -> str:
    """Text of at least so many tokens, and few more."""
    sentence = tokenizer.encode(_TEXT)
    whole = sentence * (tokens // len(sentence) + 2)
    # The end of a text that was cut may be encoded in another way.
    for spare in range(len(sentence)):
        text = tokenizer.decode(whole[: tokens + spare])
        if len(tokenizer.encode(text)) >= tokens:
            return text
    return tokenizer.decode(whole)
