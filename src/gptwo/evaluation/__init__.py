"""How good a model is: its loss over text, and its answers to task files. Runs on any engine of ``infer``; no torch."""

from gptwo.evaluation.evaluate import evaluate
from gptwo.evaluation.result import EvaluationResult

__all__ = ["EvaluationResult", "evaluate"]
