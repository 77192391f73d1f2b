"""One tree of errors. Every message says what was got, what was expected, and what to do, in one line.

A ``GptwoError`` is a mistake of the user's or of their disk: the command line prints it as
``ConfigError: message`` and exits with code 2, without a traceback. A bug of ours is any other exception.
"""


class GptwoError(Exception):
    """The root: anything that gptwo raises on purpose."""


class ConfigError(GptwoError, ValueError):
    """A setting that is not possible, alone or together with another."""


class DeviceError(GptwoError, ValueError):
    """A device that is not there, or is not named as torch names it."""


class TokenizerError(GptwoError, ValueError):
    """A tokenizer that cannot be built, loaded, or used on this input."""


class DataError(GptwoError, ValueError):
    """Text or token shards that cannot be read, are empty, or were altered."""


class CheckpointError(GptwoError, ValueError):
    """A model folder that is missing, incomplete, altered, or of another kind."""


class ContextLengthError(GptwoError, ValueError):
    """More tokens than the model has positions for."""


class StorageError(GptwoError, OSError):
    """The disk refused: full, read-only, or failing. What was whole before is whole still."""


class DivergedError(GptwoError, ArithmeticError):
    """Training whose loss or weights are no longer numbers. No checkpoint is written from then on."""


class MissingExtraError(GptwoError, ImportError):
    """A feature whose optional packages are not installed; the message names the extra."""


class NativeLibraryError(GptwoError, RuntimeError):
    """The native CPU kernels are not built, or not for this machine."""


class RankError(GptwoError, RuntimeError):
    """A process of a run over several that has gone or cannot be reached. What was saved is whole."""


class QueueFullError(GptwoError, RuntimeError):
    """A server has as many texts to write as it takes; the same request may succeed later."""


class ServerClosingError(GptwoError, RuntimeError):
    """A server that is going down takes no more requests."""
