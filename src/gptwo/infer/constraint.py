"""What may be written next, where a text must keep to a form: a JSON schema, say. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool


class Constraint(Protocol):
    """The form of one text, token by token: ``allowed``, then ``accept`` the token that was drawn of those.

    Tokens that are not allowed have the logit -∞ in every stage of sampling; log-probabilities stay the model's own.
    ``finished`` is True as soon as nothing more can follow: the text ends there with finish_reason "stop", without
    another pass of the model, and whether or not the tokenizer has a token that ends a text.
    """

    @property
    def finished(self) -> bool:
        """Nothing may follow what was accepted; then ``allowed`` is not asked any more."""
        ...

    def allowed(self) -> Bool[np.ndarray, " V"]:
        """Which tokens may come next, at least one; the one that ends a text where the text may end.

        ``TokenizerError`` when the tokenizer has no token that could go on, ``ConfigError`` when finding out costs
        more than a step may.
        """
        ...

    def accept(self, token: int) -> None:
        """``token`` was drawn. It is one of those that were allowed."""
        ...
