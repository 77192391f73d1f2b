"""Numbers that name a layer, a head, a position or a token: refused where there is none such."""

from __future__ import annotations

from gptwo.base.errors import ConfigError


def require_between(name: str, value: object, least: int, most: int, also: str = "") -> None:
    """``ConfigError`` for what is no whole number from ``least`` to ``most``; ``also`` says what else is possible."""
    # NumPy's integers count; True does not.
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not (whole and least <= value <= most):  # type: ignore[operator]
        raise ConfigError(f"{name}={value!r} is not possible; expected {least} to {most}{also}")


def checked_position(position: int, count: int) -> int:
    """``position`` of ``count``, from the end where it is negative; ``ConfigError`` for one that there is not."""
    if not -count <= position < count:
        raise ConfigError(f"position {position} is not possible; expected 0 to {count - 1}")
    return position % count
