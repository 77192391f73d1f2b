"""The model: the paper's equations as they stand, and the GPT-2 that everyone runs. torch and nothing else."""

from gptwo.model.gpt2 import GPT2, Cache
from gptwo.model.head import NOT_PREDICTED
from gptwo.model.init import build_model

__all__ = ["GPT2", "NOT_PREDICTED", "Cache", "build_model"]
