"""``gptwo.explain``: a model, a prompt, and everything in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import (
    MLP,
    Edit,
    Patch,
    Place,
    ablations,
    checked_place,
    each_of,
    require_as_many,
    require_once,
)
from gptwo.explanation.explanation import Explanation, trace
from gptwo.explanation.reference import Reference
from gptwo.explanation.weights import reference_of
from gptwo.infer.api import LanguageModel, load
from gptwo.infer.engine import Tokens


def explain(
    model: LanguageModel | str | Path,
    prompt: str | Sequence[int],
    *,
    ablate: Iterable[Edit | tuple[Any, ...]] = (),
    patch: Patch | tuple[str | Sequence[int], Sequence[Place | tuple[Any, ...]]] | None = None,
    dtype: str | None = None,
) -> Explanation:
    """The forward pass of ``prompt`` (text or ids), computed by the readable reference model; arrays by name.

    ablate   [(layer, head), (layer, "mlp"), (layer, head, "mean"), …]: switched off
    patch    (another prompt of as many tokens, [(layer, head), (layer, "mlp"), …]): these give what they gave there
    dtype    "fp32" | "fp64"; None is as the model's engine computes, fp32 at least

    A part is changed once, in ``ablate`` or in ``patch``.

    Raises ``ConfigError``, ``ContextLengthError`` or ``TokenizerError``, and for a path what ``gptwo.load`` raises.
    """
    loaded = model if isinstance(model, LanguageModel) else load(model)
    reference = reference_of(loaded, dtype)
    tokens = loaded.prompt_ids(prompt)
    other, places = (None, ()) if patch is None else _checked_patch(patch)
    ids = None if other is None else loaded.prompt_ids(other)
    return trace(
        reference, tokens, changes_of(reference, len(tokens), ablate=ablate, other=ids, places=places)
    )


def _checked_patch(given: Any) -> Patch:
    try:
        return Patch(*given)
    except TypeError:
        raise ConfigError(
            f"patch={given!r} is not possible; expected (another prompt, [(layer, head), (layer, 'mlp'), …])"
        ) from None


def changes_of(
    reference: Reference,
    count: int,
    *,
    ablate: Iterable[Edit | tuple[Any, ...]] = (),
    other: Tokens | None = None,
    places: Iterable[Sequence[Any]] = (),
) -> dict[Place, Any]:
    """The changes of a pass of ``count`` tokens: ``ablate``, and of ``places`` what they give for the tokens ``other``.

    ``ConfigError`` for a place that there is not, or that is changed twice, and for another number of tokens.
    """
    ablated = ablations(ablate, reference.config)
    patched = [checked_place(place, reference.config) for place in each_of("patch", places)]
    require_once([*ablated, *patched])
    if other is None:
        return ablated
    require_as_many(len(other), count)
    return ablated | given(trace(reference, np.asarray(other)), patched)


def given(explanation: Explanation, places: Iterable[Place]) -> dict[Place, Any]:
    """What each of these places gives in ``explanation``: A_h (T×K) of a head, T×D of an MLP."""
    return {
        place: explanation.tensor(f"blocks.{place.layer}.mlp_output")
        if place.part == MLP
        else explanation.tensor(f"blocks.{place.layer}.heads")[place.part]
        for place in places
    }
