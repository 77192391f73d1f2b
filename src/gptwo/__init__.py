"""gptwo: GPT-2 whole. ``gptwo.load(path)`` gives a model that writes, scores and shows its logits.

Names are imported when they are first used, so that ``import gptwo`` costs neither NumPy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptwo.base.version import __version__

if TYPE_CHECKING:
    from gptwo.base.errors import GptwoError
    from gptwo.evaluation import EvaluationResult, evaluate
    from gptwo.explanation.explain import explain
    from gptwo.explanation.explanation import Explanation
    from gptwo.infer.api import LanguageModel, TextPieces, load
    from gptwo.infer.task import Generation

__all__ = [
    "EvaluationResult",
    "Explanation",
    "Generation",
    "GptwoError",
    "LanguageModel",
    "TextPieces",
    "__version__",
    "evaluate",
    "explain",
    "load",
]

_HOME = {
    "EvaluationResult": "gptwo.evaluation.result",
    "Explanation": "gptwo.explanation.explanation",
    "Generation": "gptwo.infer.task",
    "GptwoError": "gptwo.base.errors",
    "LanguageModel": "gptwo.infer.api",
    "TextPieces": "gptwo.infer.api",
    "evaluate": "gptwo.evaluation.evaluate",
    "explain": "gptwo.explanation.explain",
    "load": "gptwo.infer.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
