"""OpenVINO GenAI's ``LLMPipeline``, with its defaults, over a stateful graph written here; NNCF compresses its weights.

int8 has a scale and a zero point per output, int4 a scale per 32 inputs, the embedding's included.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import openvino_genai
from openvino import opset15 as op

from decoding.engines import Written
from decoding.released import Array, Shape, read, read_shape

_COMPRESSION: dict[str, dict[str, Any]] = {
    "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
    "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 32, "all_layers": True},
}


def convert(model: Path, converted: Path, precision: str) -> None:
    """``converted``/openvino_model.xml and .bin."""
    graph = nncf.compress_weights(_graph(read_shape(model), read(model)), **_COMPRESSION[precision])
    openvino.save_model(graph, converted / "openvino_model.xml", compress_to_fp16=False)


def _graph(shape: Shape, weights: dict[str, Array]) -> openvino.Model:
    """Inputs, outputs and states as the pipeline expects them, whose names are its own."""
    K = shape.D // shape.H
    inputs = {
        name: op.parameter([-1, -1], np.int64, name=name)
        for name in ("input_ids", "attention_mask", "position_ids")
    }
    inputs["beam_idx"] = op.parameter([-1], np.int32, name="beam_idx")
    for name, parameter in inputs.items():
        parameter.output(0).set_names({name})
    ids, mask, positions, beam = inputs.values()

    def whole(*values: int) -> Any:
        return op.constant(np.array(values, dtype=np.int64))

    def axis(number: int) -> Any:
        return op.constant(np.array(number, dtype=np.int64))

    def norm(x: Any, name: str) -> Any:
        unit = op.mvn(x, whole(-1), True, shape.epsilon, "INSIDE_SQRT")
        scaled = op.multiply(unit, op.constant(weights[f"{name}.weight"]))
        return op.add(scaled, op.constant(weights[f"{name}.bias"]))

    def linear(x: Any, name: str) -> Any:
        matrix = op.constant(np.ascontiguousarray(weights[f"{name}.weight"].T), name=name)
        return op.add(op.matmul(x, matrix, False, True), op.constant(weights[f"{name}.bias"]))

    embedding = op.constant(weights["wte.weight"], name="wte")
    x = op.add(
        op.gather(embedding, ids, axis(0)), op.gather(op.constant(weights["wpe.weight"]), positions, axis(0))
    )
    keys = op.range(axis(0), op.gather(op.shape_of(mask), axis(1), axis(0)), axis(1), "i64")
    seen_B1TS = op.unsqueeze(op.less_equal(keys, op.unsqueeze(positions, axis(2))), axis(1))
    batch = op.gather(op.shape_of(ids), whole(0), axis(0))
    nothing = op.broadcast(op.constant(np.float32(0)), op.concat([batch, whole(shape.H, 0, K)], 0))
    sinks = []

    def cached(new: Any, name: str) -> Any:
        past = op.read_value(nothing, name, np.float32, openvino.PartialShape([-1, shape.H, -1, K]))
        joined = op.concat([op.gather(past, beam, axis(0)), new], 2)
        sinks.append(op.assign(joined, name))
        return joined

    by_head = whole(0, 2, 1, 3)
    for block in range(shape.L):
        h = f"h.{block}"
        q_k_v = op.split(linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), axis(2), 3).outputs()
        q, k, v = (op.transpose(op.reshape(y, whole(0, 0, shape.H, K), True), by_head) for y in q_k_v)
        mixed = op.scaled_dot_product_attention(q, cached(k, f"{h}.k"), cached(v, f"{h}.v"), seen_B1TS)
        mixed = op.reshape(op.transpose(mixed, by_head), whole(0, 0, shape.D), True)
        x = op.add(x, linear(mixed, f"{h}.attn.c_proj"))
        up = op.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), "tanh")
        x = op.add(x, linear(up, f"{h}.mlp.c_proj"))
    logits = op.matmul(norm(x, "ln_f"), embedding, False, True)
    logits.output(0).set_names({"logits"})
    return openvino.Model([op.result(logits)], sinks, list(inputs.values()), "gpt2")


class OpenVINO:
    def __init__(self, converted: Path, threads: int) -> None:
        self._pipeline = openvino_genai.LLMPipeline(str(converted), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count + 1
        config.ignore_eos = True
        config.eos_token_id = 0  # without a tokenizer it has none, and refuses that
        config.stop_token_ids = {0}
        config.do_sample = False
        began = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        whole_s = time.perf_counter() - began
        times = result.perf_metrics.raw_metrics.m_new_token_times
        decode_s = (times[-1] - times[0]) / 1e3
        return Written(whole_s - decode_s, decode_s, np.array(result.tokens), None)


def load(model: Path, converted: Path, precision: str, threads: int) -> OpenVINO:
    return OpenVINO(converted, threads)
