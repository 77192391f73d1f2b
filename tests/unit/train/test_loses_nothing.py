"""Steps that go wrong, evaluations that fail, and which checkpoints stay."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptwo.base.errors import DivergedError, StorageError
from gptwo.checkpoint.runs import checkpoint_path, list_checkpoints
from gptwo.config import TrainConfig
from gptwo.model import GPT2
from gptwo.train import loop
from gptwo.train.distributed import World
from gptwo.train.evaluate import Evaluation
from gptwo.train.loop import train
from gptwo.train.metrics import read_metrics
from gptwo.train.observer import Silent, StepReport
from gptwo.train.run_folder import resumed_settings
from gptwo.train.source import Batch, PreparedText
from gptwo.train.step import StepResult, optimizer_step

Build = Callable[..., TrainConfig]


class Listen(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_path(run, step) / "model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def losses_of(monkeypatch: pytest.MonkeyPatch, bad: dict[int, float], seen: list[int]) -> None:
    """Report the loss ``bad[n]`` of the n-th step that runs, and note which rows each step takes.

    A loss that is no number skips the update, as the real step does.
    """
    real_batch = PreparedText.batch
    ran = 0

    def batch(self: PreparedText, step: int, first: int, last: int) -> Batch:
        if first == 0:
            seen.append(step)
        return real_batch(self, step, first, last)

    def step(*arguments: object, **settings: object) -> StepResult:
        nonlocal ran
        ran += 1
        loss = bad.get(ran)
        if loss is None or math.isfinite(loss):
            result = optimizer_step(*arguments, **settings)  # type: ignore[arg-type]
            return result if loss is None else StepResult(loss, result.gradient_norm, applied=True)
        list(arguments[3])  # type: ignore[call-overload] # the rows are taken either way
        return StepResult(loss, loss, applied=False)

    monkeypatch.setattr(PreparedText, "batch", batch)
    monkeypatch.setattr(loop, "optimizer_step", step)


def test_a_step_of_no_finite_number_changes_nothing_and_is_counted(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def poisoned_at_step_2(
        self: GPT2, tokens: torch.Tensor, targets: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        loss = real_loss(self, tokens, targets, **kwargs)  # type: ignore[arg-type]
        return loss * math.nan if self.training and reached["step"] == 2 else loss

    class Count(Listen):
        def stepped(self, report: object) -> None:
            reached["step"] += 1

    reached = {"step": 0}
    real_loss = GPT2.loss
    monkeypatch.setattr(GPT2, "loss", poisoned_at_step_2)
    listen = Count()
    train(tiny(steps=4, sample_tokens=0), observer=listen)
    run = tmp_path / "run"
    assert_same(weights(run, 2), weights(run, 3))
    assert not torch.equal(
        weights(run, 3)["transformer.wte.weight"], weights(run, 4)["transformer.wte.weight"]
    )
    lines = [r for r in read_metrics(run / "metrics.jsonl") if "skipped_steps" in r]
    assert [r["skipped_steps"] for r in lines] == [0, 0, 1, 1]
    assert ["loss" in r for r in lines] == [True, True, False, True]
    assert listen.warnings == ["step 3: loss or gradient is no finite number; the step is skipped"]


def test_a_spike_goes_back_and_past_its_rows(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    losses_of(monkeypatch, {23: 99.0, 24: 99.0, 25: 99.0}, seen)
    listen = Listen()
    config = tiny(steps=26, save_every=7, eval_every=26)
    assert train(config, observer=listen).step == 26
    # Saved at 7, 14, 21; steps 23 to 25 are bad, so back to 21, whose next rows are those after the bad ones.
    assert seen == [*range(25), *range(25, 30)]
    run = tmp_path / "run"
    assert ["back to step 21" in w for w in listen.warnings] == [True]
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 27)), "no step is logged twice"
    assert [r for r in records if "went_back_from" in r] == [{"step": 21, "went_back_from": 25}]

    # Stopped at any step after that, a resumed run ends at the same weights.
    expected = weights(run, 26)
    monkeypatch.undo()
    for path in list_checkpoints(run):
        if path > checkpoint_path(run, 21):
            shutil.rmtree(path)
    assert train(TrainConfig.from_mapping(resumed_settings(str(run), {})), resume=True).step == 26
    assert_same(weights(run, 26), expected)


@pytest.mark.parametrize(
    ("stop_after", "keep_last"),
    [(22, 10), (22, 1), (23, 1), (24, 1)],
    ids=["before-the-spike", "before-it-with-one-kept", "in-it-with-one-kept", "at-an-evaluation-in-it"],
)
def test_a_run_that_was_stopped_near_a_spike_goes_back_to_the_same_step(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, keep_last: int
) -> None:
    """The checkpoint that a signal asks for is neither gone back to nor instead of the one to go back to."""
    real_batch = PreparedText.batch
    row_step = 0

    def batch(self: PreparedText, step: int, first: int, last: int) -> Batch:
        nonlocal row_step
        row_step = step
        return real_batch(self, step, first, last)

    def spikes_at_rows_22_to_24(*arguments: object, **settings: object) -> StepResult:
        result = optimizer_step(*arguments, **settings)  # type: ignore[arg-type]
        return replace(result, loss=99.0) if 22 <= row_step <= 24 else result

    class StopThere(Silent):
        def stepped(self, report: StepReport) -> None:
            if report.step == stop_after:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PreparedText, "batch", batch)
    monkeypatch.setattr(loop, "optimizer_step", spikes_at_rows_22_to_24)
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = {"steps": 26, "save_every": 7, "eval_every": 8, "keep_last": keep_last, "sample_tokens": 0}
    train(tiny(out=str(whole), **settings))
    assert train(tiny(**settings), observer=StopThere()).stopped_by == "SIGTERM"
    train(TrainConfig.from_mapping(resumed_settings(str(run), {})), resume=True)
    assert_same(weights(run, 26), weights(whole, 26))
    events = [
        [(r["step"], r.get("loss"), r.get("val_loss"), r.get("went_back_from")) for r in read_metrics(path)]
        for path in (run / "metrics.jsonl", whole / "metrics.jsonl")
    ]
    assert events[0] == events[1]
    assert (21, None, None, 25) in events[0]


def test_going_back_leaves_the_name_of_the_best_on_a_checkpoint(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [3.0, 1.0, 2.5, 2.5, 2.5])
    losses_of(monkeypatch, {3: math.nan, 4: math.nan, 5: math.nan}, [])
    best = tmp_path / "run" / "best"
    after_going_back = []

    class Look(Listen):
        def saved(self, step: int, checkpoint: Path) -> None:
            if any("back to step 2" in warning for warning in self.warnings):
                after_going_back.append(best.resolve().name)

    train(tiny(steps=6, save_every=2, eval_every=2, sample_tokens=0), observer=Look())
    # Step 4, evaluated best amid the skipped steps, is gone when step 2 is saved again.
    assert after_going_back[0] == "step-00000002"
    assert best.is_dir()


def test_no_state_amid_bad_steps_is_saved(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of(monkeypatch, {24: 99.0, 25: 99.0}, [])
    train(tiny(steps=28, save_every=12, eval_every=28))
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == [
        "step-00000012",
        "step-00000026",  # step 24's turn, after the bad ones
        "step-00000028",
    ]


def test_a_run_that_spikes_again_and_again_ends(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of(monkeypatch, dict.fromkeys(range(23, 200), 99.0), [])
    with pytest.raises(DivergedError, match=r"3 bad steps in a row.*after 3 returns.*--lr"):
        train(tiny(steps=60, save_every=7, eval_every=60))
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert newest.name == "step-00000021"


def test_bad_steps_before_the_first_checkpoint(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of(monkeypatch, {23: 99.0, 24: 99.0, 25: 99.0}, [])
    listen = Listen()
    assert train(tiny(steps=30, save_every=30, eval_every=30), observer=listen).step == 30
    assert [w for w in listen.warnings if "no checkpoint to go back to" in w]
    losses_of(monkeypatch, dict.fromkeys(range(1, 9), math.nan), [])
    with pytest.raises(DivergedError, match="choose a lower --lr"):
        train(tiny(steps=30, save_every=30, eval_every=30, out=str(tmp_path / "other")))


def evaluations(monkeypatch: pytest.MonkeyPatch, results: list[float | Exception]) -> None:
    remaining = iter(results)

    def evaluate(self: PreparedText, model: GPT2, config: TrainConfig, world: World) -> Evaluation:
        result = next(remaining)
        if isinstance(result, Exception):
            model.eval()  # as the real one leaves it when it fails half-way
            raise result
        return Evaluation(nats_per_token=result, nats_per_byte=result, tokens=1, bytes=1)

    monkeypatch.setattr(PreparedText, "evaluate", evaluate)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        OSError(5, "gone"),
        StorageError("shard gone"),
        math.nan,
    ],
    ids=["torch-memory", "memory", "disk", "ours", "nan"],
)
def test_an_evaluation_that_fails_is_told_and_the_run_goes_on(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: float | Exception
) -> None:
    expected = train(tiny(out=str(tmp_path / "whole"), dropout=0.5))
    evaluations(monkeypatch, [failure, 2.0])
    listen = Listen()
    result = train(tiny(save_every=100, dropout=0.5), observer=listen)
    run = tmp_path / "run"
    assert result.step == 6
    assert result.evaluation is not None
    assert result.evaluation.nats_per_token == 2.0
    assert_same(weights(run, 6), weights(tmp_path / "whole", expected.step))
    assert checkpoint_path(run, 3).is_dir(), "saved before the evaluation, though its turn is later"
    assert len(listen.warnings) == 1
    assert "step 3: the evaluation failed" in listen.warnings[0]
    errors = [r for r in read_metrics(run / "metrics.jsonl") if "evaluation_error" in r]
    assert [r["step"] for r in errors] == [3]


def test_the_last_and_the_best_checkpoints_stay(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [3.0, 1.0, 2.0, 1.0, 4.0, 0.5])
    config = tiny(steps=5, eval_every=1, keep_last=1)
    train(config)
    run = tmp_path / "run"
    assert [p.name for p in list_checkpoints(run)] == ["step-00000002", "step-00000005"]
    assert (run / "best").resolve() == checkpoint_path(run, 2).resolve()
    train(TrainConfig.from_mapping(resumed_settings(str(run), {"steps": 6})), resume=True)
    assert (run / "best").resolve() == checkpoint_path(run, 6).resolve()
    train(TrainConfig.from_mapping(resumed_settings(str(run), {"steps": 6})), resume=True)
    assert [p.name for p in list_checkpoints(run)][-1] == "step-00000006"


def test_a_dtype_kept_from_a_better_machine_is_told(tiny: Build, tmp_path: Path) -> None:
    """bf16 belongs to the run, so it stays: here, as if it had been begun on a GPU."""
    listen = Listen()
    train(tiny(dtype="bf16", steps=1), observer=listen)
    assert listen.warnings == [], "who asks for it has it"
    settings = resumed_settings(str(tmp_path / "run"), {"steps": 2, "dtype": "auto"})
    assert train(TrainConfig.from_mapping(settings), resume=True, observer=listen).step == 2
    (warning,) = listen.warnings
    assert warning.startswith(
        "the run goes on in bf16, as it began, which on this cpu may be many times slower"
    )
    assert warning.endswith("begin another run from its checkpoint, with --dtype fp32")
    train(tiny(out=str(tmp_path / "fp32"), steps=1), observer=listen)
    settings = resumed_settings(str(tmp_path / "fp32"), {"steps": 2})
    train(TrainConfig.from_mapping(settings), resume=True, observer=listen)
    assert len(listen.warnings) == 1


def test_lines_have_what_a_run_is_judged_by(tiny: Build, tmp_path: Path) -> None:
    train(tiny(steps=2))
    lines = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in r]
    for line in lines:
        assert line["loss_per_byte"] == line["loss"], "one token is one byte here"
        assert 0.0 < line["matmul_share"] < 1.0
        assert 0.0 < line["data_wait"] < 1.0
        assert 2**20 < line["memory_bytes"] <= line["peak_memory_bytes"] < 2**36
        json.dumps(line, allow_nan=False)


def test_a_signal_ends_an_evaluation_whose_step_is_saved(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PreparedText.evaluate
    finished: list[int] = []

    def evaluate(self: PreparedText, *arguments: object) -> Evaluation:
        if not finished:
            finished.append(0)
            os.kill(os.getpid(), signal.SIGTERM)
        result = real(self, *arguments)  # type: ignore[arg-type]
        finished.append(1)
        return result

    monkeypatch.setattr(PreparedText, "evaluate", evaluate)
    result = train(tiny())
    assert (result.step, result.stopped_by, finished) == (3, "SIGTERM", [0])
    run = tmp_path / "run"
    assert train(TrainConfig.from_mapping(resumed_settings(str(run), {})), resume=True).step == 6
    steps = [r["step"] for r in read_metrics(run / "metrics.jsonl") if "val_loss" in r]
    assert steps == [3, 6], "the one that was cut short is made up for"


def test_a_sample_that_fails_leaves_the_loss(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> str:
        raise MemoryError

    monkeypatch.setattr(loop, "sample_text", broken)
    listen = Listen()
    train(tiny(), observer=listen)
    assert [w.split(":")[1].split("(")[0].strip() for w in listen.warnings] == ["no sample"] * 2
    assert len([r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val_loss" in r]) == 2


def test_a_run_stopped_before_its_first_update_goes_on(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(out=str(tmp_path / "whole")))
    monkeypatch.setattr(
        loop.TrainingRun, "_owes_evaluation", lambda self: bool(os.kill(os.getpid(), signal.SIGTERM))
    )
    assert train(tiny()).step == 0
    monkeypatch.undo()
    run = tmp_path / "run"
    assert train(TrainConfig.from_mapping(resumed_settings(str(run), {})), resume=True).step == 6
    assert_same(weights(run, 6), weights(tmp_path / "whole", 6))
