"""What may be changed in a forward pass: a head or an MLP is switched off, or gives what it gave for another prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.explanation.bounds import require_between

if TYPE_CHECKING:
    from torch import Tensor

MLP: Literal["mlp"] = "mlp"
_WAYS = ("zero", "mean")


class Place(NamedTuple):
    """Head ``part`` (from 0) of block ``layer`` (from 0), or its ``"mlp"``."""

    layer: int
    part: int | Literal["mlp"]


class Edit(NamedTuple):
    """Switch a part off: what it gives becomes 0 at every position, or its mean over the prompt's positions.

    A head gives A_h (T×K), before W_0 and its bias b_0; an MLP gives all it adds to the residual (T×D), b_2 included.
    """

    layer: int
    part: int | Literal["mlp"]
    to: Literal["zero", "mean"] = "zero"


class Patch(NamedTuple):
    """What these places give for another prompt of as many tokens is put in their place."""

    prompt: str | Sequence[int]
    places: Sequence[Place | tuple[Any, ...]]


Changes = Mapping[Place, "Literal['zero', 'mean'] | Tensor"]
"""Of each place that is changed: how, or what takes its place (T×K for a head, T×D for an MLP)."""
NO_CHANGES: Changes = {}


def ablations(edits: Iterable[Edit | tuple[Any, ...]], config: GPT2Config) -> dict[Place, Any]:
    """The changes that ``edits`` ask for; ``ConfigError`` for what the model does not have, or is asked for twice."""
    found: list[tuple[Place, Any]] = []
    for given in each_of("ablate", edits):
        try:
            edit = Edit(*given)
        except TypeError:
            raise ConfigError(
                f"ablate={given!r} is not possible; expected (layer, head) or (layer, 'mlp'), and 'zero' or 'mean'"
            ) from None
        if edit.to not in _WAYS:
            raise ConfigError(f"ablate: to={edit.to!r} is not possible; expected 'zero' or 'mean'")
        found.append((checked_place(edit[:2], config), edit.to))
    require_once(place for place, _ in found)
    return dict(found)


def require_once(places: Iterable[Place]) -> None:
    """``ConfigError`` for a place that is changed twice: one of the two changes would be lost."""
    seen = set()
    for place in places:
        if place in seen:
            of = "its mlp" if place.part == MLP else f"head {place.part}"
            raise ConfigError(f"layer {place.layer}, {of} is changed twice; expected once")
        seen.add(place)


def each_of(name: str, places: Any) -> Iterable[Any]:
    """``places``; ``ConfigError`` for what is no list of them."""
    if isinstance(places, str) or not isinstance(places, Iterable):
        raise ConfigError(
            f"{name}={places!r} is not possible; expected a list of (layer, head) or (layer, 'mlp')"
        )
    return places


def checked_place(given: Sequence[Any], config: GPT2Config) -> Place:
    """``given`` as a place of this model; else ``ConfigError``."""
    try:
        place = Place(*given)
    except TypeError:
        raise ConfigError(f"{given!r} names no place; expected (layer, head) or (layer, 'mlp')") from None
    require_between("layer", place.layer, 0, config.n_layer - 1)
    if place.part != MLP:
        require_between("head", place.part, 0, config.n_head - 1, " or 'mlp'")
    return place


def require_as_many(count: int, expected: int) -> None:
    """``ConfigError`` unless the second prompt of a patch has as many tokens as the first."""
    if count != expected:
        raise ConfigError(
            f"the second prompt has {count} tokens; expected {expected}, as many as the first, "
            "because a patch goes position by position; make one of them longer or shorter"
        )
