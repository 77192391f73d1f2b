from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from gptwo.base.errors import CheckpointError, ConfigError, DataError, DivergedError, StorageError
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.runs import checkpoint_path, list_checkpoints, newest_whole
from gptwo.config import TrainConfig
from gptwo.data import prepare
from gptwo.tokenizer import Tokenizer
from gptwo.train.evaluate import Evaluation
from gptwo.train.loop import train
from gptwo.train.metrics import MetricsLog, read_metrics
from gptwo.train.observer import Silent, StepReport
from gptwo.train.run_folder import read_toml, resumed_settings

Build = Callable[..., TrainConfig]


def everything_saved(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = checkpoint_path(run, step)
    return {
        f"{name}/{key}": tensor
        for name in ("model.safetensors", "training.safetensors")
        for key, tensor in load_file(folder / name).items()
    }


def log_without_clock(run: Path) -> list[dict[str, float]]:
    clock = {"tokens_per_s", "matmul_share", "data_wait", "memory_bytes", "peak_memory_bytes"}
    return [{k: v for k, v in r.items() if k not in clock} for r in read_metrics(run / "metrics.jsonl")]


def test_it_learns_and_leaves_a_whole_run_behind(tiny: Build, tmp_path: Path) -> None:
    config = tiny(steps=30, eval_every=10, save_every=10, keep_last=2, n_embd=32, lr=1e-2)
    result = train(config)
    run = tmp_path / "run"
    assert result.run == run
    assert result.step == 30
    assert result.stopped_by is None
    assert [p.name for p in list_checkpoints(run)] == ["step-00000020", "step-00000030"]
    assert result.checkpoint == newest_whole(run)
    assert TrainConfig.from_mapping(read_toml(run / "config.toml")).steps == 30
    losses = [r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r]
    assert len(losses) == 30
    assert losses[0] == pytest.approx(np.log(257), abs=0.3), "a fresh model knows nothing: about log V"
    assert losses[-1] < losses[0] - 1.0
    assert result.evaluation is not None
    assert result.evaluation.nats_per_token < losses[0] - 1.0
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "samples.txt").read_text(encoding="utf-8").count("=== step") == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every": 1, "optimizer": "muon"},
        {"log_every": 4, "optimizer": "muon"},
        {"log_every": 4, "optimizer": "adamw"},
        {"batch_tokens": 64 * 16, "micro_batch": 24},  # 216 windows: an epoch ends within the fourth step
    ],
)
def test_resume_after_any_step_is_bitwise_the_run_that_never_stopped(
    tiny: Build, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(tiny(out=str(tmp_path / "whole"), **changes))
    expected = everything_saved(tmp_path / "whole", 6)
    for stop_after in range(1, 6):
        out = tmp_path / f"stopped-{stop_after}"
        stopped = tiny(out=str(out), **changes)

        class StopThere(Silent):
            def saved(self, step: int, checkpoint: Path, stop_after: int = stop_after) -> None:
                if step == stop_after:
                    raise _PowerCut

        with pytest.raises(_PowerCut):
            train(stopped, observer=StopThere())
        result = train(TrainConfig.from_mapping(resumed_settings(str(out), {})), resume=True)
        assert result.step == 6
        actual = everything_saved(out, 6)
        assert actual.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(actual[name], tensor), f"{name} differs after a stop at step {stop_after}"
        assert log_without_clock(out) == log_without_clock(tmp_path / "whole")


class _PowerCut(BaseException):
    """Ends a run where a power cut would: no handler of ours sees it coming."""


def test_a_run_from_before_there_was_muon_goes_on_with_adamw(tiny: Build, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"optimizer": "adamw", "schedule": "cosine", "lr": 1e-3, "weight_decay": 0.1, "beta2": 0.99}
    train(tiny(steps=2, **settings))
    kept = read_toml(run / "config.toml")
    for name in ("optimizer", "schedule", "min_lr"):
        del kept[name]
    (run / "config.toml").write_text(tomli_w.dumps(kept), encoding="utf-8")
    config = TrainConfig.from_mapping(resumed_settings(str(run), {"steps": 4}))
    assert train(config, resume=True).step == 4
    again = TrainConfig.from_mapping(read_toml(run / "config.toml"))
    assert (again.optimizer, again.schedule, again.min_lr) == ("adamw", "cosine", pytest.approx(1e-4))


def test_resume_before_the_first_checkpoint_starts_over(tiny: Build, tmp_path: Path) -> None:
    class StopAtOnce(Silent):
        def stepped(self, report: object) -> None:
            raise _PowerCut

    with pytest.raises(_PowerCut):
        train(tiny(), observer=StopAtOnce())
    train(tiny(), resume=True)
    train(tiny(out=str(tmp_path / "whole")))
    assert log_without_clock(tmp_path / "run") == log_without_clock(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_says_so(tiny: Build, tmp_path: Path, number: signal.Signals) -> None:
    class Signal(Silent):
        def evaluated(self, step: int, evaluation: Evaluation, sample: str) -> None:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = train(tiny(save_every=100, eval_every=2), observer=Signal())
    assert result.stopped_by == number.name
    assert result.step == 2, "it stops within a step of the signal"
    assert newest_whole(tmp_path / "run") == result.checkpoint
    assert signal.getsignal(number) is before, "handlers are put back"


def test_a_run_is_never_begun_anew_by_accident(tiny: Build) -> None:
    train(tiny(steps=1))
    with pytest.raises(ConfigError, match=r"holds a run already; add --resume"):
        train(tiny(steps=1))


def test_resume_refuses_other_data(tiny: Build, tmp_path: Path) -> None:
    train(tiny(steps=2))
    (tmp_path / "other.txt").write_text("other text, of the same kind of tokens. " * 50, encoding="utf-8")
    prepare([str(tmp_path / "other.txt")], tokenizer="byte", out=tmp_path / "other")
    with pytest.raises(DataError, match="is not the data that this run was trained on"):
        train(tiny(steps=3, data=str(tmp_path / "other")), resume=True)


def test_resume_passes_over_a_damaged_checkpoint_and_refuses_when_all_are(
    tiny: Build, tmp_path: Path
) -> None:
    train(tiny(steps=3))
    run = tmp_path / "run"
    weights = checkpoint_path(run, 3) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert train(tiny(steps=4), resume=True).step == 4
    for step in (1, 2, 3, 4):
        (checkpoint_path(run, step) / "model.safetensors").write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError)):
        train(tiny(steps=5), resume=True)


def test_a_model_of_another_vocabulary_is_named(tiny: Build, tmp_path: Path) -> None:
    train(tiny(steps=1))
    (tmp_path / "text.txt").write_text("only a few letters " * 50, encoding="utf-8")
    prepare([str(tmp_path / "text.txt")], tokenizer="char", out=tmp_path / "chars")
    config = tiny(model=str(tmp_path / "run"), data=str(tmp_path / "chars"), out=str(tmp_path / "next"))
    with pytest.raises(
        DataError, match=r"has a vocabulary of 257 tokens and the data .* another one of \d+; prepare"
    ):
        train(config)


def test_training_goes_on_from_another_checkpoint(tiny: Build, tmp_path: Path) -> None:
    first = train(tiny(steps=30, lr=1e-2, save_every=30, eval_every=30))
    again = train(tiny(model=str(first.run), out=str(tmp_path / "next"), steps=1, lr=0.0, warmup_steps=0))
    assert first.evaluation is not None
    assert again.evaluation is not None
    assert again.evaluation.nats_per_token == pytest.approx(first.evaluation.nats_per_token, rel=1e-6)
    with pytest.raises(ConfigError, match="n_layer=3 differs from the 2"):
        train(tiny(model=str(first.run), out=str(tmp_path / "third"), n_layer=3))


def test_batch_tokens_must_be_whole_sequences(tiny: Build) -> None:
    with pytest.raises(
        ConfigError, match=r"batch_tokens=65 is not a multiple of the context of 16; nearest: 64 and 80"
    ):
        train(tiny(batch_tokens=65))


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_whole(
    tiny: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(steps=2))
    kept = newest_whole(tmp_path / "run")
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        train(tiny(steps=3), resume=True)
    monkeypatch.setattr(os, "fsync", real)
    assert "No space left" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert newest_whole(tmp_path / "run") == kept
    assert train(tiny(steps=3), resume=True).step == 3


def test_resumed_settings_keep_what_decides_the_weights(tiny: Build, tmp_path: Path) -> None:
    train(tiny(steps=1, lr=0.001))
    out = str(tmp_path / "run")
    assert resumed_settings(out, {"steps": 9, "device": "cpu"})["steps"] == 9
    assert resumed_settings(out, {"dtype": "auto"})["dtype"] == "fp32", (
        "auto is what it was when the run began"
    )
    assert resumed_settings(out, {"data": "moved"})["data"] == "moved", (
        "that it is the same is checked by its tokens"
    )
    with pytest.raises(ConfigError, match=r"--lr 0.5 differs from this run's 0.001"):
        resumed_settings(out, {"lr": 0.5})
    with pytest.raises(ConfigError, match="there is no run to resume"):
        resumed_settings(str(tmp_path / "nothing"), {})


def test_activation_checkpointing_changes_memory_and_not_the_run(tiny: Build, tmp_path: Path) -> None:
    train(tiny(out=str(tmp_path / "plain")))
    train(tiny(out=str(tmp_path / "checkpointed"), checkpoint_activations=True))
    plain, other = (everything_saved(tmp_path / name, 6) for name in ("plain", "checkpointed"))
    for name, tensor in plain.items():
        assert torch.equal(other[name], tensor), name


def test_metrics_survive_damaged_lines_and_one_that_a_kill_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    damaged = b'{"step": 1, "loss": 2.0}\n{"a": 1}\n\xff\xfe\n[2]\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo'
    path.write_bytes(damaged)
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    log = MetricsLog(path, first_step=1)
    log.append({"step": 2, "loss": 1.5})
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
    ]


def test_a_run_killed_before_its_first_save_leaves_nothing_in_the_next_ones_log(
    tiny: Build, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 9.0}\n{"step": 99, "loss": 9.0}\n', encoding="utf-8"
    )
    (run / "samples.txt").write_text("=== step 3, validation loss 9.0000\nold\n\n", encoding="utf-8")
    train(tiny(steps=3))
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r] == [1, 2, 3]
    assert (run / "samples.txt").read_text(encoding="utf-8").count("=== step") == 1


def test_samples_after_a_resume_stand_once(tiny: Build, tmp_path: Path) -> None:
    class StopAtStep4(Silent):
        def stepped(self, report: StepReport) -> None:
            if report.step == 4:
                raise _PowerCut

    with pytest.raises(_PowerCut):
        train(tiny(eval_every=1, save_every=2), observer=StopAtStep4())
    train(tiny(eval_every=1, save_every=2), resume=True)
    headings = [
        line.split(",")[0]
        for line in (tmp_path / "run" / "samples.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("=== ")
    ]
    assert headings == [f"=== step {step}" for step in range(1, 7)]


@pytest.mark.parametrize("name", ["loss.png", "samples.txt"])
def test_what_only_decorates_a_run_may_fail_and_the_run_goes_on(
    tiny: Build, tmp_path: Path, name: str
) -> None:
    warnings: list[str] = []

    class Listen(Silent):
        def warned(self, message: str) -> None:
            warnings.append(message)

    (tmp_path / "run" / name).mkdir(parents=True)
    assert train(tiny(), observer=Listen()).step == 6
    assert warnings
    assert all(name in warning and "the run goes on" in warning for warning in warnings)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_kept(tiny: Build, tmp_path: Path) -> None:
    train(tiny(steps=2))
    run = tmp_path / "run"
    for path in list_checkpoints(run):
        (path / "model.safetensors").write_bytes(b"cut short")
    log = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny(steps=2))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        train(tiny(steps=2), resume=True)
    assert (run / "metrics.jsonl").read_bytes() == log


def test_a_run_that_diverges_ends_in_one_line_and_saves_nothing_poisoned(tiny: Build, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"3 bad steps in a row up to step \d.*--lr"):
        train(tiny(lr=1e30, grad_clip=0.0, warmup_steps=0, sample_tokens=0))
    for checkpoint in list_checkpoints(tmp_path / "run"):
        for name, tensor in load_file(checkpoint / "model.safetensors").items():
            assert torch.isfinite(tensor).all(), f"{name} of {checkpoint.name}"
    for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_two_processes_do_not_train_in_one_folder(tiny: Build, tmp_path: Path) -> None:
    class Intrude(Silent):
        refused = 0

        def stepped(self, report: StepReport) -> None:
            if report.step == 1:
                with pytest.raises(ConfigError, match="another process is training in"):
                    train(tiny())
                self.refused += 1

    intrude = Intrude()
    assert train(tiny(log_every=1), observer=intrude).step == 6, "the first one is not disturbed"
    assert intrude.refused == 1
    assert train(tiny(), resume=True).step == 6, "the lock ends with the run"


def test_a_padded_embedding_trains_on(tiny: Build, tmp_path: Path) -> None:
    """More rows than tokens, as released models pad them: the ids mean the same, so it is no mismatch."""
    from transformers import GPT2Config as ReleasedConfig
    from transformers import GPT2LMHeadModel

    data = Path(tiny().data)
    released = ReleasedConfig(n_layer=2, n_head=2, n_embd=16, n_positions=16, vocab_size=320)
    GPT2LMHeadModel(released).save_pretrained(tmp_path / "padded")
    Tokenizer.load(data).save(tmp_path / "padded")
    result = train(tiny(model=str(tmp_path / "padded")))
    assert read_config(result.checkpoint).vocab_size == 320


def test_equal_sizes_of_other_vocabularies_are_a_mismatch(tiny: Build, tmp_path: Path) -> None:
    for name, letters in (("one", "abcd "), ("two", "efgh ")):
        (tmp_path / f"{name}.txt").write_text(letters * 400, encoding="utf-8")
        prepare([str(tmp_path / f"{name}.txt")], tokenizer="char", out=tmp_path / name)
    first = train(tiny(data=str(tmp_path / "one"), steps=1, sample_tokens=0))
    config = tiny(
        data=str(tmp_path / "two"), model=str(first.run), out=str(tmp_path / "next"), sample_tokens=0
    )
    with pytest.raises(
        DataError, match=r"has a vocabulary of 6 tokens and the data .* another one of 6; prepare"
    ):
        train(config)


def test_resume_needs_steps_that_lie_ahead(tiny: Build) -> None:
    train(tiny(steps=3))
    with pytest.raises(ConfigError, match="steps=2 is before step 3"):
        train(tiny(steps=2), resume=True)
