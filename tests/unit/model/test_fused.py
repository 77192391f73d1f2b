"""The fused layers and the chunked head equal the plain ones in loss and every gradient, and step aside when asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptwo.config import GPT2Config
from gptwo.model import GPT2, NOT_PREDICTED, equations, fused_linear, head, products
from gptwo.model.gelu import gelu, gelu_again
from model_cases import SMALL, assert_gradients_close, gradients, random_model, random_tokens
from tolerance import FLOAT64, Tolerance

CONFIG = SMALL["odd widths"]
FLOAT32 = Tolerance(atol=2e-5, rtol=2e-5, why="fp32 sums in another order over D <= 84, N <= 126, V <= 101")


@pytest.fixture(autouse=True)
def _fused_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_linear, "_SMALLEST", 0)


@contextmanager
def plain_layers() -> Iterator[None]:
    """Every layer left to torch, and a head over all rows at once, through autograd."""

    def whole(x_ND: Tensor, E_VD: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x_ND, E_VD), targets_N, ignore_index=NOT_PREDICTED, reduction="sum")

    with (
        patch("gptwo.model.fused_linear.applies", lambda *_: False),
        patch("gptwo.model.gpt2.applies", lambda *_: False),
        patch("gptwo.model.gpt2.summed_cross_entropy", whole),
    ):
        yield


def masked_batch(config: GPT2Config) -> tuple[Tensor, Tensor]:
    tokens, targets = random_tokens(config, 2, 63), random_tokens(config, 2, 63, seed=2)
    targets[0, 5:40] = NOT_PREDICTED
    targets[1, -1] = NOT_PREDICTED
    return tokens, targets


def loss_and_gradients(
    model: GPT2, batch: tuple[Tensor, ...], **options: object
) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    loss = model.train().loss(*batch, **options)
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_the_plain_layers(
    dtype: torch.dtype, checkpointing: bool, dropout: float, reduction: str
) -> None:
    """With targets that are not predicted, dropout drawn from the same seed, and a head of seven rows at a time."""
    config = replace(CONFIG, dropout=dropout)
    batch = masked_batch(config)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model = random_model(config, dtype=dtype, checkpoint_activations=checkpointing)
        return loss_and_gradients(model, batch, reduction=reduction)

    with patch.dict(head._LOGITS, cpu=7 * CONFIG.vocab_size):
        loss, ours = run()
    with plain_layers():
        expected_loss, expected = run()
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    tolerance.assert_close(loss / expected_loss, 1.0, "loss")
    assert_gradients_close(ours, expected, tolerance)


def test_the_fused_layers_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare the plain layers with themselves."""
    calls: list[str] = []
    fused = fused_linear._fused
    monkeypatch.setattr(fused_linear, "_fused", lambda *a: (calls.append(a[5]), fused(*a))[1])
    random_model(CONFIG).loss(*masked_batch(CONFIG))
    assert calls == ["norm", "nothing", "norm", "gelu"] * CONFIG.n_layer


def test_a_small_product_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in writing, token by token, where calling it would take longer than it saves."""
    x = torch.randn(2, CONFIG.n_embd, dtype=torch.float64)
    layer = nn.Linear(CONFIG.n_embd, 3, dtype=torch.float64)
    monkeypatch.setattr(fused_linear, "_SMALLEST", x.numel())
    assert fused_linear.applies(x, layer)
    assert not fused_linear.applies(x[:1], layer)


def test_packed_documents_equal_the_plain_layers() -> None:
    batch = masked_batch(CONFIG)
    documents = torch.arange(63).expand(2, -1) // 10
    loss, ours = loss_and_gradients(random_model(CONFIG), batch, documents=documents)
    with plain_layers():
        expected_loss, expected = loss_and_gradients(random_model(CONFIG), batch, documents=documents)
    FLOAT64.assert_close(loss, expected_loss, "loss")
    assert_gradients_close(ours, expected, FLOAT64)


@pytest.mark.parametrize("frozen", ["weight", "bias", "blocks", "token_embedding", "mlp_norm", "blocks.1"])
def test_frozen_parameters_get_no_gradient_and_change_no_other(frozen: str) -> None:
    batch = masked_batch(CONFIG)
    _, expected = loss_and_gradients(random_model(CONFIG), batch)
    model = random_model(CONFIG)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    model.train().loss(*batch).backward()
    for name, parameter in model.named_parameters():
        if frozen in name:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            FLOAT64.assert_close(parameter.grad, expected[name], name)


class Doubled(nn.Linear):
    """A layer that somebody put in the place of a linear one."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return 2 * super().forward(*inputs)


@pytest.mark.parametrize("name", ["attention.qkv", "attention.output", "mlp.up", "mlp.down"])
def test_a_replaced_or_hooked_layer_is_called(name: str) -> None:
    tokens, _ = masked_batch(CONFIG)
    model = random_model(CONFIG)
    before = model(tokens)
    layer = model.blocks[0].get_submodule(name)
    hook = layer.register_forward_hook(lambda _, __, output: 2 * output)
    hooked = model(tokens)
    hook.remove()
    layer.__class__ = Doubled
    replaced = model(tokens)
    FLOAT64.assert_close(replaced, hooked)
    assert not torch.allclose(replaced, before)


def test_nothing_predicted_is_a_loss_of_zero_and_gradients_of_zero() -> None:
    tokens, targets = masked_batch(CONFIG)
    model = random_model(CONFIG)
    loss, found = loss_and_gradients(
        model, (tokens, torch.full_like(targets, NOT_PREDICTED)), reduction="sum"
    )
    assert loss == 0.0
    assert all(not gradient.any() for gradient in found.values())


def test_a_certain_or_impossible_target_has_its_exact_loss() -> None:
    """Logits of ±1000: a probability that rounds to 0 has a loss of 2000 nats, not of infinity."""
    E = nn.Parameter(torch.tensor([[1000.0], [-1000.0]]))
    x = torch.ones(2, 1, requires_grad=True)
    loss = head.summed_cross_entropy(x, E, torch.tensor([0, 1]))
    assert loss.item() == 2000.0
    loss.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0], [2000.0]]


def test_a_second_backward_pass_is_right_or_refused() -> None:
    """The first pass of a sum adds the look-up's gradient into the head's, which is then not handed out again."""
    batch = masked_batch(CONFIG)
    _, once = loss_and_gradients(random_model(CONFIG), batch)
    model = random_model(CONFIG)
    loss = model.loss(*batch)
    loss.backward(retain_graph=True)
    loss.backward()
    assert_gradients_close(gradients(model), {name: 2 * gradient for name, gradient in once.items()}, FLOAT64)
    loss = model.loss(*batch, reduction="sum")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gelu_and_its_derivative() -> None:
    z = torch.cat(
        [torch.linspace(-12, 12, 4001, dtype=torch.float64), torch.tensor([-300.0, -40.0, 0.0, 40.0, 300.0])]
    )
    z_NF = z.requires_grad_()[:, None]
    expected = equations.gelu(z_NF)
    dg_NF = torch.randn(z_NF.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (dz_NF,) = torch.autograd.grad(expected, z_NF, dg_NF)
    FLOAT64.assert_close(gelu(z_NF.detach()), expected)
    again = gelu_again(z_NF.detach(), dg_NF)
    FLOAT64.assert_close(again, expected)
    FLOAT64.assert_close(dg_NF, dz_NF, "the gradient, in the place of the one from above")


@pytest.mark.parametrize(("N", "inputs", "outputs"), [(1, 1, 1), (63, 21, 64), (130, 768, 5), (7, 5, 1000)])
def test_products_equal_the_formulas(N: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W, b, dy = (
        torch.randn(shape, generator=generator)
        for shape in ((N, inputs), (outputs, inputs), (outputs,), (N, outputs))
    )
    tolerance = Tolerance(
        atol=1e-6, why="fp32 rounding over sums of up to 1000 terms, in units of the largest"
    )
    for actual, expected in (
        (products.linear(x, W, b), x.double() @ W.double().T + b),
        (products.input_gradient(dy, W), dy.double() @ W.double()),
    ):
        tolerance.assert_close(actual / expected.abs().max(), expected / expected.abs().max())


def test_without_a_backward_pass_the_head_computes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_add_product", lambda *_, **__: pytest.fail("a product that nobody asked for"))
    model = random_model(CONFIG)
    tokens, targets = masked_batch(CONFIG)
    with torch.no_grad():
        assert model.loss(tokens, targets).isfinite()
