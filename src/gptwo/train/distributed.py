"""The ranks of a run: the processes that torchrun starts, which compute every step together.

Every rank has the whole settings and the data, and computes its rows of each step. Rank 0 alone has to do with the run
folder: it reads the checkpoint and tells the others, it writes, and it speaks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined] # torch exports them by another way
from torch.distributed.rendezvous import rendezvous

from gptwo.base.device import resolve_device
from gptwo.base.errors import ConfigError, GptwoError, RankError

# Rank 0 may be saving, and the others waiting for it, for as long as a slow disk takes.
_PATIENCE = timedelta(minutes=60)
# What fails on all ranks fails on them within the differences of their speeds.
_ALIKE = timedelta(seconds=60)
_BEGUN = "gptwo/begun"


def ranks_now() -> int:
    """How many processes train together, from where they have met."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@dataclass(frozen=True)
class World:
    """Which of how many processes this is: ``rank`` of ``size``, ``local_rank`` of ``local_size`` on its machine.

    Alone by default: nothing is exchanged then, and what the ranks would agree on is what was given. Every other
    method that exchanges must be called by all ranks, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    # torchrun's own, which outlives the processes that it starts again.
    launch: Store | None = dataclasses.field(default=None, repr=False, compare=False)
    # Of these processes alone.
    store: Store | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def writes(self) -> bool:
        """Whether this rank is the one that has to do with the run folder and the terminal."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this rank: on CUDA, each rank its own. Raises ``DeviceError`` and ``ConfigError``."""
        if self.size == 1:
            return resolve_device(name)
        if name.startswith("cuda:") or name == "mps":
            raise ConfigError(
                f"device={name!r} is one device, and there are {self.size} ranks; expected auto, cpu or cuda, "
                "of which each rank takes the one of its own number"
            )
        if name == "cpu" or not torch.cuda.is_available():
            return resolve_device("cpu" if name == "auto" else name)
        device = resolve_device(f"cuda:{self.local_rank}")
        torch.cuda.set_device(device)
        return device

    def describe(self, device: torch.device, parallel: str) -> str:
        """Where the run computes, for people."""
        return device.type if self.size == 1 else f"{self.size} ranks of {device.type} ({parallel})"

    def cuts(self, sequences: int, micro_batch: int) -> Iterator[tuple[int, int]]:
        """(first, last) of this rank's micro-batches among the rows of a step: as many on every rank.

        The ranks' shares lie side by side and differ by at most one row, so a rank may have nothing left for the last
        micro-batch: then last <= first.
        """
        first, last = (sequences * rank // self.size for rank in (self.rank, self.rank + 1))
        for start in range(first, first + self.largest_share(sequences), micro_batch):
            yield start, min(start + micro_batch, last)

    def largest_share(self, sequences: int) -> int:
        """Rows of a step that a rank has at most."""
        return -(-sequences // self.size)

    def turns(self, count: int) -> Iterator[tuple[int, bool]]:
        """(number, whether it counts) of this rank's among ``count`` pieces of work: as many on every rank.

        A sharded model computes on all ranks or on none, so a rank without one left repeats the last, for nothing.
        """
        for first in range(0, count, self.size):
            yield min(first + self.rank, count - 1), first + self.rank < count

    def share(self, value: Any, *, source: int = 0) -> Any:
        """The ``value`` of rank ``source``, anything JSON can say, on every rank."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == source else b""
        length = torch.tensor(len(text))
        dist.broadcast(length, src=source)
        content = torch.frombuffer(bytearray(text or bytes(int(length))), dtype=torch.uint8)
        dist.broadcast(content, src=source)
        return json.loads(content.numpy().tobytes())

    def share_path(self, path: Path | None) -> Path | None:
        """Rank 0's ``path`` on every rank."""
        shared = self.share(None if path is None else str(path))
        return None if shared is None else Path(shared)

    def total(self, value: float) -> float:
        """The sum of every rank's ``value``, in float64."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(summed)
        return float(summed)

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.size == 1:
            return value
        agreed = torch.tensor(value)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return int(agreed)

    def first_word(self, word: str | None) -> str | None:
        """The ``word`` of the first rank that has one, on every rank; None when none has."""
        speaker = self.size - self.largest(0 if word is None else self.size - self.rank)
        return None if speaker == self.size else self.share(word, source=speaker)

    def all_failed(self) -> bool:
        """Whether every rank calls this, within a minute of this one; no collective, which some may be waiting in.

        A rank that gets False has failed alone, and must end, or the others would wait for it for ever.
        """
        if self.store is None:
            return True
        call = (
            self.store.add("failures", 1) - 1
        )  # the calls before were answered True, so each was of all ranks
        answer = f"failure {call // self.size} is of all"
        if call % self.size == self.size - 1:
            self.store.set(answer, "")
        try:
            self.store.wait([answer], _ALIKE)
        except RuntimeError:  # too late, or the store has gone
            return False
        return True

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every rank's ``value``, on its device: as the gradients are averaged."""
        if self.size == 1:
            return value
        averaged = value.clone()
        dist.all_reduce(averaged)
        return averaged / self.size

    def note_begun(self) -> None:
        """Tell those whom torchrun may start in our place that the run in the folder is this launch's own."""
        if self.launch is not None:
            self.launch.set(_BEGUN, "")

    def has_begun(self) -> bool:
        """Whether processes that torchrun started before us had begun the run: then it is to be gone on with."""
        return self.launch is not None and self.launch.check([_BEGUN])


ALONE = World()


@contextmanager
def joined_world() -> Iterator[World]:
    """The world that torchrun's environment variables describe, joined; the world of one when there are none.

    A ``GptwoError`` of one or more ranks is raised by the first alone; the others end with exit code 2 and without a
    word, when they notice. A rank that has gone is a ``RankError`` of those left.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield World()
        return
    launch, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    world = World(rank, size, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), launch)
    if size == 1:
        yield world
        return
    store = PrefixStore(_name_of_this_start(launch, rank, size), launch)
    world = dataclasses.replace(world, store=store)
    # Words go over gloo even where tensors lie on CUDA: reading them must not wait for the device.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        yield world
    except (GptwoError, RuntimeError) as error:
        if not isinstance(error, GptwoError) and not is_loss_of_a_rank(error):
            raise
        if not _speaks_first(store):
            raise SystemExit(2) from error
        if isinstance(error, GptwoError):
            raise
        raise RankError(
            f"rank {rank} of {size} has lost another rank, which was killed or cannot be reached; "
            "what was saved is whole: start it again with --resume, or let torchrun do so with --max-restarts"
        ) from error
    dist.destroy_process_group()


def _name_of_this_start(launch: Store, rank: int, size: int) -> str:
    """A name that the ranks of one start agree on, and that no rank of an earlier one has.

    The store outlives restarts with everything that was written to it, and the machines of a run may count their
    restarts differently. So rank 0 calls a new name, and each rank answers until rank 0 shows that it heard just this
    answer, which nobody can have written before.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        launch.set("gptwo/call", own)
        for other in range(1, size):
            answer = launch.get(f"gptwo/{own}/{other}").decode()
            launch.set(f"gptwo/{own}/{other}/{answer}", "")
        return f"gptwo/{own}"
    while True:
        name = f"gptwo/{launch.get('gptwo/call').decode()}"
        launch.set(f"{name}/{rank}", own)
        if launch.check([f"{name}/{rank}/{own}"]):
            return name
        time.sleep(0.05)


def is_loss_of_a_rank(error: Exception) -> bool:
    """Whether it says that another rank has gone or cannot be reached."""
    # gloo raises a plain RuntimeError, which names its own source file.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _speaks_first(store: Store) -> bool:
    """Whether no other rank has said yet why the run ends."""
    try:
        return store.add("errors", 1) == 1
    except RuntimeError:  # torchrun itself has gone, and the store with it
        return True
