"""Documents packed in one row are computed as if each stood alone, and targets that are not predicted teach nothing."""

from __future__ import annotations

import torch
from tests.model_cases import random_model, random_tokens
from tests.tolerance import FLOAT64

from gptwo.config import GPT2Config
from gptwo.model import NOT_PREDICTED

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=31, dropout=0.0)
LENGTHS = (3, 1, 6)
# The numbers need not be in order, and the same one may come again in another row.
DOCUMENTS = torch.tensor([[4, 4, 4, 2, 7, 7, 7, 7, 7, 7], [0] * 10])


def test_each_document_in_a_row_is_as_if_alone() -> None:
    model = random_model(CONFIG)
    tokens = random_tokens(CONFIG, 2, 10)
    packed = model.residual(tokens, documents=DOCUMENTS)
    first = 0
    for length in LENGTHS:
        alone = model.residual(tokens[:1, first : first + length])
        FLOAT64.assert_close(packed[:1, first : first + length], alone, f"the document at {first}")
        first += length
    FLOAT64.assert_close(packed[1:], model.residual(tokens[1:]), "a row of one document")


def test_gradients_of_packed_documents_are_those_of_each_alone() -> None:
    model = random_model(CONFIG)
    tokens, targets = random_tokens(CONFIG, 1, 10), random_tokens(CONFIG, 1, 10, seed=2)
    model.loss(tokens, targets, documents=DOCUMENTS[:1], reduction="sum").backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    first = 0
    for length in LENGTHS:
        piece = slice(first, first + length)
        model.loss(tokens[:, piece], targets[:, piece], reduction="sum").backward()
        first += length
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        FLOAT64.assert_close(packed[name], parameter.grad, name)


def test_a_target_that_is_not_predicted_adds_nothing() -> None:
    model = random_model(CONFIG)
    tokens, targets = random_tokens(CONFIG, 1, 10), random_tokens(CONFIG, 1, 10, seed=2)
    masked = targets.clone()
    masked[0, 4:] = NOT_PREDICTED
    each = model.loss(tokens, masked, reduction="none")
    assert each[4:].tolist() == [0.0] * 6
    FLOAT64.assert_close(model.loss(tokens, masked), model.loss(tokens[:, :4], targets[:, :4]), "mean")
    model.loss(tokens, masked, reduction="sum").backward()
    assert model.position_embedding.weight.grad is not None
    assert model.position_embedding.weight.grad[4:].abs().max() == 0.0
    assert model.position_embedding.weight.grad[:4].abs().min() > 0.0
