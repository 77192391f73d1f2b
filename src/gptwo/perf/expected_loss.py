"""The loss that a run may end with, by published scaling laws: a rough guide, and no promise.

Both laws were fitted to other text, other recipes and (Hoffmann et al.) another tokenizer; their difference is a fair
picture of how much they know.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptwo.config import GPT2Config
from gptwo.costs import parameter_count

SOURCE = (
    "a rough guide by scaling laws for web text: Kaplan et al. 2020 (Scaling Laws for Neural Language Models, eq. 1.5, "
    "table 2) and Hoffmann et al. 2022 (Training Compute-Optimal Large Language Models, eq. 10)"
)
# A nat per token depends on the tokenizer. GPT-2's has 50,257 tokens, Hoffmann's 32,000: fewer, and it says nothing.
_LEAST_VOCABULARY = 30_000
# Text read up to four times teaches nearly as new text does (Muennighoff et al. 2023, Scaling Data-Constrained Language
# Models); the laws know new text alone.
_USEFUL_PASSES = 4


@dataclass(frozen=True)
class ExpectedLoss:
    """Nats per token by either law, of GPT-2-like models on web text."""

    kaplan: float
    hoffmann: float


def expected_loss(config: GPT2Config, *, tokens: int, text_tokens: int | None = None) -> ExpectedLoss | None:
    """After ``tokens`` tokens of training, of a text of ``text_tokens`` (None: of as many). None for another tokenizer.

    Kaplan: ((N_c/N)^(α_N/α_D) + D_c/D)^α_D with N the parameters but for the embeddings, α_N = 0.076, α_D = 0.103,
    N_c = 6.4e13, D_c = 1.8e13. Hoffmann: 1.69 + 406.4/N^0.34 + 410.7/D^0.28 with N all parameters. D is the tokens, of
    which those of a text's fifth reading and later ones do not count.
    """
    if config.vocab_size < _LEAST_VOCABULARY:
        return None
    useful = tokens if text_tokens is None else min(tokens, _USEFUL_PASSES * text_tokens)
    parameters = parameter_count(config)
    blocks = parameters - (config.vocab_size + config.context) * config.n_embd
    kaplan = ((6.4e13 / blocks) ** (0.076 / 0.103) + 1.8e13 / useful) ** 0.103
    hoffmann = 1.69 + 406.4 / parameters**0.34 + 410.7 / useful**0.28
    return ExpectedLoss(kaplan, hoffmann)
