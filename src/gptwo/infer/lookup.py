"""Prompt lookup: what follows in a text that repeats itself is guessed from the text, and verified in one pass.

Speed changes and the output does not: a guess is kept only where the policy, with its seed and step, takes that very
token from the model's own logits. Source: Saxena 2023, "Prompt Lookup Decoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gptwo.base.errors import ConfigError
from gptwo.infer.engine import Engine

_LONGEST_N = 3
_MOST = 16
_LONGEST_REST = 32


def require_lookup(engine: Engine) -> None:
    """``ConfigError`` on an engine whose logits depend on how tokens are batched: there the output could change."""
    if not engine.batch_invariant:
        raise ConfigError(
            f"lookup=True needs logits that are the same in any batch, and {engine.description} does not promise that: "
            "the text could change; leave out lookup=True (--lookup)"
        )


@dataclass
class _Matches:
    """Of n tokens in a row: what followed them, and how guesses from them did."""

    # Where the token stands that followed their newest occurrence.
    followed: dict[tuple[int, ...], int] = field(default_factory=dict)
    count: int = 4  # tokens to guess
    rest: int = 1  # tokens without a guess after the next failure
    resting: int = 0  # of those, tokens that are left


class PromptLookup:
    """Guesses of the tokens that follow a growing text: those that followed where its last tokens occurred before.

    Its last 3 tokens are looked up, else the last 2, else the last one; of several occurrences the newest counts. After
    a guess that was right to its end twice as many tokens are guessed the next time, at most 16, and after one that was
    wrong at once half as many. Below one there is none for a while, twice as long each time, at most 32 tokens. So a
    text without repetition costs little. All of that for 3, 2 and 1 apart.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._of_n = [_Matches() for _ in range(_LONGEST_N)]
        self._guessed_from = self._of_n[0]
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on with these."""
        for token in tokens:
            end = len(self._tokens)
            for n, matches in enumerate(self._of_n, start=1):
                matches.resting = max(0, matches.resting - 1)
                if n <= end:
                    matches.followed[tuple(self._tokens[end - n :])] = end
            self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """Up to ``most`` tokens that may follow.

        A guess that reaches the end of the text goes on with its own beginning, as a text in a loop does.
        """
        end = len(self._tokens)
        for n in range(min(_LONGEST_N, end), 0, -1):
            matches = self._of_n[n - 1]
            start = matches.followed.get(tuple(self._tokens[end - n :]))
            if start is not None:
                self._guessed_from = matches
                count = 0 if matches.resting else min(matches.count, most)
                return [self._tokens[start + i % (end - start)] for i in range(count)]
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Of the last guess, ``guessed`` tokens long, the first ``right`` were right."""
        matches = self._guessed_from
        if right:
            matches.rest = 1
            if right == guessed:
                matches.count = min(2 * matches.count, _MOST)
        elif matches.count > 1:
            matches.count //= 2
        else:
            matches.resting = matches.rest
            matches.rest = min(2 * matches.rest, _LONGEST_REST)
