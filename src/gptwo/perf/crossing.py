"""From where on the GPU is done first: by batch, by length, and by how many tokens are written, start-up included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# A prompt and a text of this many tokens; more tokens are more texts, one after another.
PROMPT, TEXT = 32, 256
_TOKENS = tuple(1 << power for power in range(21))
BATCHES = (1, 2, 4, 8, 16, 32)
# Of the passes that are compared by batch, and the length that is compared one text at a time.
LENGTH = 128
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One device with what it runs on: seconds of each thing, transfers of ids and logits included.

    ``start_s`` is from the shell to a model that is ready; ``forward(batch, tokens)`` one pass; ``prefill(tokens)`` a
    prompt; ``token(past)`` one more token. ``measured`` says whether they are, and ``basis`` what they rest on.
    ``copy_s`` is of all weights to a device that is predicted. ``pass_tokens`` are the fewest and the most of a pass
    that ``forward`` knows of, batch × tokens; None where it knows of any.
    """

    device: str
    label: str
    measured: bool
    start_s: float
    forward: Callable[[int, int], float]
    prefill: Callable[[int], float]
    token: Callable[[int], float]
    basis: tuple[str, ...]
    copy_s: float | None = None
    pass_tokens: tuple[int, int] | None = None

    def knows(self, batch: int, tokens: int) -> bool:
        """Whether ``forward`` of these rests on passes as small and as large."""
        return self.pass_tokens is None or self.pass_tokens[0] <= batch * tokens <= self.pass_tokens[1]


def crossing(cpu: Side, gpu: Side, *, context: int, quicker: Side | None = None) -> dict[str, Any]:
    """Both sides' seconds over batch, length and tokens written, and ``points``: from where on the GPU is done first.

    ``quicker`` is what else writes on the CPU, faster because with fewer bits: its tokens stand beside, as ``also``.
    A point of batch or length is of one pass of a model that is loaded, and ``passes`` of each is from how many such
    passes on the GPU is first with its start-up counted. A point is None where the GPU never is. Only passes that lie
    between those that were measured are compared.
    """
    by_batch = _passes(cpu, gpu, [(batch, min(LENGTH, context)) for batch in BATCHES])
    by_length = _passes(cpu, gpu, [(1, tokens) for tokens in dict.fromkeys(min(n, context) for n in LENGTHS)])
    text = min(TEXT, context - min(PROMPT, context // 2))
    prompt = min(PROMPT, context // 2)
    on_cpu, on_gpu = (_Writer(side, prompt, text) for side in (cpu, gpu))
    by_tokens = [
        {"tokens": tokens, "cpu_s": on_cpu.seconds(tokens), "gpu_s": on_gpu.seconds(tokens)}
        for tokens in _TOKENS
    ]
    also = None
    if quicker is not None:
        writer = _Writer(quicker, prompt, text)
        also = {
            "cpu": quicker.label,
            "by_tokens": [{"tokens": tokens, "cpu_s": writer.seconds(tokens)} for tokens in _TOKENS],
            "tokens": _first_token(writer, on_gpu),
        }
    found = {
        "cpu": cpu.label,
        "gpu": gpu.label,
        "cpu_measured": cpu.measured,
        "gpu_measured": gpu.measured,
        "cpu_start_s": cpu.start_s,
        "gpu_start_s": gpu.start_s,
        "gpu_copy_s": gpu.copy_s,
        "basis": {"cpu": list(cpu.basis), "gpu": list(gpu.basis)},
        "pass_tokens": min(LENGTH, context),
        "text_tokens": text,
        "by_batch": by_batch,
        "by_length": by_length,
        "by_tokens": by_tokens,
        "points": {
            "batch": _first(by_batch, "batch"),
            "length": _first(by_length, "tokens"),
            "tokens": _first_token(on_cpu, on_gpu),
        },
        "also": also,
    }
    return {**found, "verdict": _verdict(found)}


def _verdict(found: dict[str, Any]) -> str:
    """What a person who must decide wants to know, in two or three sentences."""
    also = found["also"]
    writing = _writing(found["points"]["tokens"], predicted=not found["gpu_measured"])
    quicker = ""
    if also and also["tokens"] != found["points"]["tokens"]:
        again = _writing(also["tokens"], predicted=not found["gpu_measured"])
        engine = also["cpu"].rpartition(", ")[2]
        quicker = f" With {engine} on the CPU: {again[0].lower()}{again[1:]}"
    if not found["by_length"]:
        return f"{writing}{quicker}"
    longest = found["by_length"][-1]
    ratio = longest["cpu_s"] / longest["gpu_s"]
    faster = f"{ratio:,.1f} times faster" if ratio >= 1 else f"{1 / ratio:,.1f} times slower"
    engine, verb = found["cpu"].rpartition(", ")[2], "is" if found["gpu_measured"] else "would be"
    return (
        f"{writing}{quicker} In one pass over {longest['tokens']:,} tokens the GPU {verb} {faster} than {engine} "
        "on the CPU."
    )


def _writing(tokens: int | None, *, predicted: bool) -> str:
    is_first = "would be done first, as predicted" if predicted else "is done first"
    if tokens is None:
        return f"However many tokens are written, up to {_TOKENS[-1]:,}, the CPU is done first."
    if tokens <= 1:
        return f"From the first token on the GPU {is_first}."
    return (
        f"Below {tokens:,} tokens to write the CPU is done first, start-up included; "
        f"from there on the GPU {is_first}."
    )


def _passes(cpu: Side, gpu: Side, shapes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    return [_pass(cpu, gpu, *shape) for shape in shapes if cpu.knows(*shape) and gpu.knows(*shape)]


def _pass(cpu: Side, gpu: Side, batch: int, tokens: int) -> dict[str, Any]:
    cpu_s, gpu_s = cpu.forward(batch, tokens), gpu.forward(batch, tokens)
    later = gpu.start_s - cpu.start_s
    passes = max(1, int(later / (cpu_s - gpu_s)) + 1) if gpu_s < cpu_s else None
    return {"batch": batch, "tokens": tokens, "cpu_s": cpu_s, "gpu_s": gpu_s, "passes": passes}


def _first(points: Sequence[dict[str, Any]], key: str) -> int | None:
    """The least value from which on the GPU is first at every point."""
    found: int | None = None
    for point in reversed(points):
        if point["gpu_s"] > point["cpu_s"]:
            break
        found = int(point[key])
    return found


class _Writer:
    """Seconds to write n tokens in texts of ``text`` tokens after prompts of ``prompt``, one after another."""

    def __init__(self, side: Side, prompt: int, text: int) -> None:
        self._start_s, self._text = side.start_s, text
        # The first token of a text comes with the prompt.
        self._until: list[float] = [0.0, side.prefill(prompt)]
        for written in range(1, text):
            self._until.append(self._until[-1] + side.token(prompt + written - 1))

    def seconds(self, tokens: int) -> float:
        texts, rest = divmod(tokens, self._text)
        return self._start_s + texts * self._until[-1] + self._until[rest]


def _first_token(cpu: _Writer, gpu: _Writer) -> int | None:
    """The least number of tokens that the GPU writes first, searched within the curves' range."""
    low, high = 0, 1 << 20
    if gpu.seconds(high) > cpu.seconds(high):
        return None
    while high - low > 1:
        between = (low + high) // 2
        if gpu.seconds(between) <= cpu.seconds(between):
            high = between
        else:
            low = between
    return high
