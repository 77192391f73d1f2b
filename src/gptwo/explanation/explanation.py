"""A prompt's forward pass, kept so that every tensor of it can be had by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.explanation.bounds import checked_position
from gptwo.explanation.contributions import Contributions, Norms, contributions, norms
from gptwo.explanation.edits import NO_CHANGES, Changes
from gptwo.explanation.lens import Lens, lens
from gptwo.explanation.pooling import pooled
from gptwo.explanation.reference import (
    Reference,
    embed,
    final_norm,
    head_outputs,
    run_block,
    tensor_names,
    unembed,
)
from gptwo.explanation.worked import Worked, worked
from gptwo.infer.engine import Tokens

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

Array = NDArray[np.floating[Any]]

TOP = 20
"""Most probable tokens that are kept for every position."""
THUMBNAIL = 64
# Rows of logits at a time: 128 of V=50257 are 26 MB. With fewer, most of it is reading E; what is larger than 32 MB the
# C library gives back to the system each time, and to get its pages again takes as long as a softmax.
ROWS_AT_ONCE = 128
# Of the blocks' tensors that were asked for: those of GPT-2 small and 32 tokens are 2.6 MB a block.
_CACHE_BYTES = 64 << 20


class TopTokens(NamedTuple):
    """Of every position the k largest logits, the largest first, and log Σ exp z."""

    ids: Int[np.ndarray, "T k"]
    logits: Float[np.ndarray, "T k"]
    log_sum_exp: Float[np.ndarray, " T"]


class Explanation(Mapping[str, Array]):
    """Every tensor of one prompt's forward pass, by its name in ``reference``. Made by ``gptwo.explain`` and ``trace``.

    Kept are the residual stream and what heads and MLPs add to it: 3 L·T·D numbers. What else a block computes is
    computed again when it is asked for, and the blocks asked for last stay; an explanation is for one thread at a time.

    tokens       T ids
    surprisal    T, nats: -log p(token t | those before it); the first has none (NaN)
    entropy      T, nats, of the distribution of the token after t
    top          the most probable next tokens of every position
    thumbnails   L×H×n×n bytes, n ≤ 64: attention, 255 is 1; of each field of T/n × T/n the largest weight
    changes      what was changed in the pass
    """

    def __init__(self, reference: Reference, tokens: Tokens, changes: Changes = NO_CHANGES) -> None:
        self.reference = reference
        self.config = reference.config
        self.tokens = tokens
        self.changes = changes
        self.kept: dict[str, Tensor] = {}
        """embedding, residual (X_out), final_norm; of every block input, heads and mlp_output."""
        self._blocks: dict[int, dict[str, Tensor]] = {}
        self._run()

    def __repr__(self) -> str:
        changed = f", {len(self.changes)} parts changed" if self.changes else ""
        return f"<Explanation of {len(self.tokens)} tokens by {self.reference.description}{changed}>"

    def __getitem__(self, name: str) -> Array:
        array: Array = self.tensor(name).cpu().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(tensor_names(self.config))

    def __len__(self) -> int:
        return len(tensor_names(self.config))

    def __contains__(self, name: object) -> bool:
        return name in tensor_names(self.config)

    @torch.inference_mode()
    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, on the reference's device; ``ConfigError`` for a name that there is not."""
        if name in self.kept:
            return self.kept[name]
        if name == "logits":
            return unembed(self.reference, self.kept["final_norm"])
        if name not in self:
            raise ConfigError(
                f"there is no tensor {name!r}; expected one like 'blocks.0.attention', with blocks up to "
                f"{self.config.n_layer - 1}, or embedding, final_norm or logits"
            )
        layer = int(name.split(".")[1])
        if name.endswith(".head_outputs"):
            return head_outputs(self.reference, layer, self.kept[f"blocks.{layer}.heads"])
        if name.endswith(".output"):
            following = f"blocks.{layer + 1}.input" if layer + 1 < self.config.n_layer else "residual"
            return self.kept[following]
        return self._of_block(layer)[name]

    def logits_at(self, position: int) -> Float[np.ndarray, " V"]:
        """The logits after token ``position``."""
        at = checked_position(position, len(self.tokens))
        row: Array = self.logits_of(slice(at, at + 1))[0].cpu().numpy()
        return row

    @torch.inference_mode()
    def logits_of(self, rows: slice, tokens: Sequence[int] | None = None) -> Float[Tensor, "n V"]:
        """The logits after these positions: of all tokens, or of those with these ids."""
        x_nD = self.kept["final_norm"][rows]
        return unembed(self.reference, x_nD) if tokens is None else x_nD @ self.reference.E[list(tokens)].T

    @property
    def logits(self) -> Float[np.ndarray, "T V"]:
        """Of every position; computed when asked for."""
        return self["logits"]

    def lens(self, *, k: int = 1, positions: slice = slice(None)) -> Lens:
        """The k most probable tokens if the model ended after each block: ``lens.lens``."""
        return lens(self, k=k, positions=positions)

    def contributions(self, position: int, token: int) -> Contributions:
        """What each head and MLP adds to this logit directly: ``contributions.contributions``."""
        return contributions(self, checked_position(position, len(self.tokens)), token)

    def norms(self) -> Norms:
        """Of the residual stream and what is added to it: ``contributions.norms``."""
        return norms(self)

    def worked(self, name: str, index: tuple[int, ...]) -> Worked:
        """One entry of a tensor with the numbers that it is made of: ``worked.worked``."""
        return worked(self, name, index)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, without what is cached."""
        return sum(tensor.nbytes for tensor in self.kept.values()) + self.thumbnails.nbytes

    @torch.inference_mode()
    def _run(self) -> None:
        config = self.config
        n = min(len(self.tokens), THUMBNAIL)
        self.thumbnails: UInt8[np.ndarray, "L H n n"] = np.empty(
            (config.n_layer, config.n_head, n, n), np.uint8
        )

        def record(name: str, tensor: Tensor) -> None:
            _, layer, part = name.split(".")
            if part in ("input", "heads", "mlp_output"):
                self.kept[name] = tensor
            elif part == "attention":
                largest_Hnn = pooled(tensor, THUMBNAIL, how="max")
                self.thumbnails[int(layer)] = (largest_Hnn * 255).round().to(torch.uint8).cpu().numpy()

        tokens = torch.as_tensor(self.tokens, device=self.reference.device)
        x_TD = embed(self.reference, tokens)
        self.kept["embedding"] = x_TD
        for layer in range(config.n_layer):
            x_TD = run_block(self.reference, layer, x_TD, changes=self.changes, record=record)
        self.kept["residual"] = x_TD
        self.kept["final_norm"] = final_norm(self.reference, x_TD)
        self._summarise(tokens)

    def _summarise(self, tokens: Int[Tensor, " T"]) -> None:
        """Surprisal, entropy and the most probable tokens, some rows of logits at a time."""
        T, V = len(tokens), self.config.vocab_size
        k = min(TOP, V)
        parts: list[tuple[Tensor, ...]] = []
        surprisal = [torch.full((1,), torch.nan, dtype=torch.float64)]
        room_nV = self.kept["final_norm"].new_empty(min(T, ROWS_AT_ONCE), V)
        for start in range(0, T, ROWS_AT_ONCE):
            n = min(T - start, ROWS_AT_ONCE)
            logits_nV = self.logits_of(slice(start, start + n))
            p_nV = torch.softmax(logits_nV, dim=1, out=room_nV[:n])
            top = logits_nV.topk(k, dim=1)
            # log Σ exp z = z - log softmax(z), at the largest z. H = log Σ exp z - Σ p z.
            log_sum_exp_n = top.values[:, 0] - p_nV.gather(1, top.indices[:, :1])[:, 0].log()
            entropy_n = log_sum_exp_n - torch.linalg.vecdot(p_nV, logits_nV)
            parts.append((top.indices, top.values, log_sum_exp_n, entropy_n))
            following_m = tokens[start + 1 : start + 1 + n]
            chosen_m = logits_nV[: len(following_m)].gather(1, following_m[:, None])[:, 0]
            surprisal.append((log_sum_exp_n[: len(following_m)] - chosen_m).double().cpu())
        ids, values, sums, entropy = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        self.top = TopTokens(ids, values, sums)
        self.entropy: Float[np.ndarray, " T"] = entropy
        self.surprisal: Float[np.ndarray, " T"] = torch.cat(surprisal).numpy()

    def _of_block(self, layer: int) -> dict[str, Tensor]:
        """All tensors of a block, of its input and with its changes."""
        found = self._blocks.pop(layer, None)
        if found is None:
            found = {}
            run_block(
                self.reference,
                layer,
                self.kept[f"blocks.{layer}.input"],
                changes=self.changes,
                record=found.__setitem__,
            )
        self._blocks[layer] = found
        while len(self._blocks) > 1 and self._cached_bytes() > _CACHE_BYTES:
            del self._blocks[next(iter(self._blocks))]
        return found

    def _cached_bytes(self) -> int:
        return sum(tensor.nbytes for block in self._blocks.values() for tensor in block.values())


def trace(reference: Reference, tokens: Tokens, changes: Changes = NO_CHANGES) -> Explanation:
    """The explanation of ``tokens``, 1 to C valid ids."""
    return Explanation(reference, tokens, changes)
