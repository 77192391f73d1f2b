"""What changes when parts are switched off or patched: one logit, for every head at once, and the text that follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from gptwo.explanation.bounds import checked_position, require_between
from gptwo.explanation.edits import NO_CHANGES, Changes, require_as_many
from gptwo.explanation.explanation import Explanation
from gptwo.explanation.reference import (
    Reference,
    embed,
    final_norm,
    head_outputs,
    run_block,
    run_mlp,
    unembed,
)
from gptwo.infer import sampling
from gptwo.infer.engine import Tokens
from gptwo.infer.policy import SamplingPolicy

if TYPE_CHECKING:
    from jaxtyping import Float

# Values of one activation (B·T·D) that are worked on at a time: of GPT-2 small 12 heads times 340 tokens, with 4 times
# as many in the MLP.
_VALUES_AT_ONCE = 3 << 20


@torch.inference_mode()
def heat_map(
    explanation: Explanation,
    other: Explanation,
    *,
    position: int = -1,
    token: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Float[np.ndarray, "L H"]:
    """The change of ``token``'s logit after ``position`` when one head gives what it gives in ``other``.

    ``token`` None is the most probable one of ``explanation``. Both have as many tokens, and position and token are
    there, else ``ConfigError``. Heads of a layer run side by side from that layer on: L/2 forward passes of H prompts
    in all. Ends between blocks when ``stopped()``: heads that it did not come to are NaN.

    Source: Vig et al. 2020, causal mediation; Meng et al. 2022.
    """
    require_as_many(len(other.tokens), len(explanation.tokens))
    reference, config = explanation.reference, explanation.config
    position = checked_position(position, len(explanation.tokens))
    token = int(explanation.top.ids[position, 0]) if token is None else token
    require_between("token", token, 0, config.vocab_size - 1)
    before = float(explanation.logits_at(position)[token])
    at_once = max(1, _VALUES_AT_ONCE // (len(explanation.tokens) * config.n_embd))
    grid = np.full((config.n_layer, config.n_head), np.nan)
    for layer in range(config.n_layer):
        name = f"blocks.{layer}.heads"
        added_HTD = head_outputs(reference, layer, other.kept[name] - explanation.kept[name])
        middle_TD = explanation.tensor(f"blocks.{layer}.middle")
        for start in range(0, config.n_head, at_once):
            middle_BTD = middle_TD + added_HTD[start : start + at_once]
            x_BTD = middle_BTD + run_mlp(reference, layer, middle_BTD, changes=explanation.changes)
            for later in range(layer + 1, config.n_layer):
                if stopped is not None and stopped():
                    return grid
                x_BTD = run_block(reference, later, x_BTD, changes=explanation.changes)
            after_B = final_norm(reference, x_BTD[:, position]) @ reference.E[token]
            grid[layer, start : start + at_once] = after_B.double().cpu() - before
    return grid


@torch.inference_mode()
def continuation(
    reference: Reference,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    changes: Changes = NO_CHANGES,
    policy: SamplingPolicy | None = None,
    seed: int = 0,
    eot_id: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> list[int]:
    """The ids that follow ``tokens`` with the parts changed, greedy without a ``policy``; to C tokens at most.

    Every step is a whole pass, so that a mean is that of all positions so far. A patch holds at the prompt's positions:
    beyond them a part gives what it gives. Ends after ``eot_id``, and between blocks when ``stopped()``: then with
    what there is.
    """
    policy = policy or SamplingPolicy(temperature=0.0)
    ids = list(map(int, tokens))
    while len(ids) < min(len(tokens) + max_new_tokens, reference.config.context):
        x_TD = embed(reference, torch.tensor(ids, device=reference.device))
        for layer in range(reference.config.n_layer):
            if stopped is not None and stopped():
                return ids[len(tokens) :]
            x_TD = run_block(reference, layer, x_TD, changes=changes)
        logits_V = unembed(reference, final_norm(reference, x_TD[-1:]))[0]
        ids.append(
            sampling.choose(
                logits_V.cpu().numpy(),
                np.array(ids),
                policy,
                prompt_tokens=len(tokens),
                seed=seed,
                step=len(ids) - len(tokens),
            )
        )
        if ids[-1] == eot_id:
            break
    return ids[len(tokens) :]
