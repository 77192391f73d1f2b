"""How long a pass or a step will take, and how much memory, before it runs: ``costs`` times what a device does.

The parts are added up one by one: products at the speed of their shapes, attention at that of its length, what is
element by element, the optimizer, and what every layer and call costs beside its arithmetic. Nothing is fitted to whole
steps; what was measured is the parts (``torch_speeds``, ``native_speeds``).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, cast

from gptwo.config import GPT2Config
from gptwo.costs import (
    HEAD_LOGITS,
    KVFormat,
    OptimizerName,
    TrainingDtype,
    WeightFormat,
    forward_operations,
    kv_position_bytes,
    matrix_bytes,
    matrix_format,
    muon_batches,
    parameter_count,
    query_key_pairs,
    serving_memory,
    training_flops,
    training_memory,
)
from gptwo.infer.formats import KV_DTYPES
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.speeds import (
    DIRECTIONS,
    FORWARD_OPERATIONS,
    FORWARD_OPERATIONS_OF_LAYER,
    NativeSpeeds,
    TorchSpeeds,
    matmul_flops_per_s,
    operation_s,
)

# ``native/model.cpp``: rows that go through the layers together. ``train/muon.py``: iterations.
_ROWS, _MUON_ITERATIONS = 256, 3


_Parts = defaultdict[str, float]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a pass, a token or a step, and the bytes that the process takes at its peak.

    ``parts`` are the seconds by what they go to. ``floor_seconds``: if each operation ran at its ceiling and nothing
    else took time. ``bound_by``: "arithmetic", "memory", or "overhead", whatever most of the time goes to.
    """

    seconds: float
    floor_seconds: float
    bound_by: Literal["arithmetic", "memory", "overhead"]
    parts: dict[str, float]
    memory: dict[str, int]

    @property
    def peak_memory_bytes(self) -> int:
        return sum(self.memory.values())


def predict_forward(
    config: GPT2Config,
    ceilings: Ceilings,
    *,
    kind: Literal["prefill", "decode"],
    batch: int = 1,
    tokens: int = 1,
    past: int = 0,
    engine: Literal["native", "torch"] = "native",
    dtype: str = "fp32",
    kv_dtype: str | None = None,
) -> Prediction:
    """One pass of an engine: ``tokens`` of each of ``batch`` texts read after ``past``, or one more token written.

    A prefill has logits of the last token of each text alone. ``kv_dtype`` None is what the engine takes by itself.
    """
    new = tokens if kind == "prefill" else 1
    weights = _nearest(dtype)
    kv = (
        cast(KVFormat, kv_dtype)
        if kv_dtype
        else cast(KVFormat, KV_DTYPES[weights] if engine == "native" else weights)
    )
    steps = forward_operations(
        config, batch=batch, tokens=new, past=past, last_only=True, weights=weights, kv=kv
    )
    arithmetic = sum(step.flops for step in steps) / matmul_flops_per_s(ceilings, dtype)
    moved = sum(step.weight_bytes + step.kv_bytes for step in steps) / ceilings.read_bytes_per_s
    floor = sum(
        max(
            step.flops / matmul_flops_per_s(ceilings, dtype),
            (step.weight_bytes + step.kv_bytes) / ceilings.read_bytes_per_s,
        )
        for step in steps
    )
    if engine == "native":
        parts = _native_parts(config, ceilings, batch=batch, new=new, past=past, weights=weights, kv=kv)
    else:
        parts = _torch_parts(config, ceilings, batch=batch, new=new, past=past, dtype=dtype, kv=kv)
    memory = serving_memory(
        config, slots=batch, tokens=past + new, rows=batch * max(new, past), weights=weights, kv=kv,
        native=engine == "native",
    )  # fmt: skip
    seconds = sum(parts.values())
    return Prediction(
        seconds=seconds,
        floor_seconds=floor,
        bound_by=_bound_by(parts["overhead"], seconds, arithmetic=arithmetic, memory=moved),
        parts=parts,
        memory={"process": _process_bytes(ceilings, engine), **memory},
    )


def _native_parts(
    config: GPT2Config,
    ceilings: Ceilings,
    *,
    batch: int,
    new: int,
    past: int,
    weights: WeightFormat,
    kv: KVFormat,
) -> dict[str, float]:
    D, L, V = config.n_embd, config.n_layer, config.vocab_size
    speeds = NativeSpeeds(ceilings, config, weights)
    rows, parts = batch * new, _Parts(float)
    # In the last layer only the rows whose logits are wanted go on after their keys and values.
    narrows, rest = rows > batch, speeds.block_bytes - speeds.qkv_bytes
    for first in range(0, rows, _ROWS):
        together = min(_ROWS, rows - first)
        parts["products"] += (L - narrows) * speeds.weight_s(speeds.block_bytes, together)
        parts["products"] += narrows * speeds.weight_s(speeds.qkv_bytes, together)
        parts["overhead"] += L * speeds.layer_s
    if narrows:
        parts["products"] += speeds.weight_s(rest, min(_ROWS, batch))
    head = matrix_bytes(matrix_format("token_embedding.weight", weights), V, D)
    for first in range(0, batch, _ROWS):
        parts["head"] += speeds.head_s(head, min(_ROWS, batch - first))
    if new == 1:
        kept = 2 * L * batch * (past + 1) * kv_position_bytes(config, kv)
        parts["attention"] += speeds.decode_attention_s(kept)
    else:
        pairs = (L - 1) * query_key_pairs(new, past) + past + new
        parts["attention"] += speeds.prefill_attention_s(batch * pairs * D)
    parts["overhead"] += speeds.call_s
    return dict(parts)


def _torch_parts(
    config: GPT2Config,
    ceilings: Ceilings,
    *,
    batch: int,
    new: int,
    past: int,
    dtype: str,
    kv: KVFormat,
) -> dict[str, float]:
    D, F, L, V = config.n_embd, config.mlp_width, config.n_layer, config.vocab_size
    speeds, rows, parts = TorchSpeeds(ceilings, dtype), batch * new, _Parts(float)
    H, K = config.n_head, config.head_width
    size = 4 if _nearest(dtype) == "fp32" else 2
    for name, of_weights, of_rows in (
        ("products", L * (4 * D * D + 2 * D * F), rows),
        ("head", V * D, batch),
    ):
        products = speeds.product_s(2 * of_rows * of_weights, rows=of_rows, width=D)
        parts[name] += max(products, size * of_weights / ceilings.read_bytes_per_s)
    pairs = L * H * batch * query_key_pairs(new, past)
    kept = 2 * L * batch * (past + new) * kv_position_bytes(config, kv)
    parts["attention"] += max(
        speeds.attention_s(pairs, head_width=K, tokens=past + new), kept / ceilings.read_bytes_per_s
    )
    parts["element-wise"] += (
        L
        * rows
        * (2 * D * speeds.value_s("norm") + F * speeds.value_s("gelu") + 6 * D * speeds.value_s("add"))
    )
    operations = FORWARD_OPERATIONS + L * FORWARD_OPERATIONS_OF_LAYER
    parts["overhead"] += operations * operation_s(ceilings)
    return dict(parts)


def predict_training_step(
    config: GPT2Config,
    ceilings: Ceilings,
    *,
    sequences: int,
    micro_batch: int | None = None,
    tokens: int | None = None,
    dtype: str = "fp32",
    checkpoint_activations: bool = False,
    optimizer: OptimizerName = "adamw",
) -> Prediction:
    """A step of ``gptwo train`` on ``sequences`` of T tokens (C unless given), ``micro_batch`` (all) at a time."""
    D, F, L, V, H = config.n_embd, config.mlp_width, config.n_layer, config.vocab_size, config.n_head
    T = config.context if tokens is None else tokens
    at_once = min(micro_batch or sequences, sequences)
    passes = -(-sequences // at_once)
    on_cpu = not ceilings.device.startswith("cuda")
    place: Literal["cpu", "cuda"] = "cpu" if on_cpu else "cuda"
    speeds, parts = TorchSpeeds(ceilings, dtype), _Parts(float)
    N, rows = sequences * T, at_once * T
    matrices = L * (4 * D * D + 2 * D * F)
    forwards = 2 if checkpoint_activations else 1
    head_rows = min(rows, max(1, HEAD_LOGITS[place] // V))
    for direction in DIRECTIONS:
        times = forwards if direction == "forward" else 1
        parts["products"] += times * speeds.product_s(
            2 * N * matrices, rows=rows, width=D, direction=direction
        )
    parts["head"] += speeds.head_s(N, rows_at_once=head_rows, vocabulary=V, width=D)
    pairs, K = L * H * sequences * query_key_pairs(T, 0), config.head_width
    parts["attention"] += forwards * speeds.attention_s(pairs, head_width=K, tokens=T)
    parts["attention"] += speeds.attention_s(pairs, head_width=K, tokens=T, backward=True)
    parts["attention"] += speeds.join_s(N * L * D)
    # On a CPU in fp32 norm and GELU are computed once more in the backward pass (model/fused_linear.py).
    again = forwards + (1 if on_cpu and dtype == "fp32" else 0)
    norm, gelu, add = (speeds.value_s(what) for what in ("norm", "gelu", "add"))
    parts["element-wise"] += N * (2 * L + 1) * D * (again * norm + speeds.value_s("norm_backward"))
    parts["element-wise"] += N * L * F * ((again - 1) * gelu + speeds.value_s("gelu_backward"))
    # Residuals, forward and backward; and the sums that are the biases' gradients, which read and write nothing.
    parts["element-wise"] += N * L * (4 * D + (5 * D + F) / 3) * add
    if config.dropout > 0:
        # Two masks; and on a CPU attention without a kernel that drops: squares of scores, written and read again.
        parts["element-wise"] += N * L * (4 * D + (14 * H * T if on_cpu else 0)) * add
    parameters = parameter_count(config)
    parts["optimizer"] += parameters * speeds.value_s("adamw")
    if optimizer == "muon":
        parts["optimizer"] += _muon_s(config, speeds)
    parts["element-wise"] += (passes - 1) * parameters * 12 / ceilings.copy_bytes_per_s
    parts["overhead"] += passes * L * speeds.layer_s + speeds.step_s
    seconds = sum(parts.values())
    flops, ceiling = training_flops(config, batch=sequences, tokens=T), matmul_flops_per_s(ceilings, dtype)
    # Weights are read forward and backward, gradients written, and AdamW reads all four and writes three of them.
    moved = 4 * parameters * (3 * passes + 7) / ceilings.read_bytes_per_s
    memory = training_memory(
        config, micro_batch=at_once, tokens=T, micro_batches=passes, optimizer=optimizer,
        checkpoint_activations=checkpoint_activations, fused=on_cpu and dtype == "fp32", device=place,
        dtype=cast(TrainingDtype, dtype),
    )  # fmt: skip
    return Prediction(
        seconds=seconds,
        floor_seconds=max(flops / ceiling, moved),
        bound_by=_bound_by(parts["overhead"], seconds, arithmetic=flops / ceiling, memory=moved),
        parts=dict(parts),
        memory={"process": _process_bytes(ceilings, "train"), **memory},
    )


def _muon_s(config: GPT2Config, speeds: TorchSpeeds) -> float:
    """Seconds of the orthogonalisation of all matrices beyond AdamW's update of as many: 4 r² c + 2 r³ an iteration."""
    seconds = 0.0
    for (r, c), count in muon_batches(config).items():
        flops = count * _MUON_ITERATIONS * (4 * r * r * c + 2 * r**3)
        seconds += speeds.product_s(flops, rows=r, width=c, direction="weight_gradient")
        # Directions, their stack, its norm and quotient, and the update.
        seconds += count * r * c * 5 * speeds.value_s("add")
    return seconds


def _process_bytes(ceilings: Ceilings, what: str) -> int:
    """What a process takes beside the model; 0 where it was not measured."""
    return ceilings.process_bytes.get(what, 0)


def _bound_by(
    overhead: float, seconds: float, *, arithmetic: float, memory: float
) -> Literal["arithmetic", "memory", "overhead"]:
    if overhead > seconds / 2:
        return "overhead"
    return "arithmetic" if arithmetic > memory else "memory"


def _nearest(dtype: str) -> WeightFormat:
    """The format of ``costs`` that is this one, or has as many bytes."""
    known: dict[str, WeightFormat] = {"bf16": "bf16", "fp16": "bf16", "int8": "int8", "int4": "int4"}
    return known.get(dtype, "fp32")
