"""``python -m gptwo`` as processes of their own: the whole path, pipes that close, signals that stop a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command import TEXT, TINY, Outcome, command_line, documented_keys, done, key_paths, prepared, process

VIETNAMESE = (
    "Tôi học tiếng Việt mỗi ngày; chữ “ngã” và chữ “hỏi” khác nhau. Đường phố đông đúc, trời mưa. " * 60
)


def test_from_a_text_to_its_model_s_writing(tmp_path: Path) -> None:
    (tmp_path / "truyện.txt").write_text(VIETNAMESE, encoding="utf-8")
    data, run = tmp_path / "dữ liệu", tmp_path / "run"
    made = process("prepare", tmp_path / "truyện.txt", "--tokenizer", "char", "--out", data)
    assert made.code == 0, made.err
    trained = process("train", "--data", data, "--out", run, *TINY, "--sample-prompt", "Tôi")
    assert trained.code == 0, trained.err
    assert trained.out.splitlines()[0] == str(run / "checkpoints" / "step-00000004")
    assert {path.name for path in run.iterdir()} >= {
        "checkpoints",
        "config.toml",
        "loss.png",
        "metrics.jsonl",
        "samples.txt",
    }
    written = process("generate", run, "--prompt", "-", "--max-new-tokens", 8, stdin="Đường".encode())
    assert written.code == 0, written.err
    assert written.out.startswith("Đường")
    assert written.err == ""
    described = process("info", run, "--json")
    assert json.loads(described.out)["config"]["vocab_size"] == len(set(VIETNAMESE)) + 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_unicode_is_no_traceback(encoding: str) -> None:
    outcome = subprocess.run(
        command_line("info", "nano"),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        check=False,
    )
    assert b"Traceback" not in outcome.stderr
    assert b"total (head tied to E)" in outcome.stdout
    assert outcome.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes: run on Linux")
def test_a_folder_whose_name_is_no_text_is_described(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 5}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    outcome = process("info", folder)
    assert outcome.code == 0, outcome.err
    assert "\\udcff: L=1 H=1 D=4" in outcome.out


@pytest.mark.parametrize(
    "arguments", ["info gpt2", "info gpt2 --json", "info nano", "--help", "train --help"]
)
def test_a_reader_that_has_seen_enough_is_no_mistake(arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    completed = subprocess.run(
        command_line(*arguments.split()), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert completed.stderr == b""
    assert completed.returncode == 0


def test_a_reader_that_leaves_while_text_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done("train", "--data", prepared(tmp_path), "--out", run, *TINY)
    writing = subprocess.Popen(
        command_line("generate", run, "--prompt", "The", "--max-new-tokens", 5_000, "--slide"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writing.stdout is not None
    assert writing.stderr is not None
    assert writing.stdout.read(3) == b"The"
    writing.stdout.close()
    assert writing.wait() == 0
    assert writing.stderr.read() == b""
    writing.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full: run on Linux")
def test_standard_output_on_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        completed = subprocess.run(
            command_line("info", "gpt2"), stdout=full, stderr=subprocess.PIPE, check=False
        )
    outcome = Outcome(completed.returncode, "", completed.stderr.decode())
    assert outcome.error_line() == "StorageError: No space left on device"


def test_the_demo_on_a_text_of_the_user_s(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(VIETNAMESE, encoding="utf-8")
    demo = process(
        "demo", "--text", tmp_path / "mine.txt", "--minutes", 0.02, "--out", tmp_path / "run", "--json"
    )
    assert demo.code == 0, demo.err
    value = json.loads(demo.out)
    assert key_paths(value) == documented_keys("demo")
    assert value["run"] == str(tmp_path / "run")
    assert value["sample"].startswith(value["prompt"])
    assert value["prompt"] == "Tôi"
    assert 0 < value["evaluation"]["nats_per_byte"] < 6
    assert "bytes of text from" in demo.err
    assert "Traceback" not in demo.err


# --- stopping -----------------------------------------------------------------------------------------------------

STEPS = 400
LONGER = [*TINY, "--steps", STEPS, "--save-every", 10_000, "--eval-every", 10_000, "--keep-last", 100]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("signals"), text=TEXT)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done("train", "--data", data, "--out", run, *LONGER)
    return run


def started(data: Path, run: Path, *flags: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line("train", "--data", data, "--out", run, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals: run on Linux or macOS")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_ends_as_if_nothing_had_happened(
    number: signal.Signals, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training = started(data, run, *LONGER, "--json")
    assert training.stderr is not None
    while not training.stderr.readline().startswith("step 1/"):
        assert training.poll() is None
    training.send_signal(number)
    out, err = training.communicate()
    assert training.returncode == 130
    step = json.loads(out)["step"]
    assert 1 <= step < STEPS, "it stopped before its end"
    assert json.loads(out)["stopped_by"] == number.name
    assert err.splitlines()[-1] == (
        f"{number.name}: saved step {step}; go on with: gptwo train --out {run} --resume"
    )
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step:08d}"]

    resumed = done("train", "--out", run, "--resume", "--json")
    assert json.loads(resumed.out)["step"] == STEPS
    for name in ("model.safetensors", "training.safetensors"):
        ended, expected = (
            load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / name) for folder in (run, uninterrupted)
        )
        assert ended.keys() == expected.keys()
        for key, tensor in expected.items():
            assert ended[key].equal(tensor), key


def catches(process_id: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal, as Linux tells it."""
    for line in Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    raise AssertionError("no SigCgt line")


def wait_until(condition: Callable[[], bool], training: subprocess.Popen[str]) -> None:
    while not condition():
        assert training.poll() is None, training.communicate()[1]
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc: run on Linux")
def test_a_second_signal_ends_at_once_and_leaves_nothing_half_written(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # One step of minutes, so that the second signal comes long before its end.
    training = started(data, run, *TINY, "--batch-tokens", 16 * 200_000)
    # Python itself handles SIGINT and not SIGTERM, so a handler of SIGTERM is the run's.
    wait_until(lambda: catches(training.pid, signal.SIGTERM), training)
    training.send_signal(signal.SIGINT)
    wait_until(lambda: not catches(training.pid, signal.SIGTERM), training)
    training.send_signal(signal.SIGINT)
    training.communicate()
    assert training.returncode == -signal.SIGINT
    assert not (run / "checkpoints").exists() or not list((run / "checkpoints").iterdir())
    resumed = done("train", "--data", data, "--out", tmp_path / "after", *TINY)
    assert resumed.code == 0


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals: run on Linux or macOS")
def test_a_run_that_ended_at_once_can_be_resumed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = started(data, run, *LONGER, "--save-every", 20)
    wait_until((run / "checkpoints" / "step-00000020").exists, training)
    training.kill()
    training.communicate()
    resumed = done("train", "--out", run, "--resume", "--steps", 60, "--json")
    assert json.loads(resumed.out)["step"] >= 60
    shutil.rmtree(run)
