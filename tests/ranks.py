"""Several ranks as torchrun starts them, without its cost: one process imports torch once and forks them.

``python -m tests.ranks SIZE`` reads JSON lists of [settings, resume] from standard input, a run each, and trains them
one after the other on SIZE ranks, which share one process group. ``{rank}`` in a setting is the rank's number.
Environment variables say what is to go wrong there, and how exact it is to be.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gptwo.config import TrainConfig
from gptwo.train.guard import Guard

ROOT = Path(__file__).parents[1]
# A rank that waits for another for ever is a failure, not a stuck pipeline.
TIMEOUT_S = 300


def spiking_after(judged: int) -> Callable[[Guard, float], bool]:
    """For ``Guard._spikes``: after so many losses every further one is a spike."""
    count = itertools.count(1)
    return lambda guard, loss: next(count) > judged


def failing_once(where: str) -> AbstractContextManager[Any]:
    """Inside, the disk fails once where rows held out are ``reading``, in the second block ``computing`` their loss,
    or there in the ``sample``."""
    from gptwo.model.gpt2 import Block
    from gptwo.train import evaluate

    owner, name = (evaluate, "_read") if where == "reading" else (Block, "forward")
    real: Callable[..., Any] = getattr(owner, name)
    failures = iter([OSError(5, "gone")])

    def failing(*arguments: Any) -> Any:
        if where == "reading" or _is_turn(where, *arguments):
            for failure in failures:
                raise failure
        return real(*arguments)

    return patch.object(owner, name, failing)


def _is_turn(where: str, block: Any, x: Any, layer: int, cache: Any, *mask: Any) -> bool:
    return layer == 1 and not block.training and (cache is not None) == (where == "sample")


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, fresh models and Muon compute in float64; figures are rounded to float32 as always."""
    import torch

    from gptwo.train import optimizer, setup

    def muon(*arguments: Any, **settings: Any) -> Any:
        return real(*arguments, **{**settings, "dtype": torch.float64})

    real, build = optimizer.Muon, partial(setup.build_model, dtype=torch.float64)
    with patch.object(setup, "build_model", build), patch.object(optimizer, "Muon", muon):
        yield


def train_on_ranks(
    size: int,
    runs: Iterable[tuple[TrainConfig, bool]],
    *,
    code: int = 0,
    spikes_after: int | None = None,
    fails: Mapping[str, tuple[str, int | None]] | None = None,
    float64: bool = False,
) -> str:
    """Train each configuration (resuming where said) on ``size`` ranks; their stderr, ranks' lines mixed.

    ``fails`` says of a run, by the name of its folder, where it fails once, and on which rank or (None) on all.
    """
    wrong = {"FAILS": json.dumps(fails or {}), "FLOAT64": "1" if float64 else ""}
    wrong |= {} if spikes_after is None else {"SPIKES_AFTER": str(spikes_after)}
    jobs = [[config.to_mapping(), resume] for config, resume in runs]
    done = subprocess.run(
        [sys.executable, "-m", "tests.ranks", str(size)],
        input=json.dumps(jobs),
        env={
            **os.environ,
            **wrong,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, f"a rank ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return done.stderr


def _be_rank(rank: int, size: int, port: int, jobs: list[Any]) -> None:
    from gptwo.base.errors import GptwoError
    from gptwo.train import distributed
    from gptwo.train.loop import train

    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    }
    if "SPIKES_AFTER" in os.environ:
        Guard._spikes = spiking_after(int(os.environ["SPIKES_AFTER"]))  # type: ignore[method-assign]
    fails = json.loads(os.environ["FAILS"])
    try:
        with distributed.joined_world() as world, ExitStack() as whole:
            whole.enter_context(patch.object(distributed, "_ALIKE", timedelta(seconds=1)))
            if os.environ["FLOAT64"]:
                whole.enter_context(in_float64())
            for settings, resume in jobs:
                text = {k: v.format(rank=rank) if isinstance(v, str) else v for k, v in settings.items()}
                where, who = fails.get(Path(text["out"]).name, (None, None))
                with ExitStack() as stack:
                    if where and who in (None, rank):
                        stack.enter_context(failing_once(where))
                    train(TrainConfig.from_mapping(text), resume=resume, world=world)
    except GptwoError as error:
        print(f"{type(error).__name__} on rank {rank}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error


def main() -> int:
    """Fork the ranks and wait for them; the largest of their exit codes."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    import gptwo.train.loop
    import gptwo.train.parallel  # noqa: F401 - imported once, here, and not by every rank

    size, jobs = int(sys.argv[1]), json.load(sys.stdin)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank in range(size):
        child = os.fork()
        if not child:
            code = 1
            try:
                _be_rank(rank, size, store.port, jobs)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        ranks.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks)


if __name__ == "__main__":
    sys.exit(main())
