"""Runs and saves that are killed: at every system call of a save, and at random instants of a training run.

The process that is killed is a child of a program of its own, this file, which has torch loaded already. It is traced
with ptrace, so that the calls are those which the kernel sees, of every library, and not those of Python's ``os``.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from test_checkpoint_atomicity import left_over, save, seed_of_newest

from gptwo.checkpoint.runs import checkpoint_path, newest_whole
from gptwo.train.interrupt import StopRequest

linux = pytest.mark.skipif(sys.platform != "linux", reason="traces with Linux's ptrace: run on Linux")

# linux/ptrace.h
PTRACE_TRACEME, PTRACE_SYSCALL, PTRACE_SETOPTIONS = 0, 24, 0x4200
PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL = 0x1, 0x100000
SYSCALL_STOP = signal.SIGTRAP | 0x80


def program(*arguments: object) -> Any:
    """What this file prints as JSON when it is run with these arguments."""
    completed = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


@linux
@pytest.mark.parametrize("step", [1, 2], ids=["replacing", "adding"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "second SIGINT"])
def test_a_save_ended_at_any_system_call(folder: Path, step: int, number: signal.Signals) -> None:
    """Before every call that a save makes to the kernel: the newest checkpoint is the old or the new one, whole."""
    every = 1 if number == signal.SIGKILL else 5
    figures = program("save", folder, step, int(number), every)
    assert figures["calls"] > 60
    assert set(figures["seeds"]) == {1, 2}, "some ended before the rename and some after"
    assert figures["ended"] >= figures["calls"] // every - 2, "a heap that grows makes a call more or less"


@linux
def test_a_run_killed_at_random_instants_ends_as_one_never_killed(folder: Path) -> None:
    figures = program("train", folder, 12)
    assert figures["kills"] == 12
    assert figures["finished"] >= 1


@linux
@pytest.mark.long
def test_a_run_killed_a_thousand_times(folder: Path) -> None:
    figures = program("train", folder, 1000)
    assert figures["kills"] == 1000
    assert figures["in_a_save"] > 50
    assert figures["finished"] > 5


# --- the program --------------------------------------------------------------------------------------------------


def traced_child(work: Callable[[], None]) -> int:
    """Forks a child that stands still before ``work``, traced by this process; its process id."""
    ptrace = _ptrace()
    child = os.fork()
    if child == 0:
        ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            work()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    ptrace(PTRACE_SETOPTIONS, child, None, ctypes.c_void_p(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
    return child


def _ptrace() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).ptrace
    function.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = ctypes.c_long

    def call(*arguments: Any) -> int:
        result = int(function(*arguments))
        if result == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    return call


def end_before_call(child: int, number: signal.Signals | None, at_call: int = 0) -> tuple[int, int]:
    """Lets the child run and sends it the signal as it enters its ``at_call``-th system call.

    Returns its exit code, negative for a signal, and the number of calls that it entered.
    """
    ptrace = _ptrace()
    entered, inside, pass_on = 0, False, 0
    while True:
        with suppress(ProcessLookupError):  # SIGKILL ends even one that stands still
            ptrace(PTRACE_SYSCALL, child, None, ctypes.c_void_p(pass_on))
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status), entered
        pass_on = 0
        if os.WSTOPSIG(status) != SYSCALL_STOP:
            pass_on = os.WSTOPSIG(status)
            continue
        inside = not inside
        entered += inside
        if inside and entered == at_call and number is not None:
            os.kill(child, number)


def save_ended_everywhere(folder: Path, step: int, number: signal.Signals, every: int) -> dict[str, Any]:
    """A save over a checkpoint of step 1, ended at every ``every``-th of its calls to the kernel."""

    def work(run: Path) -> Callable[[], None]:
        def stopping_save() -> None:
            with StopRequest():
                if number == signal.SIGINT:
                    os.kill(os.getpid(), signal.SIGINT)  # the first one asks to stop; the next ends at once
                save(run, step, seed=2)
                os._exit(0)  # with the handlers still as they were during the save

        return stopping_save

    run = folder / "counted"
    save(run, 1, seed=1)
    code, calls = end_before_call(traced_child(work(run)), None)
    assert code == 0
    seeds, ended = [], 0
    for at_call in range(every, calls + 1, every):
        run = folder / str(at_call)
        save(run, 1, seed=1)
        code, _ = end_before_call(traced_child(work(run)), number, at_call)
        ended += code == -number
        seeds.append(seed_of_newest(run))
        assert seeds[-1] in (1, 2), at_call
        save(run, step, seed=3)
        assert seed_of_newest(run) == 3, at_call
        assert left_over(run) == [], at_call
        shutil.rmtree(run)
    return {"calls": calls, "ended": ended, "seeds": sorted(set(seeds))}


STEPS = 40
SETTINGS = f"""
    --n-layer 1 --n-head 1 --n-embd 8 --context 8 --dropout 0.1 --batch-tokens 32 --micro-batch 3 --steps {STEPS}
    --warmup-steps 2 --eval-every 10 --save-every 1 --keep-last 2 --log-every 3 --sample-tokens 0 --device cpu
"""


def train(data: Path, run: Path) -> int:
    """A child that begins the run, or goes on with it where there is one."""
    from gptwo.cli import main

    child = os.fork()
    if child == 0:
        with (run.parent / f"{run.name}.err").open("w") as err:
            os.dup2(err.fileno(), 1)
            os.dup2(err.fileno(), 2)
            again = (
                ["--resume"] if (run / "config.toml").exists() else ["--data", str(data), *SETTINGS.split()]
            )
            os._exit(main(["train", "--out", str(run), *again]))
    return child


def finished(data: Path, run: Path) -> dict[str, bytes]:
    """What is left of a run when it has been let go on to its end."""
    code = os.waitstatus_to_exitcode(os.waitpid(train(data, run), 0)[1])
    assert code == 0, (run.parent / f"{run.name}.err").read_text()
    last = checkpoint_path(run, STEPS)
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = {"tokens_per_s", "matmul_share", "data_wait", "memory_bytes", "peak_memory_bytes"}
    # A process's plan and what it took are of that process alone.
    timeless = [
        {k: v for k, v in r.items() if k not in clocks} for r in log if "plan" not in r and "took" not in r
    ]
    kept = {name: (last / name).read_bytes() for name in ("model.safetensors", "training.safetensors")}
    return {**kept, "log": json.dumps(timeless).encode()}


def training_killed(folder: Path, kills: int) -> dict[str, Any]:
    """Runs that are killed at random instants and begun again, until they end; what they leave is compared."""
    # A child that had to import these would most often be killed at that.
    import gptwo.train.loop
    import gptwo.train.terminal  # noqa: F401
    from gptwo.data import prepare

    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    prepare([str(folder / "text.txt")], tokenizer="byte", out=folder / "data")
    began = time.monotonic()
    expected = finished(folder / "data", folder / "whole")
    whole_s = time.monotonic() - began
    rng = random.Random(0)
    killed, in_a_save, ends, run = 0, 0, 0, folder / "run"
    newest = 0
    while killed < kills:
        child = train(folder / "data", run)
        time.sleep(rng.uniform(0.0, whole_s / 2))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), (run.parent / f"{run.name}.err").read_text()
        killed += code != 0
        whole = newest_whole(run)
        step = 0 if whole is None else int(whole.name.rpartition("-")[2])
        assert step >= newest, "the run lost ground"
        newest = step
        if code == 0 or killed == kills:
            assert finished(folder / "data", run) == expected
            ends += 1
            newest = 0
            shutil.rmtree(run)
        elif (run / "checkpoints").is_dir():
            in_a_save += bool(left_over(run))
    return {"kills": killed, "in_a_save": in_a_save, "finished": ends}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # a fork copies no other threads
    if sys.argv[1] == "save":
        step, number, every = map(int, sys.argv[3:6])
        print(json.dumps(save_ended_everywhere(Path(sys.argv[2]), step, signal.Signals(number), every)))
    else:
        print(json.dumps(training_killed(Path(sys.argv[2]), int(sys.argv[3]))))
