"""One tree of errors: everything that gptwo raises on purpose can be caught as one thing, and as Python's own kind."""

from __future__ import annotations

import builtins

import pytest

from gptwo.base import errors

OURS = [value for value in vars(errors).values() if isinstance(value, type)]


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_every_error_hangs_on_the_root(error: type[Exception]) -> None:
    assert issubclass(error, errors.GptwoError)
    assert error.__doc__
    assert not hasattr(builtins, error.__name__), "a name of Python's own would be confused with it"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ConfigError, ValueError),
        (errors.DeviceError, ValueError),
        (errors.TokenizerError, ValueError),
        (errors.DataError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.ContextLengthError, ValueError),
        (errors.StorageError, OSError),
        (errors.MissingExtraError, ImportError),
        (errors.RankError, RuntimeError),
    ],
)
def test_every_error_is_also_of_pythons_kind(error: type[Exception], kind: type[Exception]) -> None:
    assert issubclass(error, kind)
