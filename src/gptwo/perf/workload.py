"""What ``gptwo bench`` measures: which contenders, which shapes, how often. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.infer.engines import ENGINES
from gptwo.perf.crossing import LENGTHS, PROMPT

# What the others are held against, among the names of contenders.
REFERENCE = "equations"

CaseKind = Literal["forward", "prefill", "decode", "train"]


class Contender(NamedTuple):
    """What runs a model: an engine on a device, with weights in a dtype."""

    device: str
    engine: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time, B sequences of T tokens after ``past`` others.

    forward   one pass over B×T tokens to the logits of each
    prefill   B texts of T tokens to the logits of their last; ``with_text``: from text, by the tokenizer
    decode    one more token of each of B texts that hold ``past``, T times; ``with_text``: sampled and turned into text
    train     one optimizer step on B sequences of T tokens
    """

    kind: CaseKind
    contender: Contender
    batch: int
    tokens: int
    past: int = 0
    with_text: bool = False

    @property
    def id(self) -> str:
        """The same name for the same case in every record."""
        shape = f"{self.batch}x{self.tokens}" + (f"+{self.past}" if self.kind == "decode" else "")
        place = f"{self.contender.device}/{self.contender.engine}/{self.contender.dtype}"
        return f"{self.kind}/{place}/{shape}" + ("/text" if self.with_text else "")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How often: processes in turn for each case, and in each of them samples after the warm-up.

    ``long_passes`` are those of ``LONG`` tokens or more; ``written`` are samples of writing one text where that is what
    users run (``writes``), ``decoded`` of all other decoding.
    """

    rounds: int
    passes: int
    long_passes: int
    steps: int
    decoded: int
    written: int
    starts: int

    def samples(self, case: Case) -> int:
        """Of a case in each of its processes."""
        if case.kind == "train":
            return self.steps
        if case.kind == "decode":
            often = case.batch == 1 and not case.with_text and writes(case.contender)
            return self.written if often else self.decoded
        return self.long_passes if case.batch * case.tokens >= LONG else self.passes


LONG = 1024
QUICK = Effort(rounds=2, passes=2, long_passes=1, steps=2, decoded=24, written=24, starts=1)
# Four rounds are what two records are told apart by (``statistics.LEAST_PROCESSES``), of 255 tokens the thousand and
# more that a p99 needs; six starts are what an interval takes.
FULL = Effort(rounds=4, passes=2, long_passes=1, steps=2, decoded=32, written=255, starts=6)


# Tokens of a pass, at most: the logits of these take 400 MB, and from there on a pass takes as long for each token.
_LARGEST = 2048
# Tokens after the deepest place that is measured.
_DEEPEST = 24
_DTYPES = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "bf16"), "mps": ("fp32",)}


def contenders(
    devices: Sequence[str], engines: Sequence[str], dtypes: Sequence[str]
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Every engine on every device in every dtype, of those that there are; and of each that was left out why.

    Without ``dtypes`` a device has its own: fp32 and int8 on the CPU, fp32 and bf16 on a GPU.

    Raises ``ConfigError`` for an unknown name, and where nothing is left.
    """
    every_dtype = sorted({dtype for entry in ENGINES.values() for dtype in entry.dtypes})
    for what, names, known in (("engine", engines, list(ENGINES)), ("dtype", dtypes, every_dtype)):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"there is no {what} {unknown[0]!r}; expected some of {', '.join(known)}")
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for device in devices:
        for engine in engines:
            if engine == "native" and device != "cpu":
                left_out[f"native on {device}"] = "the native engine runs on the cpu"
                continue
            for dtype in dtypes or _DTYPES[device.partition(":")[0]]:
                if dtype in ENGINES[engine].dtypes:
                    found.append(Contender(device, engine, dtype))
                elif dtypes:
                    left_out[str(Contender(device, engine, dtype))] = "the engine has no such dtype"
    if not found:
        reasons = "; ".join(f"{what}: {why}" for what, why in left_out.items()) or "no engine has these"
        raise ConfigError(f"nothing is left to measure ({reasons}); give other --device, --engine or --dtype")
    return found, [{"what": what, "why": why} for what, why in left_out.items()]


def groups(config: GPT2Config, found: Sequence[Contender], *, quick: bool) -> list[list[Case]]:
    """The cases, grouped by what is measured: the contenders of a group take turns.

    Lengths and depths are those of GPT-2's context of 1,024, and shorter where the model's is. What a quick run leaves
    out: ``not_in_quick``.
    """
    effort = QUICK if quick else FULL
    C = config.context
    shapes: list[Case] = []
    any_one = found[0]

    def add(kind: CaseKind, batch: int, tokens: int, past: int = 0, *, with_text: bool = False) -> None:
        case = Case(kind=kind, contender=any_one, batch=batch, tokens=tokens, past=past, with_text=with_text)
        if tokens + past <= C and case not in shapes:
            shapes.append(case)

    decoded = min(effort.decoded, max(1, C // 2))
    lengths, batches = ((64,), (1, 4)) if quick else ((128, 512), (1, 4, 16))
    for tokens in lengths:
        for batch in batches:
            if batch * _within(C, tokens) <= _LARGEST:
                add("forward", batch, _within(C, tokens))
    # The shortest and the longest pass by which CPU and GPU are compared; the paper's beside the longest (§7.2).
    add("forward", 1, _within(C, min(LENGTHS)))
    add("forward", 1, C)
    # What CPU and GPU are compared by in writing.
    add("prefill", 1, min(PROMPT, max(1, C // 2)))
    add("prefill", 1, _within(C, 256))
    for depth in (0, 256, 1000):
        past = min(depth, C - min(decoded, _DEEPEST))
        if past and not quick:
            add("prefill", 1, past)
        add("decode", 1, min(effort.written, C - past), past)
    add("prefill", 1, _within(C, 256), with_text=True)
    add("decode", 1, decoded, min(256, C - decoded), with_text=True)
    if not quick:
        add("decode", 8, decoded, min(256, C - decoded))
    add("train", 1 if quick else 4, _within(C, 128 if quick else 256))
    grouped = [
        [_of(shape, one, effort) for one in found if _is_measured(shape, one, found, quick=quick)]
        for shape in shapes
    ]
    return [group for group in grouped if group]


def _of(shape: Case, one: Contender, effort: Effort) -> Case:
    """The case of a contender; of decoding, no more tokens one after another than there are samples."""
    case = replace(shape, contender=one)
    return replace(case, tokens=min(case.tokens, effort.samples(case))) if case.kind == "decode" else case


def _is_measured(shape: Case, one: Contender, found: Sequence[Contender], *, quick: bool) -> bool:
    if shape.kind == "train":
        return trains(one)
    return shape.kind == "forward" or not (quick and _is_beside_native(one, found))


def _is_beside_native(one: Contender, found: Sequence[Contender]) -> bool:
    return one.engine == "torch" and any((one.device, "native") == other[:2] for other in found)


def not_in_quick(found: Sequence[Contender]) -> list[dict[str, str]]:
    """What a quick run has no time for: writing with torch where the native engine, which writes there, is measured."""
    return [
        {
            "what": f"prompts and writing with {one}",
            "why": "--quick times those of the native engine, which is what writes there",
        }
        for one in found
        if _is_beside_native(one, found)
    ]


def predicted_cases(measured: Iterable[Case], contender: Contender) -> list[Case]:
    """Each shape that was measured, once, for a contender that is not here; what text costs is not predicted."""
    shapes: dict[tuple[object, ...], Case] = {}
    for case in measured:
        if not case.with_text:
            # How many tokens are decoded one after another is no part of the shape.
            tokens = None if case.kind == "decode" else case.tokens
            shapes.setdefault((case.kind, case.batch, tokens, case.past), replace(case, contender=contender))
    return list(shapes.values())


def writes(contender: Contender) -> bool:
    """Whether it is what writes on its device: on the CPU the native engine, elsewhere torch."""
    return contender.engine == "native" or contender.device != "cpu"


def trains(contender: Contender) -> bool:
    """Whether ``gptwo train`` runs on it: torch in fp32, or in bf16 products with fp32 weights."""
    return contender.engine == "torch" and contender.dtype in ("fp32", "bf16")


def _within(context: int, tokens: int) -> int:
    return min(context, tokens)
