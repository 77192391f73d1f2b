"""The formulas of costs against the model itself, an operation counter, and sums done in another way."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import (
    cost_table,
    forward_flops,
    kv_cache_bytes,
    parameter_count,
    parameter_rows,
    training_flops,
    weight_bytes,
)
from gptwo.model import GPT2, equations
from model_cases import LONG, SMALL, PlainCache, random_model, random_tokens

CONFIGS = {**PRESETS, **SMALL, "long": LONG}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
each_small = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
each_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS.keys())
TINY = GPT2Config(n_layer=2, n_head=2, n_embd=4, n_inner=3, context=5, vocab_size=7)


# --- parameters and bytes ---------------------------------------------------------------------------------------------


@each_config
def test_parameters_are_those_of_the_model(config: GPT2Config) -> None:
    model = GPT2(config, device="meta", dtype=torch.bfloat16)
    rows = parameter_rows(config, bytes_per_value=2)
    assert [(row.name, row.shape) for row in rows] == [
        (n, tuple(p.shape)) for n, p in model.named_parameters()
    ]
    assert [(row.parameters, row.bytes) for row in rows] == [
        (p.numel(), p.nbytes) for p in model.parameters()
    ]
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    assert weight_bytes(config, bytes_per_value=2) == sum(p.nbytes for p in model.parameters())


def test_published_counts() -> None:
    counts = {name: parameter_count(PRESETS[name]) for name in PRESETS if name.startswith("gpt2")}
    assert counts == {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    assert parameter_count(PRESETS["gpt2"], tied=False) == 163_037_184
    assert weight_bytes(PRESETS["gpt2"]) == 4 * 124_439_808


@each_small
def test_kv_cache_bytes_are_those_of_a_cache(config: GPT2Config) -> None:
    cache = PlainCache()
    model = random_model(config, dtype=torch.float32)
    with torch.no_grad():
        model(random_tokens(config, 3, 11), cache=cache)
    held = sum(t.numel() * t.element_size() for kept in (cache.k, cache.v) for t in kept.values())
    assert kv_cache_bytes(config, batch=3, tokens=11) == held
    assert kv_cache_bytes(config, batch=3, tokens=11, bytes_per_value=1) == held // 4


# --- floating-point operations ----------------------------------------------------------------------------------------


@each_small
def test_decoding_flops_equal_a_count_of_every_step(config: GPT2Config) -> None:
    """Token by token nothing is masked, so that an operation counter counts exactly what causal attention needs."""
    model = random_model(config)
    tokens = random_tokens(config, 2, 12)
    cache, total = PlainCache(), 0
    # The counter knows matrix products, and no CPU attention but the one made of them.
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        for past in range(12):
            with FlopCounterMode(display=False) as counter:
                model(tokens[:, past : past + 1], cache=cache)
            assert counter.get_total_flops() == forward_flops(config, batch=2, tokens=1, past=past)
            total += counter.get_total_flops()
    assert total == forward_flops(config, batch=2, tokens=12)
    assert total == cost_table(config, tokens=12).flops_per_token * 2 * 12


def one_hot_flops(config: GPT2Config, T: int) -> int:
    """Δ E, which the equations multiply and the model looks up."""
    return 2 * T * config.vocab_size * config.n_embd


def masked_flops(config: GPT2Config, T: int) -> int:
    """Scores above the diagonal and their mix: T(T - 1)/2 pairs, which the equations multiply and then mask."""
    return config.n_layer * config.n_head * (T * (T - 1) // 2) * 2 * (2 * config.head_width)


def counted_equations(config: GPT2Config, T: int, *, backward: bool) -> int:
    """Matrix-product FLOPs that running equations.py takes, on meta tensors, by an operation counter."""
    parameters = dict(GPT2(config, device="meta").named_parameters())
    weights = equations.paper_weights(parameters, config.n_layer, config.n_head)
    with FlopCounterMode(display=False) as counter:
        logits = equations.forward(torch.zeros(T, dtype=torch.long, device="meta"), weights, 1e-5)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("config", "T"),
    [
        *(pytest.param(config, T, id=f"{name}-T{T}") for name, config in SMALL.items() for T in (1, 2, 63)),
        *(
            pytest.param(config, T, id=f"{name}-T{T}")
            for name, config in PRESETS.items()
            for T in (63, config.context)
        ),
        pytest.param(LONG, 1024, id="long-T1024"),
    ],
)
def test_forward_flops_equal_the_equations_less_what_they_do_in_vain(config: GPT2Config, T: int) -> None:
    counted = counted_equations(config, T, backward=False)
    assert counted - one_hot_flops(config, T) - masked_flops(config, T) == forward_flops(
        config, batch=1, tokens=T
    )


@each_config
def test_training_flops_equal_the_equations_less_what_they_do_in_vain(config: GPT2Config) -> None:
    T = 13
    counted = counted_equations(config, T, backward=True)
    # Δ needs no gradient, so its product has one in the backward pass (that of E) and not two.
    in_vain = 2 * one_hot_flops(config, T) + 3 * masked_flops(config, T)
    assert counted - in_vain == training_flops(config, batch=1, tokens=T)
    assert training_flops(config, batch=5, tokens=T) == 5 * training_flops(config, batch=1, tokens=T)


def test_forward_flops_by_hand() -> None:
    # D=4, F=3, V=7, L=2. Per token and block: qkv 2·4·12=96, output 2·4·4=32, MLP 2·(2·4·3)=48; head 2·4·7=56.
    # Three tokens after two: they see 3, 4 and 5 keys, each pair 2·4 for the score and 2·4 for the mix.
    assert (
        forward_flops(TINY, batch=1, tokens=3, past=2) == 3 * (2 * (96 + 32 + 48) + 56) + 2 * (3 + 4 + 5) * 16
    )
    assert forward_flops(TINY, batch=1, tokens=3, past=2, last_only=True) == (
        3 * 2 * (96 + 32 + 48) + 56 + 2 * (3 + 4 + 5) * 16
    )


@each_preset
def test_chunks_add_up(config: GPT2Config) -> None:
    whole = forward_flops(config, batch=4, tokens=60)
    chunks = [(0, 17), (17, 1), (18, 42)]
    assert whole == sum(forward_flops(config, batch=4, tokens=n, past=past) for past, n in chunks)


# --- the table of `gptwo info` ----------------------------------------------------------------------------------------


def test_table_by_hand() -> None:
    table = cost_table(TINY, bytes_per_value=2)
    rows = {row.name: row for row in table.rows}
    assert table.tokens == 5
    assert rows["token_embedding.weight"].flops_per_token == 2 * 7 * 4  # as the head; the look-up is free
    assert rows["position_embedding.weight"].flops_per_token == 0
    assert rows["blocks.1.attention.qkv.weight"].flops_per_token == 2 * 12 * 4
    assert rows["blocks.1.attention.qkv.bias"].flops_per_token == 0
    # 1 + 2 + 3 + 4 + 5 keys over 5 tokens are 3 on average, at 2·4 FLOPs each.
    for name, shape in (("scores", (2, 5, 5)), ("mix", (2, 5, 2))):
        row = rows[f"blocks.1.attention.{name}"]
        assert (row.shape, row.parameters, row.bytes, row.flops_per_token) == (shape, 0, 0, 3 * 2 * 4)


@each_config
def test_table_is_the_parameters_with_attention_where_it_happens(config: GPT2Config) -> None:
    table = cost_table(config)
    names = [row.name for row in table.rows]
    products = [name for name in names if name.endswith((".scores", ".mix"))]
    assert len(products) == 2 * config.n_layer
    for i in range(config.n_layer):
        at = names.index(f"blocks.{i}.attention.scores")
        assert names[at - 1 : at + 3] == [
            f"blocks.{i}.attention.{part}" for part in ("qkv.bias", "scores", "mix", "output.weight")
        ]
    assert [row for row in table.rows if row.name not in products] == parameter_rows(config)
    assert table.parameters == sum(row.parameters for row in table.rows) == parameter_count(config)
    assert table.untied_parameters == parameter_count(config, tied=False)
    assert table.bytes == sum(row.bytes for row in table.rows) == weight_bytes(config)
    assert table.flops_per_token == sum(row.flops_per_token for row in table.rows)
    C = config.context
    assert table.flops_per_token * C == forward_flops(config, batch=1, tokens=C)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_lengths_that_cannot_be(lengths: tuple[int, int, int]) -> None:
    batch, tokens, past = lengths
    with pytest.raises(ConfigError, match=f"^batch={batch}, tokens={tokens}, past={past} is not possible; "):
        forward_flops(TINY, batch=batch, tokens=tokens, past=past)


def test_past_the_context() -> None:
    message = "^6 tokens are more than the model's context of 5; expected at most that$"
    with pytest.raises(ContextLengthError, match=message):
        forward_flops(TINY, batch=1, tokens=3, past=3)
    with pytest.raises(ContextLengthError, match=message):
        kv_cache_bytes(TINY, batch=1, tokens=6)
    with pytest.raises(ContextLengthError, match=message):
        cost_table(TINY, tokens=6)
