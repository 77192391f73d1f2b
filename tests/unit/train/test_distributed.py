"""Several ranks compute what one does. gloo on the CPU; docs/guides/distributed.md says what that leaves untested."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.ranks import in_float64, spiking_after, train_on_ranks
from tests.tolerance import Tolerance
from torch.distributed import HashStore

from gptwo.base.errors import ConfigError, DivergedError
from gptwo.checkpoint.runs import checkpoint_path, newest_whole
from gptwo.config import PRESETS, TrainConfig
from gptwo.model import build_model
from gptwo.train import distributed
from gptwo.train.distributed import ALONE, World, joined_world
from gptwo.train.guard import Guard
from gptwo.train.loop import train
from gptwo.train.metrics import read_metrics
from gptwo.train.setup import resolve_for_machine
from gptwo.train.step import seed_step

Build = Callable[..., TrainConfig]
RANKS = Tolerance(atol=1e-5, why="fp32 sums over the same tokens in another order, over 20 steps")
BF16 = Tolerance(atol=1e-2, why="gradients of 8 bits, rounded before the ranks sum them")
EXACT = Tolerance(atol=1e-11, why="fp64 sums over the same tokens in another order, over 20 steps")
STEPS = 20


# --- who does what ------------------------------------------------------------------------------------------------


def test_without_torchrun_there_is_one_rank_and_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")  # another program's
    with joined_world() as world:
        assert world == ALONE == World()
        assert not torch.distributed.is_initialized()
        assert not world.has_begun()


@pytest.mark.parametrize("sequences", [1, 2, 3, 7, 8, 12, 31])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 50])
def test_the_ranks_share_the_rows_of_a_step(sequences: int, size: int, micro_batch: int) -> None:
    cuts = [list(World(rank, size).cuts(sequences, micro_batch)) for rank in range(size)]
    rows = [row for rank in cuts for first, last in rank for row in range(first, last)]
    assert rows == list(range(sequences)), (
        "every row once, in order: the number of ranks changes no row's step"
    )
    assert len({len(rank) for rank in cuts}) == 1, "a sharded model computes on all ranks or on none"
    shares = [sum(max(0, last - first) for first, last in rank) for rank in cuts]
    assert max(shares) - min(shares) <= 1
    assert max(shares) == World(0, size).largest_share(sequences)
    assert all(last - first <= micro_batch for rank in cuts for first, last in rank)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 1), (1, 4), (4, 4), (5, 4), (9, 2)])
def test_the_ranks_take_turns_in_step(count: int, size: int) -> None:
    turns = [list(World(rank, size).turns(count)) for rank in range(size)]
    assert len({len(rank) for rank in turns}) == 1
    assert sorted(number for rank in turns for number, counts in rank if counts) == list(range(count))
    assert all(0 <= number < count for rank in turns for number, _ in rank)


def test_every_rank_drops_other_values_and_rank_0_those_of_a_run_alone() -> None:
    def drawn(*arguments: int) -> list[float]:
        seed_step(*arguments)
        return torch.rand(3).tolist()

    assert drawn(5, 7, 0) == drawn(5, 7)
    assert len({tuple(drawn(5, 7, rank)) for rank in range(8)}) == 8
    assert drawn(5, 7, 3) == drawn(5, 7, 3)


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1", "mps"])
def test_one_device_is_not_for_several_ranks(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"device='{name}' is one device, and there are 2 ranks; expected auto"
    ):
        World(1, 2).device(name)
    assert World(1, 2).device("cpu") == torch.device("cpu")


def test_only_a_run_of_this_launch_is_gone_on_with_unasked(tiny: Build) -> None:
    """torchrun starts again whatever ended, a refusal too: it must not turn into a resume of another's run."""
    train(tiny(steps=1))
    world = World(launch=HashStore())
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny(steps=2), world=world)
    assert not world.has_begun()
    train(tiny(steps=2), resume=True, world=world)
    assert world.has_begun()


def test_fewer_sequences_than_ranks_are_refused() -> None:
    model = build_model(PRESETS["nano"], seed=0, device="cpu")
    config = TrainConfig(data="d", out="o", batch_tokens=128)
    with pytest.raises(ConfigError) as caught:
        resolve_for_machine(config, model, World(0, 3))
    assert str(caught.value) == (
        "batch_tokens=128 is 2 sequences, and there are 3 ranks; "
        "start at most 2, or give a batch_tokens of 192 or more"
    )


def test_an_error_of_one_rank_ends_all_and_is_said_once(tiny: Build, tmp_path: Path) -> None:
    shutil.copytree(tiny().data, tmp_path / "data-0")
    said = train_on_ranks(2, [(tiny(data=str(tmp_path / "data-{rank}")), False)], code=2)
    (line,) = said.splitlines()
    assert line.startswith("DataError on rank 1: there is no")
    assert "data-1" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


# --- they compute the same ----------------------------------------------------------------------------------------


@pytest.fixture
def same(tiny: Build, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Twenty steps of 7 sequences, which neither 2 nor 4 ranks can share evenly, in a folder of its own."""

    def build(name: str, **changes: Any) -> TrainConfig:
        settings = {"dropout": 0.0, "batch_tokens": 7 * 16, "micro_batch": 2, "steps": STEPS, "lr": 1e-2}
        settings |= {
            "optimizer": "adamw",
            "eval_every": 10,
            "save_every": 10,
            "sample_tokens": 4,
            "out": str(tmp_path / name),
        }
        return tiny(**{**settings, **changes})

    return build


def figures(run: Path) -> dict[str, np.ndarray]:
    """What the log says of every step, but for the clock."""
    records = read_metrics(run / "metrics.jsonl")
    steps = [r["step"] for r in records if "loss" in r]
    assert steps == list(range(1, STEPS + 1)), "every step is logged once, by one rank"
    return {
        key: np.array([r[key] for r in records if key in r])
        for key in ("loss", "gradient_norm", "lr", "val_loss", "val_loss_per_byte")
    }


def assert_same_run(run: Path, alone: Path) -> None:
    actual, expected = figures(run), figures(alone)
    for key, values in expected.items():
        RANKS.assert_close(actual[key], values, f"{run.name}: {key}")
    for name in ("model.safetensors", "training.safetensors"):
        ours, theirs = (load_file(checkpoint_path(folder, STEPS) / name) for folder in (run, alone))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype
            RANKS.assert_close(_learned(key, ours[key]), _learned(key, tensor), f"{run.name}: {key}")


def _learned(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Without the bias of the keys, which softmax cancels: its gradient is rounding alone, and AdamW scales it up."""
    if name.endswith("attn.c_attn.bias"):
        queries, _, values = tensor.chunk(3)
        return torch.cat([queries, values])
    return tensor


def cut_off(run: Path, name: str) -> None:
    """A copy of the run that ended after its save at step 10."""
    shutil.copytree(run, run.parent / name)
    shutil.rmtree(checkpoint_path(run.parent / name, STEPS))


def test_two_ranks_and_four_compute_what_one_does_and_resume_on_any_number(
    same: Build, tmp_path: Path
) -> None:
    train(same("alone"))
    train(same("alone-bf16", dtype="bf16"))
    train(same("alone-muon", optimizer="muon"))
    cut_off(tmp_path / "alone", "from-1-to-2")
    train_on_ranks(
        2,
        [
            (same("ddp-2"), False),
            (same("ddp-2-in-one-micro-batch", micro_batch=4), False),
            (same("fsdp-2", parallel="fsdp"), False),
            (same("fsdp-2-bf16", parallel="fsdp", dtype="bf16"), False),
            (same("ddp-2-muon", optimizer="muon"), False),
            (same("from-1-to-2"), True),
        ],
    )
    cut_off(tmp_path / "ddp-2", "from-2-to-4-and-fsdp")
    train_on_ranks(
        4,
        [
            (
                same("ddp-4", micro_batch=1),
                False,
            ),  # a rank of one row idles while others compute their second
            (same("fsdp-4", micro_batch=1, parallel="fsdp"), False),
            (same("from-2-to-4-and-fsdp", parallel="fsdp"), True),
        ],
    )
    cut_off(tmp_path / "fsdp-4", "from-4-to-1")
    train(same("from-4-to-1"), resume=True)
    for name in ("ddp-2", "ddp-2-in-one-micro-batch", "fsdp-2", "from-1-to-2", "ddp-4", "fsdp-4"):
        assert_same_run(tmp_path / name, tmp_path / "alone")
    for name in ("from-2-to-4-and-fsdp", "from-4-to-1"):
        assert_same_run(tmp_path / name, tmp_path / "alone")
    assert_same_run(tmp_path / "ddp-2-muon", tmp_path / "alone-muon")
    bf16, bf16_alone = (figures(tmp_path / name)["loss"] for name in ("fsdp-2-bf16", "alone-bf16"))
    BF16.assert_close(bf16, bf16_alone, "bf16")


def test_what_the_ranks_change_in_muon_is_rounding(same: Build, tmp_path: Path) -> None:
    """Its polynomials lift what rounding leaves in small singular values; in fp64 there is next to nothing to lift."""
    with in_float64():
        train(same("alone", optimizer="muon"))
    train_on_ranks(2, [(same("ddp-2", optimizer="muon"), False)], float64=True)
    ours, theirs = (
        load_file(checkpoint_path(tmp_path / n, STEPS) / "model.safetensors") for n in ("ddp-2", "alone")
    )
    for name, tensor in theirs.items():
        assert tensor.dtype == torch.float64
        EXACT.assert_close(ours[name], tensor, name)


# --- an evaluation that fails -------------------------------------------------------------------------------------


def test_an_evaluation_that_fails_on_one_rank_is_told_and_all_go_on(same: Build, tmp_path: Path) -> None:
    """A sharded model computes on all ranks or on none: there, an error in its forward pass must be all ranks'."""
    fails: dict[str, tuple[str, int | None]] = {
        "ddp-reading": ("reading", 0),
        "ddp-computing": ("computing", 1),
        "fsdp-reading": ("reading", 1),
        "fsdp-computing": ("computing", None),
        "fsdp-sample": ("sample", None),
    }
    settings = {"steps": 6, "eval_every": 2, "save_every": 100}
    names = ["ddp-whole", "fsdp-whole", *fails]
    runs = [(same(name, parallel=name.split("-")[0], **settings), False) for name in names]
    train_on_ranks(2, runs, fails=fails)
    for name, (where, rank) in fails.items():
        run, whole = tmp_path / name, tmp_path / f"{name.split('-')[0]}-whole"
        log, losses = read_metrics(run / "metrics.jsonl"), read_metrics(whole / "metrics.jsonl")
        told = [(r["step"], r["evaluation_error"]) for r in log if "evaluation_error" in r]
        said = f"EvaluationError: rank {rank or 0}: OSError: [Errno 5] gone"
        assert told == ([] if where == "sample" else [(2, said)]), name
        found, expected = (
            {r["step"]: r["val_loss"] for r in lines if "val_loss" in r} for lines in (log, losses)
        )
        assert found == {step: expected[step] for step in ((2, 4, 6) if where == "sample" else (4, 6))}, name
        samples = (run / "samples.txt").read_text(encoding="utf-8")
        assert [line.split()[2] for line in samples.splitlines() if line.startswith("=== step")] == [
            "4,",
            "6,",
        ]
        ours, theirs = (
            load_file(checkpoint_path(folder, 6) / "model.safetensors") for folder in (run, whole)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_a_rank_that_alone_fails_amid_a_sharded_model_ends_and_leaves_nobody_waiting(
    same: Build, tmp_path: Path
) -> None:
    runs = [(same("run", parallel="fsdp", eval_every=2), False)]
    said = train_on_ranks(2, runs, code=2, fails={"run": ("computing", 1)})
    assert "OSError: [Errno 5] gone" in said
    assert "RankError on rank 0: rank 0 of 2 has lost another rank" in said
    assert newest_whole(tmp_path / "run") == checkpoint_path(tmp_path / "run", 2), (
        "saved before it was evaluated"
    )


def test_ranks_that_fail_alike_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_ALIKE", timedelta(seconds=0.2))
    store = HashStore()
    worlds = [World(rank, 3, store=store) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            assert list(pool.map(World.all_failed, worlds)) == [True] * 3
        assert list(pool.map(World.all_failed, worlds[:2])) == [False] * 2
    assert ALONE.all_failed()


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_ranks_go_back_from_a_spike_together_and_give_up_with_one_voice(
    same: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: str
) -> None:
    settings = {"steps": 40, "save_every": 5, "eval_every": 100, "sample_tokens": 0}
    monkeypatch.setattr(Guard, "_spikes", spiking_after(12))
    with pytest.raises(DivergedError, match="after 3 returns to a checkpoint"):
        train(same("alone", **settings))
    runs = [(same("ranks", parallel=parallel, **settings), False)]
    said = train_on_ranks(2, runs, code=2, spikes_after=12)
    (line,) = said.splitlines()
    assert "DivergedError" in line
    assert "after 3 returns to a checkpoint" in line
    # Where all went back to, rank 0 saved again: the optimizer, on every rank, must be the one of that step.
    checkpoint = newest_whole(tmp_path / "ranks")
    assert checkpoint is not None
    state = load_file(checkpoint / "training.safetensors")
    steps = {float(value) for name, value in state.items() if name.endswith(".step")}
    assert steps == {float(checkpoint.name.removeprefix("step-"))}
    assert checkpoint.name == "step-00000010"
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("ranks", "alone")]
    ours, theirs = ([r["loss"] for r in log if "loss" in r] for log in logs)
    assert len(ours) == 12, "the log of the last attempt: steps 1 to 12"
    RANKS.assert_close(ours, theirs)
