"""``gptwo plan``, and the plan that training begins with."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import TINY, command
from gptwo.base.errors import ConfigError
from gptwo.cli.planned import PlanningObserver
from gptwo.config import GPT2Config
from gptwo.data import prepare
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.target import find_target
from gptwo.train.metrics import read_metrics
from random_checkpoint import write_random_checkpoint


@pytest.fixture(autouse=True)
def _no_measured_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's own cache of ceilings, and none made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    prepare([str(folder / "text.txt")], tokenizer="byte", out=folder / "data")
    return folder / "data"


def plans(*flags: object) -> list[dict[str, Any]]:
    outcome = command("plan", *flags, "--json", "-")
    assert outcome.code == 0, outcome.err
    found: list[dict[str, Any]] = json.loads(outcome.out)["plans"]
    return found


def test_training_on_machines_that_are_not_here() -> None:
    flags = (
        "gpt2",
        "--device",
        "a100,l4",
        "--batch-tokens",
        65536,
        "--tokens",
        "1e9",
        "--gpus",
        4,
        "--price",
        2,
    )
    outcome = command("plan", *flags)
    assert outcome.code == 0
    a100, l4 = outcome.out.split("\n\n")
    assert a100.startswith(
        "gpt2 on NVIDIA A100 SXM 80 GB: NOT measured. NVIDIA A100 Tensor Core GPU Datasheet; "
    )
    assert "15,259 steps of 65,536 tokens on 4 devices, bf16, muon" in a100
    assert "72% of arithmetic" in a100
    for text in (a100, l4):
        for said in (
            "memory ",
            "activations ",
            "most at a time",
            "a step ",
            "in all ",
            "communication ",
            "cost ",
            "loss ",
        ):
            assert f"\n{said}" in text
    first, second = plans(*flags)
    assert first["steps"] == 15_259
    assert first["seconds"] < second["seconds"]
    assert first["cost"] == pytest.approx(8 * first["seconds"] / 3600)


def test_writing_with_a_checkpoint(tmp_path: Path) -> None:
    shape = GPT2Config(n_layer=2, n_head=2, n_embd=32, context=64, vocab_size=300)
    import torch

    write_random_checkpoint(tmp_path / "m", shape, eot_id=0, dtype=torch.bfloat16)
    flags = (
        tmp_path / "m",
        "--device",
        "raspberry-pi-5",
        "--generate",
        16,
        "--prompt-tokens",
        8,
        "--slots",
        3,
    )
    (plan,) = plans(*flags)
    assert (plan["weights"], plan["kv"], plan["engine"]) == ("bf16", "bf16", "native")
    assert (plan["slots"], plan["kv_tokens"]) == (3, 192)
    (other,) = plans(*flags, "--dtype", "int4")
    assert (other["weights"], other["kv"]) == ("int4", "int8")
    file = tmp_path / "plan.json"
    outcome = command("plan", *flags, "--json", file)
    assert outcome.err == f"written: {file}\n"
    assert json.loads(file.read_text(encoding="utf-8"))["plans"] == [plan]
    assert "first token" in outcome.out


def test_memory_that_is_given_decides_what_fits() -> None:
    (plan,) = plans("gpt2-xl", "--device", "epyc-9654", "--memory", "16GB", "--batch-tokens", 1024)
    assert plan["fits"] is False
    assert plan["largest_micro_batch"] == 0
    smaller = ("gpt2", "--device", "epyc-9654", "--memory", "16GB", "--batch-tokens", 4096, "--dropout", 0)
    (plan,) = plans(*smaller)
    assert plan["fits"] is True


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("gpt2", "--device", "abacus"), "DeviceError: device 'abacus' is none of this machine's"),
        (
            ("gpt2", "--device", "a100", "--batch-tokens", "0"),
            "ConfigError: --batch-tokens 0 is not possible",
        ),
        (("gpt2", "--device", "a100", "--tokens", "nan"), "ConfigError: --tokens nan is not possible"),
        (("gpt2", "--device", "a100", "--tokens", "inf"), "ConfigError: --tokens inf is not possible"),
        (("gpt2", "--device", "a100", "--tokens", "1e300"), "ConfigError: --tokens 1e+300 is not possible"),
        (("gpt2", "--device", "a100", "--price", "1e300"), "ConfigError: --price 1e+300 is not possible"),
        (("gpt2", "--device", "a100", "--price", "-1"), "ConfigError: --price -1 is not possible"),
        (
            ("gpt2", "--device", "a100", "--dtype", "int8"),
            "ConfigError: --dtype int8 is not possible in training",
        ),
        (
            ("gpt2", "--device", "a100", "--batch-tokens", "1000"),
            "ConfigError: batch_tokens=1000 is not a multiple",
        ),
        (("gpt2", "--device", "a100", "--generate", "2000"), "ContextLengthError: 32 tokens and 2000 more"),
        (
            ("gpt2", "--device", "a100", "--generate", "9", "--engine", "native"),
            "ConfigError: the native engine runs on a CPU, not on NVIDIA A100",
        ),
        (
            ("gpt2", "--device", "a100", "--generate", "9", "--dtype", "int8"),
            "ConfigError: --dtype int8 is not possible on the torch engine; expected one of fp32, bf16, fp16, fp64",
        ),
        (
            ("gpt2", "--device", "a100", "--generate", "9", "--kv-dtype", "int8"),
            "ConfigError: the torch engine keeps keys and values as its weights are, in fp32; leave out --kv-dtype",
        ),
        (("gpt2", "--device", "a100", "--gpus", "2", "--link", "0"), "ConfigError: --link 0 is not possible"),
        (("gpt2", "--device", "a100", "--memory", "0"), "ConfigError: --memory 0 is not possible"),
        (("gpt2", "--device", "i7-10700", "--threads", "0"), "ConfigError: --threads 0 is not possible"),
        (("gpt2", "--threads", "1000000"), "ConfigError: --threads 1000000 is not possible; expected 1 to"),
        (("nowhere/at/all", "--device", "a100"), "CheckpointError: "),
        (
            ("gpt2", "--device", "a100", "--memory", "much"),
            "UsageError: argument --memory: 'much' is no size",
        ),
    ],
)
def test_mistakes_are_one_line(flags: tuple[str, ...], line: str) -> None:
    assert command("plan", *flags).error_line().startswith(line)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--generate", 5, "--gpus", 8), "--gpus is of training; leave it out beside --generate"),
        (("--generate", 5, "--context", 512), "--context is of training; leave it out beside --generate"),
        (
            ("--generate", 5, "--checkpoint-activations"),
            "--checkpoint-activations is of training; leave it out beside --generate",
        ),
        (("--slots", 8), "--slots is of writing; give --generate N beside it, or leave it out"),
        (("--kv-dtype", "int8"), "--kv-dtype is of writing; give --generate N beside it, or leave it out"),
    ],
)
def test_flags_of_the_other_kind_of_plan_are_refused(flags: tuple[object, ...], line: str) -> None:
    assert command("plan", "gpt2", "--device", "a100", *flags).error_line() == f"ConfigError: {line}"


def test_no_loss_is_expected_of_weights_that_exist(tmp_path: Path) -> None:
    import torch

    shape = GPT2Config(n_layer=1, n_head=2, n_embd=16, context=64, vocab_size=30_000)
    write_random_checkpoint(tmp_path / "m", shape, eot_id=0, dtype=torch.float32)
    (known,) = plans(tmp_path / "m", "--device", "a100", "--batch-tokens", 64)
    (fresh,) = plans("gpt2", "--device", "a100")
    assert known["expected_loss"] is None
    assert fresh["expected_loss"]["kaplan"] > 0


OF_THE_HUB = {
    **{"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16},
    **{"n_positions": 64, "vocab_size": 300},
}


def test_a_model_of_the_hub_is_planned_from_its_config_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append((repository, options["allow_patterns"]))
        config = OF_THE_HUB | {"torch_dtype": "bfloat16"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (plan,) = plans("someone/model", "--device", "a100", "--batch-tokens", 64)
    assert plan["parameters"] > 0
    assert asked == [("someone/model", ["config.json", "adapter_config.json"])]
    (plan,) = plans("someone/model", "--device", "a100", "--generate", 9)
    assert plan["weights"] == "bf16"
    assert all("model.safetensors" not in files and "*.safetensors" not in files for _, files in asked)


def test_an_adapter_is_planned_from_configs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    files = {
        "someone/adapter": ("adapter_config.json", {"base_model_name_or_path": "someone/base"}),
        "someone/base": ("config.json", OF_THE_HUB),
    }
    asked: list[Any] = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append((repository, options["allow_patterns"]))
        name, values = files[repository]
        folder = tmp_path / repository
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (of_base,) = plans("someone/base", "--device", "a100", "--batch-tokens", 64)
    # One of the hub, and one of this disk whose base is on the hub.
    for adapter in ("someone/adapter", tmp_path / "someone" / "adapter"):
        (plan,) = plans(adapter, "--device", "a100", "--batch-tokens", 64)
        assert plan["parameters"] == of_base["parameters"]
        assert plans(adapter, "--device", "a100", "--generate", 9)[0]["weights"] == "fp32"
    assert {repository for repository, _ in asked} == set(files)
    assert all(patterns == ["config.json", "adapter_config.json"] for _, patterns in asked)
    files["someone/base"] = ("adapter_config.json", {"base_model_name_or_path": "someone/adapter"})
    (tmp_path / "someone/base/config.json").unlink()
    line = command("plan", "someone/base", "--device", "a100").error_line()
    assert "is an adapter over itself" in line


def test_a_file_that_cannot_be_written_is_one_line_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptwo.perf.target.cached_ceilings", lambda *_, **__: pytest.fail("it was measured"))
    for path in (tmp_path, tmp_path / "nowhere" / "plan.json"):
        line = command("plan", "gpt2", "--device", "cpu", "--json", path).error_line()
        assert line.startswith(f"StorageError: cannot write {path}: ")


def test_this_machine_says_when_it_was_measured_and_is_measured_again_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def ceilings(
        device: str, threads: int | None, *, measure: bool, anew: bool = False, **say: Any
    ) -> Ceilings:
        asked.append(anew)
        known = find_target("raspberry-pi-5").ceilings(training=True)
        assert known
        return dataclasses.replace(known, source="measured", measured_at="2026-11-30T09:12:00+00:00")

    monkeypatch.setattr("gptwo.perf.target.cached_ceilings", ceilings)
    flags = ("plan", "gpt2", "--device", "cpu", "--batch-tokens", 1024)
    outcome = command(*flags)
    assert outcome.out.splitlines()[0].endswith(", measured 2026-11-30T09:12:00+00:00")
    assert (asked, outcome.err) == ([False], "")
    assert "measuring cpu, once: half a minute" in command(*flags, "--measure").err
    assert asked == [False, True]


def test_a_name_that_is_not_known_ends_it_before_anything_is_said() -> None:
    assert (
        command("plan", "gpt2", "--device", "t4,abacus")
        .error_line()
        .startswith("DeviceError: device 'abacus'")
    )


def test_another_s_machine_is_planned_without_torch() -> None:
    code = (
        "import sys; from gptwo.cli import main\n"
        "for more in ([], ['--generate', '9', '--engine', 'torch']):\n"
        "    assert main(['plan', 'gpt2', '--device', 'a100', *more]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


# --- the plan of a run --------------------------------------------------------------------------------------------


def test_training_says_first_what_it_will_take_and_then_what_it_took(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = command("train", "--data", data, "--out", run, *TINY, "--json")
    assert outcome.code == 0, outcome.err
    said = outcome.err.splitlines()
    assert said[0].startswith("plan: ")
    assert "of memory at most of " in said[0]
    assert said[-1].startswith("took: ")
    assert said[-1].endswith(" in 4 steps")
    printed = json.loads(outcome.out)
    first, *_, last = read_metrics(run / "metrics.jsonl")
    assert first["step"] == 0
    assert printed["plan"] == {name: first["plan"][name] for name in printed["took"]}
    assert last == {"step": 4, "took": printed["took"]}
    # The process itself, which pytest has filled, is most of so small a run's memory.
    assert 0.8 < printed["took"]["peak_memory_bytes"] / printed["plan"]["peak_memory_bytes"] < 1.25
    assert printed["plan"]["steps"] == 4
    again = command("train", "--out", run, "--resume", "--steps", 6)
    assert again.code == 0, again.err
    planned = [(r["step"], r["plan"]["steps"]) for r in read_metrics(run / "metrics.jsonl") if "plan" in r]
    assert planned == [(0, 4), (4, 2)]
    done = command("train", "--out", run, "--resume", "--steps", 6)
    assert done.code == 0, done.err
    assert "plan: " not in done.err, "nothing is left to be planned"
    assert "took: " not in done.err


def test_what_does_not_fit_is_refused_with_numbers_unless_it_is_forced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptwo.train.setup.free_bytes", lambda device: 100_000)
    flags = ("train", "--data", data, "--out", tmp_path / "run", *TINY)
    line = command(*flags).error_line()
    assert line.startswith("ConfigError: training ")
    for said in (
        " parameters on 3 sequences at a time takes ",
        "activations ",
        "cpu has 100 kB free",
        "--force",
    ):
        assert said in line
    assert not (tmp_path / "run").exists()
    assert command(*flags, "--force").code == 0


def test_more_at_a_time_than_a_step_has_is_the_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten million sequences would not fit; the step has four.
    monkeypatch.setattr("gptwo.train.setup.free_bytes", lambda device: 50_000_000)
    flags = ("train", "--data", data, "--out", tmp_path / "run", *TINY, "--micro-batch", 10_000_000)
    assert command(*flags).code == 0


def test_what_the_plan_says_does_not_fit_is_refused_by_its_own_sum(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There was room before the model was made, and there is less of it now.
    monkeypatch.setattr("gptwo.perf.target.free_memory_bytes", lambda: -(10**12))
    flags = ("train", "--data", data, "--out", tmp_path / "run", *TINY)
    line = command(*flags).error_line()
    assert line.startswith("ConfigError: training ")
    for part in ("process ", "weights ", "optimizer ", "--force"):
        assert part in line
    assert not (tmp_path / "run").exists()
    assert command(*flags, "--force").code == 0


def test_what_is_refused_before_there_are_weights_is_the_plan_s_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from gptwo.config import PRESETS, TrainConfig
    from gptwo.perf.plan import plan_training
    from gptwo.perf.target import Target
    from gptwo.train.setup import require_room

    free = 5_500_000_000
    here = Target(device="cpu", title="a CPU", memory_bytes=free, has_bf16=False)
    plan = plan_training(
        PRESETS["gpt2"], here, batch_tokens=8192, steps=1, optimizer="muon", micro_batch=2, process_bytes=0
    )
    config = TrainConfig(
        data="d", out="o", model="gpt2", optimizer="muon", batch_tokens=8192, micro_batch=2, device="cpu"
    )

    def refused(free: int) -> bool:
        monkeypatch.setattr("gptwo.train.setup.free_bytes", lambda device: free)
        try:
            require_room(config, PRESETS["gpt2"], torch.device("cpu"))
        except ConfigError:
            return True
        return False

    assert not refused(plan.peak_memory_bytes)
    assert refused(plan.peak_memory_bytes - 1)


def test_a_long_run_on_a_machine_that_was_not_measured_is_worth_measuring(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def nothing_cached(device: str, threads: int | None, *, measure: bool, **others: Any) -> None:
        asked.append(measure)

    monkeypatch.setattr("gptwo.perf.target.cached_ceilings", nothing_cached)
    assert command("train", "--data", data, "--out", tmp_path / "run", *TINY).code == 0
    monkeypatch.setattr("gptwo.cli.planned._WORTH_MEASURING", 1.0)
    assert command("train", "--data", data, "--out", tmp_path / "run2", *TINY).code == 0
    assert asked == [False, False, True]


def test_a_process_is_planned_as_it_will_be_when_it_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = find_target("raspberry-pi-5").ceilings(training=True)
    assert known
    measured = dataclasses.replace(known, source="measured", process_bytes={"train": 77 * 10**9})
    monkeypatch.setattr("gptwo.perf.target.cached_ceilings", lambda *_, **__: measured)
    assert command("train", "--data", data, "--out", tmp_path / "run", *TINY, "--force").code == 0
    first, *_ = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert first["plan"]["memory"]["process"] == 77 * 10**9
    # Where it was not measured, what it has already and what a first step adds.
    monkeypatch.setattr("gptwo.perf.target.cached_ceilings", lambda *_, **__: None)
    monkeypatch.setattr("gptwo.cli.planned.resident_bytes", lambda: (300 * 10**6, 0))
    assert command("train", "--data", data, "--out", tmp_path / "other", *TINY).code == 0
    first, *_ = read_metrics(tmp_path / "other" / "metrics.jsonl")
    assert first["plan"]["memory"]["process"] == 320 * 10**6


def test_a_run_that_took_no_step_says_nothing_of_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from gptwo.train.observer import TrainResult

    observer = PlanningObserver(Console(stderr=True))
    observer.ended(TrainResult(Path("r"), Path("r/c"), 0, None, None))
    assert capsys.readouterr().err == ""
