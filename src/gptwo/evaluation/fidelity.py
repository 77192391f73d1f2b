"""How near a model that was rounded is to the one that it was made of, over a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gptwo.base.errors import ConfigError, DivergedError
from gptwo.data.windows import windows
from gptwo.evaluation.loss import Text
from gptwo.evaluation.result import Progress, perplexity
from gptwo.infer.api import LanguageModel
from gptwo.infer.task import require_count

# Rows of logits that become probabilities at a time: 64 of V=50257 are 26 MB in float64.
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Of two models p and q that predict the same tokens, each once, in windows of C tokens side by side.

    perplexity_before  e to the mean of -log p(token)
    perplexity_after   the same of q
    kl                 mean of KL(p || q) = Σ p (log p - log q) over the vocabulary, nats per token
    top1_agreement     share of the tokens where both find the same token most probable
    tokens             tokens predicted
    """

    perplexity_before: float
    perplexity_after: float
    kl: float
    top1_agreement: float
    tokens: int


def compare(
    before: LanguageModel,
    after: LanguageModel,
    text: Text,
    *,
    limit: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Fidelity:
    """``after`` against ``before`` on a text that was opened with ``before``'s tokenizer (``open_text``).

    ``limit`` stops after so many predicted tokens. Errors as ``evaluate_loss``, and ``ConfigError`` for two shapes.
    """
    if before.config != after.config:
        raise ConfigError(
            "the two models have different shapes; expected one model before and after rounding"
        )
    if limit is not None:
        require_count("limit", limit)
    tokens = text.tokens if limit is None else min(text.tokens, limit + 1)
    sums, predicted = np.zeros(4), 0
    for window in windows(tokens, before.config.context):
        ids = text.read(window.start, window.length + 1)
        logits = [model.engine.logits(ids[:-1]) for model in (before, after)]
        for start in range(0, window.length, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            sums += _compared(logits[0][rows], logits[1][rows], ids[1:][rows])
        predicted += window.predicted
        progress(predicted, tokens - 1)
    nats_before, nats_after, kl, agreement = sums / predicted
    if not np.isfinite(sums).all():
        raise DivergedError("a log-probability of the model is no finite number; its weights are damaged")
    return Fidelity(
        perplexity_before=perplexity(float(nats_before)),
        perplexity_after=perplexity(float(nats_after)),
        kl=float(kl),
        top1_agreement=float(agreement),
        tokens=predicted,
    )


def _compared(before_nV: np.ndarray, after_nV: np.ndarray, targets_n: np.ndarray) -> np.ndarray:
    """Summed over n: -log p, -log q, KL(p || q), and where the largest are the same."""
    log_p_nV, log_q_nV = _log_softmax(before_nV), _log_softmax(after_nV)
    at = np.arange(len(targets_n)), targets_n
    return np.array(
        [
            -log_p_nV[at].sum(),
            -log_q_nV[at].sum(),
            (np.exp(log_p_nV) * (log_p_nV - log_q_nV)).sum(),
            (before_nV.argmax(axis=1) == after_nV.argmax(axis=1)).sum(),
        ]
    )


def _log_softmax(logits_nV: np.ndarray) -> np.ndarray:
    shifted_nV = logits_nV.astype(np.float64) - logits_nV.max(axis=1, keepdims=True)
    log_softmax_nV: np.ndarray = shifted_nV - np.log(np.exp(shifted_nV).sum(axis=1, keepdims=True))
    return log_softmax_nV
