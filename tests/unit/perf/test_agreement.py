"""The gate in front of the clock: what computes something else is seen, whatever it gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.config import GPT2Config
from gptwo.infer.engines import load_engine
from gptwo.kernels.top import Top
from gptwo.model import GPT2
from gptwo.perf import agreement as module
from gptwo.perf.agreement import agreement
from gptwo.perf.workload import REFERENCE
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=21, context=60, vocab_size=37, dropout=0.0)
NATIVE, INT8 = ["cpu", "native", "fp32"], ["cpu", "native", "int8"]
INT4 = ["cpu", "native", "int4"]
TORCH, BF16 = ["cpu", "torch", "fp32"], ["cpu", "torch", "bf16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("models") / "odd", CONFIG, dtype=torch.float32)


def of(rows: list[dict[str, Any]], **fields: str) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def test_engines_and_dtypes_agree_each_with_each(folder: Path) -> None:
    rows = agreement(folder, [NATIVE, TORCH, BF16], longest=50, batch=3, training=(2, 20), threads=1)
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]
    pairs = {(row["a"], row["b"]) for row in rows}
    assert len(pairs) == 6
    assert {row["what"] for row in of(rows, a=REFERENCE, b="torch fp32 on cpu")} == {
        "prefill", "decode", "forward", "training"
    }  # fmt: skip
    (fp32,) = of(rows, a=REFERENCE, b="native fp32 on cpu", what="decode")
    (bf16,) = of(rows, a=REFERENCE, b="torch bf16 on cpu", what="decode")
    assert 0 < fp32["largest"] < 1e-4 < bf16["largest"]
    assert of(rows, a=REFERENCE, b="native fp32 on cpu", what="training") == []


def test_fewer_bits_differ_and_are_allowed_to(folder: Path) -> None:
    rows = agreement(folder, [INT8], longest=50, batch=3, training=None, threads=1)
    assert [row["what"] for row in rows] == ["forward", "prefill", "decode"]
    assert all(1e-3 < row["largest"] <= row["allowed"] for row in rows)


def damaged(damage: Callable[[Any], None]) -> Callable[..., Any]:
    def load(*arguments: Any, **named: Any) -> Any:
        engine = load_engine(*arguments, **named)
        damage(engine)
        return engine

    return load


def test_what_is_wrong_everywhere_and_nowhere_by_much_is_red(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a single logit in 4 bits lets pass what has little to do with the model."""
    (fine, *_) = agreement(folder, [INT4], longest=50, batch=3, training=None, threads=1)
    assert fine["ok"]
    assert 0.02 < fine["rms"] < fine["allowed_rms"]
    noise = np.random.default_rng(0)

    def off(logits: np.ndarray) -> np.ndarray:
        return logits + logits.std() * noise.uniform(-1, 1, size=logits.shape).astype(np.float32)

    forward = module._forward
    monkeypatch.setattr(module, "_forward", lambda engine, texts: off(forward(engine, texts)))
    rows = agreement(folder, [INT4], longest=50, batch=3, training=None, threads=1)
    assert {row["what"]: row["ok"] for row in rows} == {"forward": False, "prefill": True, "decode": True}
    assert rows[0]["largest"] < rows[0]["allowed"]
    assert rows[0]["rms"] > rows[0]["allowed_rms"]


@pytest.mark.parametrize("what", ["decode", "forward"])
def test_what_goes_wrong_only_in_as_many_texts_as_are_timed_is_red(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def wrong_from_four_on(engine: Any) -> None:
        start = engine.start

        def started(**named: Any) -> Any:
            session = start(**named)
            decode, read = session.decode, session.read
            if what == "decode":
                session.decode = lambda slots, tokens: decode(slots, tokens if len(slots) < 4 else 0 * tokens)
            else:
                session.read = lambda slots, texts, last: read(
                    slots, texts if len(slots) < 4 else [0 * text for text in texts], last
                )
            return session

        engine.start = started

    monkeypatch.setattr(module, "load_engine", damaged(wrong_from_four_on))
    for batch, ok in ((3, True), (4, False)):
        rows = agreement(folder, [NATIVE], longest=50, batch=batch, training=None, threads=1)
        found = {row["what"]: row["ok"] for row in rows}
        assert found[what] is ok
        assert all(found.values()) is ok


def forgets_a_bias(engine: Any) -> None:
    with torch.no_grad():
        engine.model.blocks[1].mlp.up.bias.zero_()


def gives_no_number(engine: Any) -> None:
    with torch.no_grad():
        engine.model.final_norm.bias[0] = float("nan")


@pytest.mark.parametrize("damage", [forgets_a_bias, gives_no_number])
def test_a_wrong_model_is_red(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], None]
) -> None:
    monkeypatch.setattr(module, "load_engine", damaged(damage))
    rows = agreement(folder, [TORCH], longest=50, batch=3, training=None, threads=1)
    assert not any(row["ok"] for row in rows)
    assert all((row["largest"] is None) == (damage is gives_no_number) for row in rows)


def test_a_cache_that_is_off_by_one_is_red_in_decoding_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shift(engine: Any) -> None:
        start = engine.start

        def started(**named: Any) -> Any:
            session = start(**named)
            decode = session.decode
            session.decode = lambda slots, tokens: decode(slots, np.roll(tokens, 1))
            return session

        engine.start = started

    monkeypatch.setattr(module, "load_engine", damaged(shift))
    rows = agreement(folder, [TORCH], longest=50, batch=3, training=None, threads=1)
    assert {row["what"]: row["ok"] for row in rows} == {"forward": True, "prefill": True, "decode": False}


@pytest.mark.parametrize("lie", ["id", "logit"])
def test_a_step_that_is_timed_and_lies_is_red_in_decoding_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    def lies(engine: Any) -> None:
        start = engine.start

        def started(**named: Any) -> Any:
            session = start(**named)
            read_top = session.read_top

            def lying(*arguments: Any) -> list[Top]:
                tops = read_top(*arguments)
                moved = (
                    {"ids_nk": (tops[-1].ids_nk + 1) % CONFIG.vocab_size}
                    if lie == "id"
                    else {"logits_nk": tops[-1].logits_nk + 0.1}
                )
                return [*tops[:-1], tops[-1]._replace(**moved)]

            session.read_top = lying
            return session

        engine.start = started

    monkeypatch.setattr(module, "load_engine", damaged(lies))
    rows = agreement(folder, [TORCH], longest=50, batch=3, training=None, threads=1)
    assert {row["what"]: row["ok"] for row in rows} == {"forward": True, "prefill": True, "decode": False}


def test_a_wrong_gradient_is_red(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = GPT2.loss
    # The value is right, and its gradient 1% too large.
    monkeypatch.setattr(
        GPT2, "loss", lambda model, *args: (value := loss(model, *args)).detach() * -0.01 + value * 1.01
    )
    rows = agreement(folder, [TORCH], longest=50, batch=3, training=(2, 20), threads=1)
    assert [row["what"] for row in rows if not row["ok"]] == ["training"]


def test_a_gradient_that_is_wrong_only_in_a_step_as_it_is_timed_is_red(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = GPT2.loss

    def wrong_in_the_last_row(model: GPT2, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = loss(model, tokens, targets)
        if tokens.numel() >= 4 * 30:
            value = value + 0.01 * (loss(model, tokens[3:, 29:], targets[3:, 29:]) - value)
        return value

    monkeypatch.setattr(GPT2, "loss", wrong_in_the_last_row)
    for step, ok in (((3, 30), True), ((4, 29), True), ((4, 30), False)):
        rows = agreement(folder, [TORCH], longest=50, batch=3, training=step, threads=1)
        assert {row["what"]: row["ok"] for row in rows}["training"] is ok
        assert all(row["ok"] for row in rows if row["what"] != "training")
