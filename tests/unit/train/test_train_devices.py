"""The real training step with every tensor on cuda:0 (paper §8), without a GPU; and ``--compile``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command import TINY, command, done, prepared, process
from fake_cuda import fake_cuda
from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config, TrainConfig
from gptwo.model import GPT2, build_model
from gptwo.train import setup
from gptwo.train.metrics import read_metrics
from gptwo.train.optimizer import build_optimizer, optimizer_tensors, restore_optimizer
from gptwo.train.recipes import resolve_recipe
from gptwo.train.setup import loss_function, tune_process
from gptwo.train.step import accumulate_gradients, update
from tolerance import Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=6, vocab_size=13, dropout=0.1)
SETTINGS = resolve_recipe(TrainConfig(data="d", out="o", optimizer="adamw", lr=1e-2), CONFIG)
MUON = resolve_recipe(TrainConfig(data="d", out="o", optimizer="muon"), CONFIG)
SUM_ORDER = Tolerance(atol=1e-5, why="fp32, the same sums in the order of fused loops")
STRAY = "on tensors of cpu and cuda"


@pytest.fixture
def device() -> Iterator[torch.device]:
    with fake_cuda() as device:
        yield device


def build(
    device: torch.device, *, checkpoint_activations: bool = False
) -> tuple[GPT2, torch.optim.Optimizer]:
    model = build_model(CONFIG, seed=0, device=device, checkpoint_activations=checkpoint_activations).train()
    return model, build_optimizer(model, SETTINGS)


def tokens_on(device: torch.device | str, sequences: int) -> Tensor:
    return torch.zeros(sequences, CONFIG.context, dtype=torch.long, device=device)


def step(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[Tensor, Tensor]],
    *,
    grad_clip: float = 1.0,
    dtype: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Both halves of ``optimizer_step``; only its look at the loss, a number, is beyond a pretended tensor."""
    loss, norm = accumulate_gradients(
        model,
        loss_function(model, compile_step=False),
        optimizer,
        micro_batches,
        dtype=dtype,
    )
    predicted_tokens = CONFIG.context * sum(len(tokens) for tokens, _ in micro_batches)
    update(model, optimizer, norm, predicted_tokens=predicted_tokens, lr_factor=1.0, grad_clip=grad_clip)
    return loss, norm


@pytest.mark.parametrize("checkpoint_activations", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("grad_clip", [1.0, 0.0], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("sizes", [[4], [3, 1], [1, 1, 1]], ids=["whole", "uneven", "three"])
def test_a_step_stays_on_cuda(
    sizes: list[int], grad_clip: float, checkpoint_activations: bool, device: torch.device
) -> None:
    """Accumulation, clipping and the fused AdamW, which runs on fake tensors as it is."""
    model, optimizer = build(device, checkpoint_activations=checkpoint_activations)
    assert optimizer.defaults["fused"]
    for _ in range(2):  # the second finds the optimizer's state made by the first
        loss, norm = step(
            model,
            optimizer,
            [(tokens_on(device, n), tokens_on(device, n)) for n in sizes],
            grad_clip=grad_clip,
        )
        assert (loss.device, loss.shape) == (device, ())
        assert (norm.device, norm.shape) == (device, ())
    state = optimizer_tensors(model, optimizer)
    assert len(state) == 3 * len(list(model.parameters()))
    assert {tensor.device for tensor in state.values()} == {device}
    assert {parameter.device for parameter in model.parameters()} == {device}


def test_a_restored_optimizer_steps_on_cuda(device: torch.device) -> None:
    model, optimizer = build(device)
    on_the_cpu = {
        f"optimizer.{name}.{what}": torch.zeros(() if what == "step" else parameter.shape)
        for name, parameter in model.named_parameters()
        for what in ("step", "exp_avg", "exp_avg_sq")
    }
    restore_optimizer(model, optimizer, on_the_cpu)
    assert {tensor.device for tensor in optimizer_tensors(model, optimizer).values()} == {device}
    step(model, optimizer, [(tokens_on(device, 2), tokens_on(device, 2))])


def test_muon_stays_on_cuda_and_goes_on_there_from_its_tensors(device: torch.device) -> None:
    model, _ = build(device)
    batch = [(tokens_on(device, 2), tokens_on(device, 2))]
    optimizer = build_optimizer(model, MUON)
    step(model, optimizer, batch)
    state = optimizer_tensors(model, optimizer)
    assert sum(name.endswith("momentum_buffer") for name in state) == 4 * CONFIG.n_layer
    assert {tensor.device for tensor in state.values()} == {device}
    again = build_optimizer(model, MUON)
    restore_optimizer(model, again, {name: torch.zeros(tensor.shape) for name, tensor in state.items()})
    step(model, again, batch)
    assert {parameter.device for parameter in model.parameters()} == {device}


def test_tokens_or_targets_on_the_cpu_are_caught(device: torch.device) -> None:
    model, optimizer = build(device)
    for tokens, targets in ((device, "cpu"), ("cpu", device)):
        with pytest.raises(RuntimeError, match=STRAY):
            step(model, optimizer, [(tokens_on(tokens, 2), tokens_on(targets, 2))])


def test_a_moment_on_the_cpu_is_caught(device: torch.device) -> None:
    model, optimizer = build(device)
    micro_batches = [(tokens_on(device, 2), tokens_on(device, 2))]
    step(model, optimizer, micro_batches)
    kept = optimizer.state[model.final_norm.weight]
    kept["exp_avg"] = torch.zeros(CONFIG.n_embd)
    with pytest.raises(RuntimeError, match=STRAY):
        step(model, optimizer, micro_batches)


def test_a_weight_left_on_the_cpu_is_caught(device: torch.device) -> None:
    model, _ = build(device)
    model.final_norm.weight = torch.nn.Parameter(torch.ones(CONFIG.n_embd))
    with pytest.raises(RuntimeError, match=STRAY):
        step(model, build_optimizer(model, SETTINGS), [(tokens_on(device, 2), tokens_on(device, 2))])


def test_tf32_is_for_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.train.setup.keep_freed_memory", lambda: True)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        tune_process(torch.device("cpu"))
        assert matmul.fp32_precision == "ieee"
        tune_process(torch.device("cuda"))
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


# --- bf16 on the CPU, where torch has it everywhere ------------------------------------------------------------------


def test_bf16_keeps_weights_gradients_and_moments_in_fp32() -> None:
    model, optimizer = build(torch.device("cpu"))
    drawn = torch.randint(
        CONFIG.vocab_size, (4, CONFIG.context + 1), generator=torch.Generator().manual_seed(1)
    )
    micro_batches = [(drawn[:, :-1], drawn[:, 1:])]
    seen: list[torch.dtype] = []
    hook = model.blocks[0].mlp.up.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    loss, _ = step(model, optimizer, micro_batches, dtype="bf16")
    hook.remove()
    assert seen == [torch.bfloat16], "products are in bf16"
    assert loss.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32, name
    assert {t.dtype for t in optimizer_tensors(model, optimizer).values()} == {torch.float32}


# --- torch.compile ------------------------------------------------------------------------------------------------


def test_compile_without_a_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = command("train", "--data", data, "--out", tmp_path / "run", *TINY, "--compile").error_line()
    assert line == (
        "ConfigError: --compile needs a C++ compiler and none is on PATH; install g++, or leave out --compile"
    )
    model, _ = build(torch.device("cpu"))
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        loss_function(model, compile_step=True)


@pytest.mark.long
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="needs a C++ compiler: install g++",
)
def test_a_compiled_run_computes_the_same(tmp_path: Path) -> None:
    """As a process: torch's compiler warns of its own parts, and here a warning is an error."""
    data = prepared(tmp_path)
    flags = ["--data", data, *TINY, "--micro-batch", 4, "--steps", 2, "--dropout", 0.0]
    plain = done("train", "--out", tmp_path / "plain", *flags)
    cache = tmp_path / "cache"
    compiled = process(
        "train", "--out", tmp_path / "compiled", *flags, "--compile", TORCHINDUCTOR_CACHE_DIR=str(cache)
    )
    assert compiled.code == 0, compiled.err
    assert ", fp32, compiled;" in compiled.err
    assert ", not compiled" in plain.err
    assert any(cache.iterdir()), "something was compiled"
    figures = [
        [record["loss"] for record in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in record]
        for name in ("plain", "compiled")
    ]
    assert len(figures[0]) == 2
    SUM_ORDER.assert_close(figures[1], figures[0], "losses")


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InductorError

    def broken(*rows: Tensor) -> Tensor:
        raise InductorError(OSError("file too short"), None)

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    monkeypatch.setattr(setup, "has_compiler", lambda: True)
    model, _ = build(torch.device("cpu"))
    with pytest.raises(
        ConfigError, match=r"torch.compile failed .*file too short.* remove its cache .*--no-compile"
    ):
        loss_function(model, compile_step=True)(tokens_on("cpu", 1), tokens_on("cpu", 1))


@pytest.mark.parametrize(
    ("asked", "place", "compiler", "expected"),
    [
        (None, "cpu", True, False),
        (None, "cuda", True, True),
        (None, "cuda", False, False),
        (True, "cpu", True, True),
        (False, "cuda", True, False),
    ],
)
def test_when_a_run_compiles(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, place: str, compiler: bool, expected: bool
) -> None:
    monkeypatch.setattr(setup, "has_compiler", lambda: compiler)
    assert setup.resolve_compile(asked, torch.device(place)) is expected
