"""A disk that refuses, met by the command: one line, exit code 2, what was saved is whole, and the run can go on."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from command import Outcome, command, done, prepared, process
from gptwo.checkpoint.runs import checkpoint_path, newest_whole
from gptwo.checkpoint.store import verify

_FLAGS = """
    --n-layer 1 --n-head 1 --n-embd 8 --context 8 --batch-tokens 16 --micro-batch 2 --warmup-steps 0 --log-every 1
    --eval-every 100 --save-every 1 --sample-tokens 0 --eval-tokens 8 --keep-last 2 --device cpu
"""
FLAGS = _FLAGS.split()
ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES]
# Whatever changes the disk. ``io.open`` is the one that ``Path.open`` calls; it counts when it opens to write.
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "symlink")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("faults"))


@contextmanager
def one_call_fails(at_call: int, number: int) -> Iterator[list[str]]:
    """The ``at_call``-th call that changes the disk fails; yields the calls so far, in a list."""
    calls: list[str] = []

    def failing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == at_call:
                raise OSError(number, os.strerror(number))
            return function(*arguments, **options)

        return call

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        opens = failing("io.open", real_open) if set(mode) & set("wax+") else real_open
        return opens(file, mode, *arguments, **options)

    real = {name: getattr(os, name) for name in CALLS}
    real_open = io.open
    for name, function in real.items():
        setattr(os, name, failing(name, function))
    io.open = opening  # type: ignore[assignment]
    try:
        yield calls
    finally:
        io.open = real_open
        for name, function in real.items():
            setattr(os, name, function)


def resumed(run: Path, steps: int) -> Outcome:
    return command("train", "--out", run, "--resume", "--steps", steps)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_disk_that_refuses_a_call_of_a_run(data: Path, tmp_path: Path, every: int) -> None:
    """One step more, its save and its evaluation: every third of their calls fails once, each error in its turn."""
    run = tmp_path / "run"
    done("train", "--data", data, "--out", run, "--steps", 1, *FLAGS)
    with one_call_fails(0, 0) as calls:
        assert resumed(run, 2).code == 0
    assert {"open", "write", "fsync", "rename", "replace", "io.open"} <= set(calls)
    refused, step = 0, 2
    for turn, at_call in enumerate(range(1, len(calls) + 1, every)):
        number = ERRORS[turn % len(ERRORS)]
        with one_call_fails(at_call, number):
            outcome = resumed(run, step + 1)
        newest = newest_whole(run)
        assert newest in (checkpoint_path(run, step), checkpoint_path(run, step + 1)), (at_call, outcome)
        if outcome.code:
            refused += 1
            *progress, line = outcome.err.splitlines()
            assert outcome.code == 2, (at_call, outcome)
            assert line.startswith("StorageError: "), (at_call, line)
            assert os.strerror(number) in line, (at_call, line)
            assert not any("Error" in each or "Traceback" in each for each in progress), (
                at_call,
                outcome.err,
            )
        else:
            assert newest == checkpoint_path(run, step + 1)
        verify(checkpoint_path(run, step))
        assert resumed(run, step + 1).code == 0, at_call
        step += 1
    assert refused > 10


@pytest.mark.long
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler: install g++")
def test_a_compiled_run_resumes_bitwise(data: Path, tmp_path: Path) -> None:
    """Stopped after each step; every part in a process of its own, as compiled code lives in one."""
    flags = [*FLAGS, "--batch-tokens", 32, "--micro-batch", 3, "--dropout", 0.1, "--keep-last", 4]
    # Its own: a process that is killed while it compiles can leave half a library in the one that all share.
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    once = process(
        "train", "--data", data, "--out", tmp_path / "whole", "--compile", "--steps", 3, *flags, **cache
    )
    assert once.code == 0, once.err
    for stop in (1, 2):
        run = tmp_path / f"stopped-{stop}"
        shutil.copytree(tmp_path / "whole", run, symlinks=True)
        for step in range(stop + 1, 4):
            shutil.rmtree(checkpoint_path(run, step))
        again = process("train", "--out", run, "--resume", **cache)
        assert again.code == 0, again.err
        assert f"resumed after step {stop}" in again.err
        for name in ("model.safetensors", "training.safetensors"):
            ended, expected = (
                load_file(checkpoint_path(each, 3) / name) for each in (run, tmp_path / "whole")
            )
            assert ended.keys() == expected.keys()
            for key, tensor in expected.items():
                assert ended[key].equal(tensor), (stop, key)
