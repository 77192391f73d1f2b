"""Whether everything that is to be timed computes the same. What does not is not timed.

Each contender (an engine on a device in a dtype) reads a long text and short ones side by side, as many as are timed at
once, goes on from all of them token by token out of its cache (the last one also as it is timed, to the most probable
token alone, of all and of the first), and reads as many short ones whole. The logits are held against those of the
paper's equations in fp32 on the CPU, and against each other contender's: by the largest distance, and by the root of
the mean square, which a few large distances do not make. For training, loss and gradients of as many sequences as a
timed step has are held against autograd through the equations. Distances are in standard deviations of the reference's
logits, or in parts of a gradient's largest entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.weights import load_model
from gptwo.infer import torch_engine
from gptwo.infer.engine import Engine, Session
from gptwo.infer.engines import load_engine
from gptwo.infer.native_engine import NativeEngine
from gptwo.model import equations
from gptwo.perf.workload import REFERENCE, Contender, trains
from gptwo.train.step import autocast

_SHORT, _DECODED = 17, 3


class Allowed(NamedTuple):
    """The most that rounding is: of a logit, of logits by the root of the mean square, of gradients; and its source.

    Logits that have nothing to do with the reference's are 1.4 off by the root of the mean square, all alike 1.
    """

    logits: float
    rms: float
    gradients: float
    why: str


ALLOWED = {
    "fp64": Allowed(1e-3, 2e-4, 1e-3, "the reference itself is in fp32"),
    "fp32": Allowed(2e-4, 4e-5, 5e-4, "sums in another order"),
    "fp16": Allowed(0.05, 0.01, 0.05, "11 bits of mantissa"),
    "bf16": Allowed(0.2, 0.04, 0.1, "8 bits of mantissa"),
    "int8": Allowed(0.4, 0.08, 0.0, "weights and activations in 8 bits"),
    # Measured: 0.22 with random weights of GPT-2's size, 0.07 to 0.12 with trained ones.
    "int4": Allowed(3.0, 0.4, 0.0, "weights in 4 bits"),
}


@dataclass(frozen=True)
class Agreement:
    """How far two are apart in one thing that they compute, and whether that is rounding alone.

    ``a`` is a contender or "equations"; ``what`` is "prefill", "decode", "forward" or "training"; ``largest`` and
    ``rms`` are None where a result was not finite. Of training there is no ``rms``, and none allowed.
    """

    a: str
    b: str
    what: str
    largest: float | None
    allowed: float
    rms: float | None
    allowed_rms: float | None
    ok: bool
    why: str


def agreement(
    folder: str | Path,
    contenders: Sequence[Sequence[str]],
    *,
    longest: int,
    batch: int,
    training: Sequence[int] | None,
    threads: int | None,
) -> list[dict[str, Any]]:
    """Every contender beside the equations, then every pair, as JSON.

    ``longest`` is the longest text that is to be timed, ``batch`` the most texts at once, ``training`` the sequences of
    a training step and the tokens of each. Contenders are loaded one after another: the memory is that of one of them.
    Errors as the engines'.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder = Path(folder)
    config = read_config(folder)
    drawn = np.random.default_rng(0)
    short = min(_SHORT, config.context - _DECODED)
    longest = max(short, min(longest, config.context - _DECODED))
    lengths = (longest, *(short,) * max(2, batch))
    texts = [drawn.integers(config.vocab_size, size=length + _DECODED) for length in lengths]
    trained = None
    if training is not None:
        sequences, tokens = training
        trained = torch.from_numpy(drawn.integers(config.vocab_size, size=(sequences, tokens + 1)))
    found: dict[str, dict[str, Any]] = {REFERENCE: _of_equations(folder, texts, trained)}
    deviation = float(found[REFERENCE]["forward"].std())
    named = [Contender(*contender) for contender in contenders]
    for contender in named:
        found[str(contender)] = _of_engine(folder, contender, texts, threads)
        if trained is not None and trains(contender):
            found[str(contender)]["training"] = _training_gap(folder, contender, found[REFERENCE], trained)
    found[REFERENCE].pop("gradients", None)
    dtypes = {REFERENCE: None, **{str(contender): contender.dtype for contender in named}}
    rows: list[Agreement] = []
    for a, b in combinations(found, 2):
        limits = [ALLOWED[dtype] for dtype in (dtypes[a], dtypes[b]) if dtype is not None]
        for what in ("forward", "prefill", "decode"):
            apart = found[a][what] - found[b][what]
            gap = float(np.max(np.abs(apart))) / deviation
            if what == "decode" and a == REFERENCE:
                gap = float(np.max([gap, found[b]["top"] / deviation]))
            rms = float(np.sqrt(np.mean(np.square(apart)))) / deviation
            rows.append(_row((a, b), what, gap, rms, limits))
        if a == REFERENCE and "training" in found[b]:
            rows.append(_row((a, b), "training", found[b]["training"], None, limits))
    return [asdict(row) for row in rows]


def _row(
    pair: tuple[str, str], what: str, largest: float, rms: float | None, limits: Sequence[Allowed]
) -> Agreement:
    """Of distances, beside what both contenders are allowed together; of gradients, which have no ``rms``, too."""
    why = "; ".join(dict.fromkeys(limit.why for limit in limits))
    allowed_rms: float | None = None
    if rms is None:
        allowed = sum(limit.gradients for limit in limits)
        ok = largest <= allowed
    else:
        allowed, allowed_rms = sum(limit.logits for limit in limits), sum(limit.rms for limit in limits)
        ok = largest <= allowed and rms <= allowed_rms
    if not np.isfinite(largest):
        return Agreement(*pair, what, None, allowed, None, allowed_rms, False, why)
    return Agreement(*pair, what, largest, allowed, rms, allowed_rms, ok, why)


def _of_equations(folder: Path, texts: Sequence[np.ndarray], trained: Tensor | None) -> dict[str, Any]:
    model = load_model(folder, device="cpu", dtype=torch.float32)
    parameters = dict(model.named_parameters())
    weights = equations.paper_weights(parameters, model.config.n_layer, model.config.n_head)
    epsilon = model.config.layer_norm_epsilon
    kept = [_DECODED + 1, *map(len, texts[1:])]
    with torch.inference_mode():
        logits = [
            _logits(torch.from_numpy(text), weights, epsilon, last).numpy()
            for text, last in zip(texts, kept, strict=True)
        ]
    found: dict[str, Any] = {
        "prefill": np.stack([rows[-_DECODED - 1] for rows in logits[:-1]]),
        "decode": np.stack([rows[-_DECODED:] for rows in logits[:-1]]),
        "forward": np.stack(logits[1:]),
    }
    if trained is not None:
        # One after another: the mean over sequences of one length is that of their means.
        losses = []
        for tokens in trained:
            loss = equations.cross_entropy(equations.forward(tokens[:-1], weights, epsilon), tokens[1:])
            (loss / len(trained)).backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            losses.append(loss.item())
        found["loss"] = float(np.mean(losses))
        found["gradients"] = {name: _gradient(name, parameter) for name, parameter in parameters.items()}
    return found


def _logits(tokens: Tensor, weights: equations.Weights, epsilon: float, last: int) -> Tensor:
    """``equations.forward`` of the last positions: Δ E as the rows of E that Δ picks, and the head of no others."""
    X = weights.E[tokens] + weights.P[: len(tokens)]
    for block in weights.blocks:
        X = equations.mlp_sublayer(equations.attention_sublayer(X, block, epsilon), block, epsilon)
    return equations.unembed(X[-last:], weights, epsilon)


def _of_engine(
    folder: Path, contender: Contender, texts: Sequence[np.ndarray], threads: int | None
) -> dict[str, Any]:
    engine = load_engine(
        folder, engine=contender.engine, device=contender.device, dtype=contender.dtype, threads=threads
    )
    at_once, short = texts[:-1], texts[1:]
    session = engine.start(slots=len(at_once), capacity=max(map(len, at_once)))
    slots = range(len(at_once))
    prefill = session.prefill(slots, [text[:-_DECODED] for text in at_once])
    decoded = [
        session.decode(slots, np.array([text[step] for text in at_once])) for step in range(-_DECODED, 0)
    ]
    last = decoded[-1]
    return {
        "prefill": prefill,
        "decode": np.stack(decoded, axis=1),
        "forward": _forward(engine, short),
        "top": np.max([_top_gap(session, at_once, last), _top_gap(session, at_once[:1], last[:1])]),
    }


def _forward(engine: Engine, texts: Sequence[np.ndarray]) -> np.ndarray:
    """The logits of every token of texts of one length, as ``cases.Bench.forward`` runs them: all in one pass."""
    if isinstance(engine, NativeEngine):
        session = engine.start(slots=len(texts), capacity=len(texts[0]))
        return np.stack(session.read(range(len(texts)), texts, [*map(len, texts)]))
    assert isinstance(engine, torch_engine.TorchEngine)
    given = torch.tensor(np.stack(texts), device=engine.model.token_embedding.weight.device)
    with torch.inference_mode():
        return torch_engine.to_host(engine.model(given))


def _top_gap(session: Session, texts: Sequence[np.ndarray], logits: np.ndarray) -> float:
    """The last step again, as it is timed: ``read_top``, which has kernels of its own for the head.

    Over the texts, the largest distance from the largest of ``logits`` [texts, V] to what ``read_top`` says that it
    is, and to what ``logits`` have at the id that it names.
    """
    for slot, text in enumerate(texts):
        session.truncate(slot, len(text) - 1)
    lasts = [text[-1:].astype(np.int64) for text in texts]
    tops = session.read_top(range(len(texts)), lasts, [1] * len(texts), 1)
    said = [[top.logits_nk[0, 0], row[top.ids_nk[0, 0]]] for row, top in zip(logits, tops, strict=True)]
    return float(np.max(np.abs(logits.max(axis=1, keepdims=True) - said)))


def _training_gap(folder: Path, contender: Contender, reference: dict[str, Any], trained: Tensor) -> float:
    """The largest of the loss's relative distance and, over the parameters, their gradients'."""
    model = load_model(folder, device=contender.device, dtype=torch.float32)
    tokens = trained.to(contender.device)
    with autocast(torch.device(contender.device), contender.dtype):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
    gaps = [abs(float(torch_engine.to_host(loss.detach())) / reference["loss"] - 1)]
    for name, parameter in model.named_parameters():
        expected = reference["gradients"][name]
        apart = _gradient(name, parameter) - expected
        gaps.append(float(np.abs(apart).max() / np.abs(expected).max()))
    return float(np.max(gaps))


def _gradient(name: str, parameter: Tensor) -> np.ndarray:
    assert parameter.grad is not None, name
    return torch_engine.to_host(parameter.grad)
