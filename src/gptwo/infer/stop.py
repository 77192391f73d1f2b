"""Stop strings in text that arrives in pieces: nothing that may be part of one is let out."""

from __future__ import annotations

from collections.abc import Sequence

from gptwo.base.errors import ConfigError


class StopMatcher:
    """Passes text on until one of ``stops`` occurs in it, and drops that occurrence and what follows.

    Of several, the one that is complete first counts, the longest of those that end together: so the text does not
    depend on how it was cut into pieces. ``stopped`` is True from then on. Raises ``ConfigError`` for an empty string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        for stop in stops:
            if not stop:
                raise ConfigError(f"stop={stop!r} is not possible; expected at least one character")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add text; return what can no longer be part of a stop string. After the stop, always ""."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """The text that was held back, when no more comes and so no stop string was completed."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``, shorter than all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
