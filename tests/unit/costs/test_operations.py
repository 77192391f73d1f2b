"""The steps of a forward pass, one by one, against the products that running equations.py makes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import (
    forward_flops,
    forward_operations,
    kv_cache_bytes,
    kv_position_bytes,
    packed_bytes,
    parameter_count,
    parameter_rows,
    weight_bytes,
)
from gptwo.model import GPT2, equations
from model_cases import LONG, SMALL

CONFIGS = {**PRESETS, **SMALL, "long": LONG}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
TINY = GPT2Config(n_layer=2, n_head=2, n_embd=4, n_inner=3, context=5, vocab_size=7)


class Products(TorchDispatchMode):
    """Rows, inner length and columns of every matrix product, in the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int]] = []

    def __torch_dispatch__(  # type: ignore[override] # narrower than torch's
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.mm.default:
            (m, k), (_, n) = args[0].shape, args[1].shape
            self.shapes.append((m, k, n))
        else:
            assert func.overloadpacket not in (
                torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.mv
            ), f"{func} multiplies and is not counted"  # fmt: skip
        return func(*args, **(kwargs or {}))


def products_of_equations(config: GPT2Config, T: int) -> list[tuple[int, int, int]]:
    parameters = dict(GPT2(config, device="meta").named_parameters())
    weights = equations.paper_weights(parameters, config.n_layer, config.n_head)
    with Products() as products, torch.no_grad():
        equations.forward(torch.zeros(T, dtype=torch.long, device="meta"), weights, 1e-5)
    return products.shapes


def counted(config: GPT2Config, T: int) -> dict[str, int]:
    """FLOPs of each step, of the equations' own products: head by head, and attention's without what the mask hides."""
    shapes = iter(products_of_equations(config, T))
    H = config.n_head

    def flops(m: int, k: int, n: int) -> int:
        return 2 * m * k * n

    def visible(m: int, k: int, n: int, inner: int) -> int:
        assert m == T
        assert T in (k, n)
        return 2 * inner * sum(t + 1 for t in range(T))

    found: Counter[str] = Counter()
    one_hot = next(shapes)  # Δ E, which the model looks up
    assert one_hot == (T, config.vocab_size, config.n_embd)
    for i in range(config.n_layer):
        for _ in range(H):
            for _ in "QKV":
                found[f"blocks.{i}.attention.qkv"] += flops(*next(shapes))
            scores = next(shapes)
            found[f"blocks.{i}.attention.scores"] += visible(*scores, inner=scores[1])
            mix = next(shapes)
            found[f"blocks.{i}.attention.mix"] += visible(*mix, inner=mix[2])
        for part in ("attention.output", "mlp.up", "mlp.down"):
            found[f"blocks.{i}.{part}"] += flops(*next(shapes))
    found["head"] += flops(*next(shapes))
    assert next(shapes, None) is None
    return dict(found)


@pytest.mark.parametrize(
    ("config", "T"),
    [
        *(pytest.param(config, T, id=f"{name}-T{T}") for name, config in SMALL.items() for T in (1, 2, 63)),
        *(pytest.param(config, 7, id=f"{name}-T7") for name, config in PRESETS.items()),
    ],
)
def test_each_step_multiplies_as_the_equations_do(config: GPT2Config, T: int) -> None:
    steps = forward_operations(config, batch=1, tokens=T)
    assert {step.name: step.flops for step in steps if step.flops} == counted(config, T)


@each_config
def test_they_add_up(config: GPT2Config) -> None:
    C = config.context
    for lengths in (
        {"batch": 1, "tokens": C},
        {"batch": 3, "tokens": 2, "past": C - 2},
        {"batch": 2, "tokens": C - 1, "last_only": True},
    ):
        steps = forward_operations(config, **lengths)  # type: ignore[arg-type] # of several types
        assert sum(step.flops for step in steps) == forward_flops(config, **lengths)  # type: ignore[arg-type]
        assert sum(step.parameters for step in steps) == parameter_count(config)


@each_config
def test_names_are_the_parameters_in_their_order(config: GPT2Config) -> None:
    """A step that owns parameters is named as they are, and counts them."""
    steps = {step.name: step for step in forward_operations(config, batch=1, tokens=1)}
    owned: Counter[str] = Counter()
    for row in parameter_rows(config):
        owner = "embedding" if "embedding" in row.name else row.name.rsplit(".", 1)[0]
        owned[owner] += row.parameters
    assert owned == {name: step.parameters for name, step in steps.items() if step.parameters}
    assert list(owned) == [name for name, step in steps.items() if step.parameters]


@each_config
def test_a_token_reads_every_weight_once(config: GPT2Config) -> None:
    """In fp32, padding apart: all of E by the head, a row of E and of P by the look-up."""
    D = config.n_embd
    read = sum(step.weight_bytes for step in forward_operations(config, batch=1, tokens=1))
    padding = packed_bytes(config, "fp32") - weight_bytes(config)
    assert padding >= 0
    assert read == weight_bytes(config) + padding - 4 * config.context * D + 8 * D
    # Another token at the same time reads a row of E and one of P more.
    two = sum(step.weight_bytes for step in forward_operations(config, batch=1, tokens=2))
    assert two - read == 8 * D


def test_by_hand() -> None:
    # D=4, F=3, H=2, V=7; two sequences, two tokens after one.
    steps = {step.name: step for step in forward_operations(TINY, batch=2, tokens=2, past=1, kv="int8")}
    assert list(steps)[:11] == [
        "embedding",
        *(
            f"blocks.0.{part}"
            for part in (
                "attention_norm", "attention.qkv", "attention.scores", "attention.softmax", "attention.mix",
                "attention.output", "mlp_norm", "mlp.up", "mlp.gelu", "mlp.down",
            )
        ),
    ]  # fmt: skip
    assert list(steps)[-2:] == ["final_norm", "head"]
    scores = steps["blocks.1.attention.scores"]
    # The queries see 2 and 3 keys: 5 pairs a sequence, 2·4 FLOPs each.
    assert (scores.kind, scores.shape, scores.flops) == ("attention", (2, 2, 2, 3), 2 * 5 * 8)
    # 3 keys of each sequence, 4 values of a byte and a scale of 4 bytes for each head.
    assert scores.kv_bytes == 2 * 3 * (4 + 2 * 4)
    # 2·2 tokens read 4 values each, and 2 heads write 5 scores for each sequence.
    assert scores.activation_bytes == 4 * (2 * 2 * 4 + 2 * 2 * 5)
    qkv = steps["blocks.0.attention.qkv"]
    assert (qkv.shape, qkv.parameters, qkv.flops) == ((2, 2, 12), 60, 2 * 4 * 48)
    assert qkv.kv_bytes == 2 * 2 * 2 * (4 + 2 * 4)
    output = steps["blocks.0.attention.output"]
    assert output.activation_bytes == 4 * 4 * (4 + 4 + 4), "it reads the residual, too"
    # A panel of 32 outputs, of which 12 are: 4 inputs each, and 12 biases.
    assert qkv.weight_bytes == 4 * (32 * 4 + 12)


@pytest.mark.parametrize("kv", ["fp32", "bf16", "int8"])
def test_keys_and_values_are_those_of_the_cache(kv: Any) -> None:
    config = PRESETS["nano"]
    steps = forward_operations(config, batch=3, tokens=1, past=9, kv=kv)
    read = sum(step.kv_bytes for step in steps if step.kind == "attention")
    written = sum(step.kv_bytes for step in steps if step.kind == "product")
    assert read == 2 * config.n_layer * 3 * 10 * kv_position_bytes(config, kv)
    assert written == 2 * config.n_layer * 3 * kv_position_bytes(config, kv)
    if kv == "fp32":
        assert read == kv_cache_bytes(config, batch=3, tokens=10)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
@each_config
def test_packed_bytes_are_those_of_the_native_engine(config: GPT2Config, weights: Any) -> None:
    from gptwo.infer.packed import matrix_dtypes, places

    assert packed_bytes(config, weights) == places(config, matrix_dtypes(config, weights))[-1].end


@pytest.mark.parametrize("kv", ["fp32", "bf16", "int8"])
def test_kept_bytes_are_those_of_the_kernels(kv: Any) -> None:
    """Of heads that need no filling up: 32 positions are a block."""
    from gptwo.infer.engines import _why_not_built

    if _why_not_built():
        pytest.skip("the native kernels are not built; install gptwo where there is a C++ compiler")
    from gptwo.kernels.cache import BLOCK, CacheMemory

    config = PRESETS["gpt2"]
    memory = CacheMemory(
        layers=config.n_layer, heads=config.n_head, head_width=config.head_width, blocks=3, dtype=kv
    )
    assert memory.bytes == 2 * config.n_layer * 3 * BLOCK * kv_position_bytes(config, kv)


def test_parameters_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'gptwo[dev]'")
    for config in CONFIGS.values():
        theirs = transformers.GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.context, n_embd=config.n_embd,
            n_layer=config.n_layer, n_head=config.n_head, n_inner=config.n_inner,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        with torch.device("meta"):
            model = transformers.GPT2LMHeadModel(theirs)
        assert parameter_count(config) == model.num_parameters()


def test_what_cannot_be() -> None:
    with pytest.raises(ContextLengthError, match=r"^6 tokens are more than the model's context of 5"):
        forward_operations(TINY, batch=1, tokens=3, past=3)
    with pytest.raises(
        ConfigError, match=r"^there is no format 'fp8'; expected one of fp32, bf16, int8, int4$"
    ):
        forward_operations(TINY, batch=1, tokens=1, weights="fp8")  # type: ignore[arg-type] # what is tested
    with pytest.raises(ConfigError, match=r"^there is no format 'int4'; expected one of fp32, bf16, int8$"):
        forward_operations(TINY, batch=1, tokens=1, kv="int4")  # type: ignore[arg-type] # what is tested
