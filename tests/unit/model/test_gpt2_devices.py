"""Paper §8, without a GPU: everything runs with all tensors on cuda:0, and one that strays to the CPU is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fake_cuda import fake_cuda
from gptwo.config import GPT2Config
from gptwo.model import GPT2, build_model, equations
from gptwo.model.gpt2 import Cache
from model_cases import SMALL, PlainCache

CONFIG = SMALL["odd widths"]
DROPPED = replace(CONFIG, dropout=0.1)


def tokens_on(device: torch.device, T: int = 9) -> torch.Tensor:
    return torch.zeros(2, T, dtype=torch.long, device=device)


@pytest.mark.parametrize("checkpoint_activations", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("config", [CONFIG, DROPPED], ids=["without dropout", "with dropout"])
def test_training_step_on_cuda(config: GPT2Config, checkpoint_activations: bool) -> None:
    with fake_cuda() as device:
        model = build_model(
            config, seed=0, device=device, checkpoint_activations=checkpoint_activations
        ).train()
        tokens = tokens_on(device)
        loss = model.loss(tokens, tokens)
        assert (loss.shape, loss.device) == ((), device)
        loss.backward()
        assert all(p.grad is not None and p.grad.device == device for p in model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.device == device
        optimizer = torch.optim.AdamW(model.parameters(), fused=False)
        optimizer.step()
        moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
        assert len(moments) == 2 * len(list(model.parameters()))
        assert {moment.device for moment in moments} == {device}


def test_decoding_with_a_cache_on_cuda() -> None:
    with fake_cuda() as device, torch.no_grad():
        model = build_model(CONFIG, seed=0, device=device).eval()
        cache = PlainCache()
        logits = model(tokens_on(device, 5), cache=cache, last_only=True)
        for _ in range(4):
            token = logits[:, -1].argmax(dim=-1, keepdim=True)
            assert token.device == device
            logits = model(token, cache=cache)
        logits = model(tokens_on(device, 3), cache=cache)  # a chunk after a cache takes the masked way
        assert (logits.shape, logits.device) == ((2, 3, CONFIG.vocab_size), device)
        assert cache.length == 5 + 4 + 3


def test_the_equations_run_on_cuda() -> None:
    with fake_cuda() as device:
        model = build_model(CONFIG, seed=0, device=device)
        weights = equations.paper_weights(dict(model.named_parameters()), CONFIG.n_layer, CONFIG.n_head)
        logits = equations.forward(tokens_on(device)[0], weights, CONFIG.layer_norm_epsilon)
        assert logits.device == device
        distribution = equations.next_token_distribution(logits[-1], tau=0.8, k=5)
        assert distribution.device == device
        logits.sum().backward()
        assert model.token_embedding.weight.grad is not None
        assert model.token_embedding.weight.grad.device == device


def residual_with_positions_on_the_cpu(
    self: GPT2, tokens: torch.Tensor, *, cache: Cache | None = None
) -> torch.Tensor:
    """The paper's commonest failure: positions by ``arange``, which is on the CPU unless told otherwise."""
    x_BTD = self.token_embedding(tokens) + self.position_embedding(torch.arange(tokens.shape[1]))
    for layer, block in enumerate(self.blocks):
        x_BTD = block(x_BTD, layer, cache)
    normed_BTD: torch.Tensor = self.final_norm(x_BTD)
    return normed_BTD


def residual_indexing_with_the_cpu(
    self: GPT2, tokens: torch.Tensor, *, cache: Cache | None = None
) -> torch.Tensor:
    """A CPU index into a CUDA matrix, which torch allows, at the price of a transfer in every call."""
    x_BTD = self.token_embedding(tokens) + self.position_embedding.weight[torch.arange(tokens.shape[1])]
    normed_BTD: torch.Tensor = self.final_norm(x_BTD)
    return normed_BTD


@pytest.mark.parametrize("planted", [residual_with_positions_on_the_cpu, residual_indexing_with_the_cpu])
def test_planted_cpu_arange_is_caught(planted: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT2, "residual", planted)
    on_the_cpu = torch.zeros(2, 9, dtype=torch.long)
    assert build_model(CONFIG, seed=0, device="cpu")(on_the_cpu).isfinite().all(), "harmless on the CPU"
    with fake_cuda() as device:
        model = build_model(CONFIG, seed=0, device=device)
        with pytest.raises(RuntimeError, match="on tensors of cpu and cuda"):
            model(tokens_on(device))


def test_tokens_on_the_cpu_are_caught() -> None:
    with fake_cuda() as device:
        model = build_model(CONFIG, seed=0, device=device)
        with pytest.raises(RuntimeError, match="on tensors of cpu and cuda"):
            model(tokens_on(torch.device("cpu")))
