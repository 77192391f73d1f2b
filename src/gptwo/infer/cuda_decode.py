"""Decoding on a CUDA device: one more token of n slots as a CUDA graph, captured once and replayed for every token.

Run by Python, a step of a small model waits for hundreds of kernel launches; a graph launches all of them at once. It
repeats the same kernels on the same memory, so here no shape and no address follows from what the slots hold: tokens,
slots and lengths are read from static tensors, and attention reads ``reach`` positions of every slot, under a mask. The
reach is the least power of two that holds all of them, at most the capacity; each has a graph, for each n.

Graphs are captured by hand. ``torch.compile(mode="reduce-overhead")`` would also fuse what lies between the products,
but it needs Triton, compiles for seconds for each of these shapes, and past its limit of shapes runs without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gptwo.base.errors import DeviceError
from gptwo.infer.engine import Tokens
from gptwo.infer.kv_cache import KVCache
from gptwo.model.gpt2 import GPT2

if TYPE_CHECKING:
    from jaxtyping import Float

SWITCH = "GPTWO_CUDA_GRAPHS"

Step = Callable[[], Tensor]
# Makes of a step one that repeats its arithmetic on the same memory; the tensor that it returns is always the same.
Recorder = Callable[[Step], Step]


def cuda_graphs(model: GPT2, cache: KVCache) -> DecodeGraphs:
    """Steps that are captured on the cache's device, which is a CUDA one."""
    return DecodeGraphs(model, cache, graph_recorder(cache.kv_L2BHSK.device))


def graph_recorder(device: torch.device) -> Recorder:
    """Captures steps as CUDA graphs, which share their scratch memory: none runs while another does."""
    stream = _capture_stream(device)
    # Of one session: torch gives up a pool with the last graph in it, and its handle is then of no more use.
    pool = torch.cuda.graph_pool_handle()

    def record(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads do on their streams meanwhile is no fault.
        capturing = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(device), capturing:
            output = step()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    return record


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all sessions: torch keeps a workspace of the BLAS, of some megabytes, for every stream that it has seen.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it unannotated


class StaticRows:
    """n slots of a pool as the rows of one pass over one token each: ``model.gpt2.Cache``. Nothing in it ever moves.

    Each pass reads from ``inputs_3n`` the tokens, the slots and their lengths, and writes the new keys and values at
    these places. ``in_order``: the slots are 0 … n-1, which are read where they lie; others are gathered into a copy.
    """

    def __init__(self, pool: KVCache, n: int, reach: int, *, in_order: bool) -> None:
        self._pool = pool
        self._reach = reach
        self.inputs_3n = torch.zeros(3, n, dtype=torch.int64, device=pool.kv_L2BHSK.device)
        self.tokens, self._slots, self.lengths = self.inputs_3n.unbind(0)
        # For the model: the new token comes after so many at most.
        self.length = reach - 1
        self._rows: slice | Tensor = slice(n) if in_order else self._slots

    def append(
        self, layer: int, k_BHTK: Float[Tensor, "n H 1 K"], v_BHTK: Float[Tensor, "n H 1 K"]
    ) -> tuple[Float[Tensor, "n H S K"], Float[Tensor, "n H S K"]]:
        """Store the new keys and values of one layer; all, and behind those of each row what lies there, S = reach."""
        held = self._pool.kv_L2BHSK[layer]
        for held_BHSK, new_BHTK in zip(held, (k_BHTK, v_BHTK), strict=True):
            held_BHSK[self._slots, :, self.lengths] = new_BHTK[:, :, 0]
        return held[0, self._rows, :, : self._reach], held[1, self._rows, :, : self._reach]

    def advance(self, count: int) -> None:
        """Nothing: lengths are counted on the host, for every replay."""


class DecodeGraphs:
    """The decoding of one session: a step for each number of rows and each reach, recorded when it is used again.

    The first ``warm_ups`` runs of a step are plain ones: in them torch loads kernels and takes workspaces, which a
    capture must not, and a shape that comes no more often is not worth one. Below ``shortest`` positions a smaller
    reach saves nothing.
    """

    def __init__(
        self, model: GPT2, cache: KVCache, record: Recorder, *, warm_ups: int = 2, shortest: int = 64
    ) -> None:
        self._model = model
        self._cache = cache
        self._record = record
        self._warm_ups = warm_ups
        self._shortest = shortest
        self._steps: dict[tuple[int, int, bool], _RecordedStep] = {}

    def decode(self, slots: Sequence[int], tokens: Tokens) -> Float[Tensor, "n V"]:
        """Add one token to each of these slots; the logits that follow it, until the next call writes over them.

        Raises ``ContextLengthError`` past the capacity and ``DeviceError`` where a step cannot be captured.
        """
        self._cache.require_room(slots, [1] * len(slots))
        slots_n = np.array(slots, dtype=np.int64)
        lengths_n = self._cache.lengths[slots_n]
        n, reach = len(slots_n), self._reach(int(lengths_n.max()) + 1)
        shape = (n, reach, slots_n.tolist() == list(range(n)))
        if shape not in self._steps:
            rows = StaticRows(self._cache, n, reach, in_order=shape[-1])
            self._steps[shape] = _RecordedStep(self._model, rows, self._record, self._warm_ups)
        logits_nV = self._steps[shape].run(np.stack([tokens, slots_n, lengths_n]))
        self._cache.lengths[slots_n] += 1
        return logits_nV

    def _reach(self, tokens: int) -> int:
        return min(self._cache.capacity, max(self._shortest, 1 << (tokens - 1).bit_length()))


class _RecordedStep:
    def __init__(self, model: GPT2, rows: StaticRows, record: Recorder, warm_ups: int) -> None:
        self._model = model
        self._rows = rows
        self._record = record
        self._runs_before_recording = warm_ups
        self._run: Step = self._plain

    def run(self, inputs_3n: Tokens) -> Float[Tensor, "n V"]:
        self._rows.inputs_3n.copy_(torch.tensor(inputs_3n))
        if self._runs_before_recording == 0:
            try:
                self._run = self._record(self._plain)
            except RuntimeError as error:
                # Ending a capture that has failed raises once more, and says less than the first error.
                reason = str(error.__context__ or error).partition("\n")[0]
                raise DeviceError(
                    f"decoding could not be captured as a CUDA graph: {reason}; "
                    f"{SWITCH}=0 in the environment decodes without graphs"
                ) from error
        self._runs_before_recording -= 1
        return self._run()

    def _plain(self) -> Float[Tensor, "n V"]:
        logits_n1V: Tensor = self._model(self._rows.tokens[:, None], cache=self._rows, last_only=True)
        return logits_n1V[:, 0]
