"""What ``gptwo bench`` times on a GPU (paper §8), without one: every tensor must be where the model is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fake_cuda import fake_cuda
from gptwo.config import GPT2Config
from gptwo.infer import torch_engine
from gptwo.infer.cuda_decode import DecodeGraphs
from gptwo.infer.kv_cache import KVCache
from gptwo.infer.torch_engine import TorchEngine
from gptwo.model.gpt2 import GPT2
from gptwo.perf import agreement, cases, initialisation, training_case
from gptwo.perf.cases import Bench
from gptwo.perf.workload import Contender
from gptwo.tokenizer.build import build_byte
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=48, vocab_size=257, dropout=0.0)
PEAK = 123_456


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("model"), CONFIG, dtype=torch.float32)
    build_byte().save(folder)
    return folder


def plainly(model: GPT2, cache: KVCache) -> DecodeGraphs:
    """Steps as they are captured on a CUDA device, run as they are: there is nothing here to capture them."""
    return DecodeGraphs(model, cache, lambda step: step, shortest=4)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """``cuda:0`` that is always done and says how much it holds. Numbers, which do not exist, are made up where they
    would leave it."""

    def to_host(logits: Tensor) -> np.ndarray[Any, Any]:
        assert logits.device.type == "cuda"
        return np.random.default_rng(0).normal(size=tuple(logits.shape)).astype(np.float32)

    monkeypatch.setattr(torch_engine, "to_host", to_host)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: PEAK)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    for name in ("gptwo.base.device", "gptwo.perf.training_case"):
        monkeypatch.setattr(f"{name}.resolve_device", torch.device)
    with fake_cuda() as device:
        yield device


def weights(folder: Path, *, device: Any, dtype: Any = None) -> dict[str, Tensor]:
    return dict(GPT2(CONFIG, device=torch.device(device)).state_dict())


@pytest.fixture(params=[None, plainly], ids=["run by Python", "static"])
def bench(
    device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Bench:
    def load(*place: Any, **named: Any) -> TorchEngine:
        assert named["device"] == "cuda:0"
        return TorchEngine(GPT2(CONFIG, device=device), device=device, graphs=request.param)

    monkeypatch.setattr(cases, "load_chosen", load)
    monkeypatch.setattr(cases, "choose_engine", lambda *place, **named: SimpleNamespace(name="torch"))
    # Two texts: of a tensor with one element this torch asks for the number itself.
    return Bench(str(folder), device="cuda:0", engine="torch", batch=2, samples=3)


def test_a_forward_pass(bench: Bench) -> None:
    found = bench.forward(tokens=5)
    assert len(found["seconds"]) == 3
    assert found["peak_memory_bytes"] == PEAK
    assert "cuda:0" in found["description"]


def test_a_prompt(bench: Bench) -> None:
    assert len(bench.prefill(tokens=9)["seconds"]) == 3
    assert len(bench.prefill(tokens=9, with_text=True)["seconds"]) == 3


def test_tokens(bench: Bench) -> None:
    found = bench.decode(past=6)
    assert len(found["seconds"]) == 3
    assert found["first_token_s"] > 0
    assert len(bench.decode(past=46)["seconds"]) == 3  # two fit the context: cut back and written anew
    assert len(bench.decode(past=6, with_text=True)["seconds"]) == 3


def test_what_agreement_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "load_engine", lambda *place, **named: bench._engine)
    whole = agreement._top_gap
    # Of one text alone it is the same; but of a tensor with one element this torch asks for the number itself.
    monkeypatch.setattr(agreement, "_top_gap", lambda *of: whole(*of) if len(of[1]) > 1 else 0.0)
    texts = [np.arange(12), np.arange(8), np.arange(8)]
    found = agreement._of_engine(Path(), Contender("cuda:0", "torch", "fp32"), texts, None)
    assert isinstance(found.pop("top"), float)
    assert {what: logits.shape for what, logits in found.items()} == {
        "prefill": (2, 257),
        "decode": (2, 3, 257),
        "forward": (2, 8, 257),
    }


def test_what_agreement_trains(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT2(CONFIG, device=device)
    placed: list[Any] = []

    def load(folder: Path, *, device: Any, dtype: Any) -> GPT2:
        placed.append(device)
        return model

    monkeypatch.setattr(agreement, "load_model", load)
    gradients = {name: np.ones(tuple(of.shape), np.float32) for name, of in model.named_parameters()}
    reference = {"loss": 5.0, "gradients": gradients}
    one = Contender("cuda:0", "torch", "fp32")
    gap = agreement._training_gap(Path(), one, reference, torch.arange(24).view(2, 12))
    assert np.isfinite(gap)
    assert placed == ["cuda:0"]
    assert {parameter.grad.device for parameter in model.parameters()} == {device}  # type: ignore[union-attr]


def test_a_training_step(device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[torch.device] = []

    def look(loss: Tensor, norm: Tensor) -> None:
        looked.extend([loss.device, norm.device])

    monkeypatch.setattr(training_case, "load_weights", weights)
    monkeypatch.setattr(training_case, "look", look)
    monkeypatch.setattr(training_case, "tune_process", lambda place: None)
    monkeypatch.setattr(training_case, "memory_bytes", lambda place: (PEAK, PEAK))
    found = training_case.train(
        str(folder), device="cuda:0", dtype="fp32", batch=4, tokens=16, micro_batch=2,
        compile_step=False, samples=2,
    )  # fmt: skip
    assert set(looked) == {device}
    assert len(found["seconds"]) == 2
    assert all(len(found["split"][part]) == 2 for part in training_case.PARTS)
    assert found["peak_memory_bytes"] == PEAK
    assert found["description"] == "torch on cuda:0 in fp32, adamw"


def test_a_start(device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.checkpoint.weights.load_weights", weights)
    monkeypatch.setattr("gptwo.infer.cuda_decode.cuda_graphs", plainly)
    found = initialisation.init(str(folder), device="cuda:0", engine="torch", dtype="fp32", since=0.0)
    names = [step["name"] for step in found["steps"]]
    assert names == [
        *(
            "python",
            "import",
            "device",
            "read cold",
            "read warm",
            "load",
            "to device",
            "first token",
            "capture",
        )
    ]
    assert found["peak_memory_bytes"] == PEAK
