"""What explains the model that is served: its reference, loaded on first use, and the explanations that are kept."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptwo.base.memory import free_memory_bytes
from gptwo.costs import weight_bytes
from gptwo.infer.engines import short_dtype
from gptwo.infer.native_engine import NativeEngine
from gptwo.serve.errors import ApiError
from gptwo.serve.explaining.badge import TOLERANCES, badge
from gptwo.serve.explaining.checkpoints import Checkpoints
from gptwo.serve.explaining.kept import KeptExplanations, Made
from gptwo.serve.explaining.lane import Lane
from gptwo.serve.explaining.words import Words

if TYPE_CHECKING:
    from gptwo.explanation.reference import Reference
    from gptwo.infer.api import LanguageModel
    from gptwo.infer.engine import Tokens
    from gptwo.perf.ceilings import Ceilings
    from gptwo.serve.settings import ServeSettings

TOP = 5
"""Most probable tokens of every position, in the first answer."""
Places = Sequence[tuple[Any, ...]]


class Explaining:
    """Everything but ``lane`` and ``checkpoints`` belongs to the thread whose turn it is."""

    def __init__(self, model: LanguageModel, settings: ServeSettings, *, say: Callable[[str], None]) -> None:
        self.model = model
        self.lane = Lane(settings.explain_queue)
        self.checkpoints = Checkpoints(model.folder)
        self.kept = KeptExplanations(settings.explain_memory_bytes)
        self.words = Words(model.tokenizer)
        self._say = say
        self._loaded = False
        # Of this server's life: those that it measures, quickly, are in no cache.
        self._ceilings: Ceilings | None = None

    @property
    def reference_bytes(self) -> int:
        """What the reference's weights take beside the engine's; 0 where they are its own: torch, fp32 or fp64."""
        shared = not isinstance(self.model.engine, NativeEngine) and self.dtype in ("fp32", "fp64")
        return 0 if shared else weight_bytes(self.model.config)

    @property
    def dtype(self) -> str:
        """Of the weights of the engine that serves."""
        engine = self.model.engine
        if isinstance(engine, NativeEngine):
            return engine.packed.dtype
        from gptwo.infer.torch_engine import TorchEngine

        assert isinstance(engine, TorchEngine)
        return short_dtype(str(engine.model.token_embedding.weight.dtype))

    @property
    def tolerance(self) -> float:
        """Of the badge."""
        return TOLERANCES[self.dtype]

    @property
    def reference_facts(self) -> dict[str, Any]:
        """What runs explanations, for people: fused engines have no attention matrix to show."""
        return {
            "what": "the readable reference model in torch, which keeps every tensor; the engine that writes does not",
            "loaded": self._loaded,
            "bytes": self.reference_bytes,
        }

    def reference(self, checkpoint: int | None = None) -> Reference:
        """Of the model that is served, or of another checkpoint of its run."""
        from gptwo.explanation.weights import reference_of

        if checkpoint is not None and checkpoint != self.checkpoints.served:
            return reference_of(self.checkpoints.model(checkpoint))
        if not self._loaded:
            self._require_memory(self.reference_bytes, "the reference's weights take")
            began = time.perf_counter()
            reference_of(self.model)
            self._loaded = True
            self._say(
                f"explanations: the reference's weights take {self.reference_bytes / 1e6:,.0f} MB more, "
                f"loaded in {time.perf_counter() - began:.1f} s"
            )
        return reference_of(self.model)

    def made(self, made_id: str) -> Made:
        """A kept explanation; ``ApiError`` 404 with the code explanation_gone for one that is not kept any more."""
        found = self.kept.get(made_id)
        if found is None:
            raise ApiError(
                404,
                "this explanation is not kept any more, or never was; ask for it again with POST /explain/prompt",
                code="explanation_gone",
            )
        return found

    def explain(
        self,
        tokens: Tokens,
        *,
        checkpoint: int | None = None,
        ablate: Places = (),
        other: Tokens | None = None,
        places: Places = (),
    ) -> Made:
        """The explanation of ``tokens``: the one that is kept, or a new one. Same question, same id."""
        checkpoint = None if checkpoint == self.checkpoints.served else checkpoint
        asked = [checkpoint, tokens.tolist(), ablate, None if other is None else other.tolist(), places]
        made_id = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
        if (known := self.kept.get(made_id)) is not None:
            return known
        from gptwo.explanation.explanation import trace

        began = time.perf_counter()
        reference = self.reference(checkpoint)
        self._require_memory(_pass_bytes(reference, len(tokens)), f"explaining {len(tokens):,} tokens takes")
        explanation = trace(reference, tokens, self.changes(reference, tokens, ablate, other, places))
        model = self.model if checkpoint is None else self.checkpoints.model(checkpoint)
        reply = {
            "id": made_id,
            "checkpoint": self.checkpoints.served if checkpoint is None else checkpoint,
            "tokens": [self.words.entry(token) for token in tokens.tolist()],
            "surprisal": [None, *explanation.surprisal[1:].tolist()],
            "entropy": explanation.entropy.tolist(),
            "top": self.words.top(explanation.top.ids[:, :TOP], _probabilities(explanation.top, TOP)),
            "badge": badge(explanation, model.engine, self.dtype if checkpoint is None else "fp32"),
            "seconds": time.perf_counter() - began,
        }
        made = Made(made_id, explanation, reply)
        self.kept.add(made)
        return made

    def changes(
        self,
        reference: Reference,
        tokens: Tokens,
        ablate: Places = (),
        other: Tokens | None = None,
        places: Places = (),
    ) -> Mapping[Any, Any]:
        """What ``explanation`` calls changes; ``ConfigError`` for parts that the model does not have."""
        from gptwo.explanation.explain import changes_of

        return changes_of(reference, len(tokens), ablate=ablate, other=other, places=places)

    def time(self, tokens: Tokens, decode_tokens: int) -> dict[str, Any]:
        """Where the time goes. The first time the machine's ceilings are measured, too, for some seconds."""
        from gptwo.serve.explaining.timing import time_native, time_reference

        engine = self.model.engine
        if isinstance(engine, NativeEngine):
            ceilings = self._measured_ceilings("cpu", engine.kernels.threads)
            return time_native(engine, tokens, decode_tokens, ceilings, self.words)
        reference = self.reference()
        ceilings = self._measured_ceilings(str(reference.device))
        return time_reference(reference, engine, tokens, decode_tokens, ceilings=ceilings, words=self.words)

    def _measured_ceilings(self, device: str, threads: int | None = None) -> Ceilings:
        """Those that `gptwo plan` keeps; else a quick measurement, for as long as the server runs."""
        from gptwo.perf.ceilings import Ceilings, cached_ceilings
        from gptwo.perf.process import ask

        if self._ceilings is None:
            self._ceilings = cached_ceilings(device, threads, measure=False)
        if self._ceilings is None:
            request = {"what": "ceilings", "device": device, "threads": threads, "quick": True}
            self._ceilings = Ceilings.from_json(ask(request))
        return self._ceilings

    def _require_memory(self, needed: int, what: str) -> None:
        free = free_memory_bytes()
        if needed > free:
            raise ApiError(
                503,
                f"{what} {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; ask for less",
                code="no_memory",
            )


@functools.cache
def import_ahead() -> None:
    """Begin, once, to import in a thread what a first explanation waits for: torch takes 2 s.

    For a server that is there to explain: it takes 300 MB, which one that writes need not pay for.
    """

    def work() -> None:
        import gptwo.explanation.explain
        import gptwo.explanation.whatif  # noqa: F401

    # The end of the process does not wait for it.
    threading.Thread(target=work, name="gptwo-import", daemon=True).start()


def _pass_bytes(reference: Reference, T: int) -> int:
    """At most, in float32: what is kept, and what a block computes at a time."""
    from gptwo.explanation.explanation import ROWS_AT_ONCE

    config = reference.config
    kept = 3 * config.n_layer * T * config.n_embd
    block = 4 * config.n_head * T * T + T * (8 * config.n_embd + 3 * config.mlp_width)
    return 4 * (kept + block + 2 * min(T, ROWS_AT_ONCE) * config.vocab_size)


def _probabilities(top: Any, k: int) -> Any:
    import numpy as np

    return np.exp(top.logits[:, :k].astype(np.float64) - top.log_sum_exp[:, None])
