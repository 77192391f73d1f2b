"""Whatever stops a save, at whichever of its calls to the system: the newest checkpoint is the old or the new one.

A save is cut off at its k-th call for every k, by an error (in this process) and by the process ending there (in a
child of a child, which starts with this file as its program), and in the long test by SIGKILL at random instants.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gptwo.base.errors import StorageError
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.store import (
    TrainingState,
    checkpoint_path,
    load_training_state,
    newest_whole,
    prune,
    save_checkpoint,
    verify,
)
from gptwo.checkpoint.weights import load_weights
from gptwo.config import GPT2Config

CONFIG = GPT2Config(n_layer=1, n_head=1, n_embd=4, context=3, vocab_size=5)
# Every call by which a save changes the disk, and the one by which it opens what it changes.
CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir")


class OneFile:
    eot_id = 4

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {row.ours: torch.randn(row.shape, generator=generator) for row in parameter_table(CONFIG)}


def save(run: Path, step: int, seed: int) -> Path:
    training = TrainingState(step, {"moment": torch.full((5,), float(seed))}, {"seed": seed})
    return save_checkpoint(
        checkpoint_path(run, step),
        config=CONFIG,
        weights=weights(seed),
        tokenizer=OneFile(),
        training=training,
    )


def seed_of_newest(run: Path) -> int:
    """The seed that the newest whole checkpoint was saved with; asserts that every tensor of it is that seed's."""
    folder = newest_whole(run)
    assert folder is not None
    verify(folder)
    state = load_training_state(folder)
    seed = state.info["seed"]
    assert isinstance(seed, int)
    assert torch.equal(state.tensors["moment"], torch.full((5,), float(seed)))
    loaded = load_weights(folder, device="cpu")
    for name, tensor in weights(seed).items():
        assert torch.equal(loaded[name], tensor), name
    return seed


def left_over(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("."))


@contextmanager
def calls_intercepted(at_call: Callable[[int], None]) -> Iterator[list[int]]:
    """``at_call(k)`` runs before the k-th call to the system from now on; yields the count so far, in a list."""
    real = {name: getattr(os, name) for name in CALLS}
    count = [0]

    def intercepted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            at_call(count[0])
            return real[name](*arguments, **options)

        return call

    # By hand: while the calls fail, nothing else may need them.
    for name in CALLS:
        setattr(os, name, intercepted(name))
    try:
        yield count
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def calls_of_a_save(run: Path, step: int) -> int:
    """How many calls the save of ``step`` makes over a run that already holds step 1."""
    save(run, 1, seed=1)
    with calls_intercepted(lambda _: None) as count:
        save(run, step, seed=2)
    assert count[0] > 40  # nine files and folders: opened, written, flushed, closed; then renamed
    return count[0]


both_saves = pytest.mark.parametrize("step", [1, 2], ids=["replacing", "adding"])


@both_saves
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["once", "from then on"])
def test_an_error_at_any_call(folder: Path, step: int, number: int) -> None:
    """One call fails, or all from the k-th on, those of cleaning up and of putting back included."""
    for k in range(1, calls_of_a_save(folder / "counted", step) + 1):
        run = folder / str(k)
        save(run, 1, seed=1)
        refusal = ""

        def fail(call: int, k: int = k) -> None:
            if call == k or (call > k and number == errno.EIO):
                raise OSError(number, os.strerror(number))

        with calls_intercepted(fail):
            try:
                save(run, step, seed=2)
            except StorageError as error:
                refusal = str(error)
        seed = seed_of_newest(run)
        if refusal:
            assert os.strerror(number) in refusal, k
            assert seed in (1, 2), k
        else:
            assert seed == 2, k
        if number == errno.ENOSPC and refusal:
            assert not [name for name in left_over(run) if name.startswith(".tmp")], k
            assert checkpoint_path(run, 1).is_dir(), k  # put back in its place
        assert save(run, step, seed=3) == checkpoint_path(run, step), k
        assert seed_of_newest(run) == 3, k
        assert left_over(run) == [], k


@both_saves
def test_the_process_ends_at_any_call(folder: Path, step: int) -> None:
    for directory in ("counted", "ended"):
        (folder / directory).mkdir()
    calls = calls_of_a_save(folder / "counted", step)
    for k in range(1, calls + 1):
        save(folder / "ended" / str(k), 1, seed=1)
    program = subprocess.run(
        [sys.executable, __file__, "end", str(folder / "ended"), str(step), str(calls)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(program.stdout) == {str(k): 77 for k in range(1, calls + 1)}
    seen = set()
    for k in range(1, calls + 1):
        run = folder / "ended" / str(k)
        seed = seed_of_newest(run)
        assert seed in (1, 2), k
        seen.add(seed)
        save(run, step, seed=3)
        assert seed_of_newest(run) == 3, k
        assert left_over(run) == [], k
    assert seen == {1, 2}  # some ended before the rename and some after


@pytest.mark.long
def test_killed_at_random_instants_many_times(tmp_path: Path) -> None:
    """A saver that adds, replaces and prunes without pause is killed 1,000 times; the run never loses ground."""
    program = subprocess.run(
        [sys.executable, __file__, "kill", str(tmp_path), "1000"], check=True, capture_output=True, text=True
    )
    figures = json.loads(program.stdout)
    assert figures["kills"] == 1000
    assert figures["cut_off"] > 300  # kills that hit a save in the middle and left a temporary folder behind
    assert figures["saved"] > 1000


def end_at_every_call(parent: Path, step: int, calls: int) -> None:
    """Forks a child per k that ends without a word at its k-th call; prints their exit codes."""
    torch.set_num_threads(1)  # a fork copies no other threads
    codes = {}
    for k in range(1, calls + 1):
        child = os.fork()
        if child == 0:
            with calls_intercepted(lambda call, k=k: os._exit(77) if call == k else None):
                save(parent / str(k), step, seed=2)
            os._exit(0)
        codes[str(k)] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))


def kill_at_random_instants(run: Path, kills: int) -> None:
    """Forks a saver and kills it, again and again; prints how often that cut a save off."""
    torch.set_num_threads(1)
    rng = random.Random(0)
    save(run, 1, seed=1)
    newest, cut_off = 1, 0
    for _ in range(kills):
        said, saying = os.pipe()
        saver = os.fork()
        if saver == 0:
            save_without_pause(run, saying)
        os.close(saying)
        time.sleep(rng.uniform(0.0, 0.2))
        os.kill(saver, signal.SIGKILL)
        os.waitpid(saver, 0)
        with os.fdopen(said) as lines:
            saved = [int(line) for line in lines]
        # What it said was saved is there; one more may have been put in place before it could say so.
        seed = seed_of_newest(run)
        last = max([newest, *saved])
        assert seed in (last, last + 1), (seed, last)
        newest = seed
        cut_off += bool(left_over(run))
    print(json.dumps({"kills": kills, "cut_off": cut_off, "saved": newest}))


def save_without_pause(run: Path, saying: int) -> None:
    """Saves seeds upward, now adding a step and now replacing the newest, and says each when it is saved."""
    seed = seed_of_newest(run)
    while True:
        seed += 1
        newest = newest_whole(run)
        assert newest is not None
        save(run, load_training_state(newest).step + seed % 2, seed)
        os.write(saying, f"{seed}\n".encode())
        prune(run, keep_last=2)


if __name__ == "__main__":
    if sys.argv[1] == "end":
        end_at_every_call(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        kill_at_random_instants(Path(sys.argv[2]), int(sys.argv[3]))
