"""ONNX Runtime over a graph written here: its own fused attention with a cache that stays in place, its own quantizer.

int8 is ``quantize_dynamic`` of every matrix product, the head's included, with a scale per column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from decoding.engines import Written, greedy
from decoding.released import Shape, read, read_shape

_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def convert(model: Path, converted: Path, precision: str) -> None:
    """``converted``/model.onnx, of which the last position's logits come out."""
    shape, tensors = read_shape(model), read(model)
    target = converted / "model.onnx"
    plain = target if precision == "fp32" else converted / "plain.onnx"
    onnx.save(_graph(shape, tensors), plain)
    if plain != target:
        quantize_dynamic(
            plain, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=True,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": _FLOAT},
        )  # fmt: skip
        plain.unlink()


def _graph(shape: Shape, tensors: dict[str, Any]) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights = dict(tensors)
    weights["head.weight"] = np.ascontiguousarray(tensors["wte.weight"].T)
    weights["last"] = np.array(-1, dtype=np.int64)

    def node(
        operation: str, inputs: list[str], outputs: str | list[str], domain: str = "", **settings: Any
    ) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        nodes.append(helper.make_node(operation, inputs, names, name=names[0], domain=domain, **settings))
        return names[0]

    def norm(x: str, name: str, out: str) -> str:
        return node(
            "LayerNormalization", [x, f"{name}.weight", f"{name}.bias"], out, axis=-1, epsilon=shape.epsilon
        )

    def linear(x: str, name: str) -> str:
        product = node("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return node("Add", [product, f"{name}.bias"], f"{name}.out")

    tokens = node("Gather", ["wte.weight", "input_ids"], "tokens")
    positions = node("Gather", ["wpe.weight", "position_ids"], "positions")
    x = node("Add", [tokens, positions], "x")
    for block in range(shape.L):
        h = f"h.{block}"
        qkv = linear(norm(x, f"{h}.ln_1", f"{h}.a"), f"{h}.attn.c_attn")
        q_k_v = [f"{h}.{name}" for name in "qkv"]
        node("Split", [qkv], q_k_v, axis=-1, num_outputs=3)
        mixed = node(
            "GroupQueryAttention",
            [*q_k_v, f"past_k.{block}", f"past_v.{block}", "last_index", "total"],
            [f"{h}.mixed", f"present_k.{block}", f"present_v.{block}"],
            domain="com.microsoft", num_heads=shape.H, kv_num_heads=shape.H, do_rotary=0,
        )  # fmt: skip
        x = node("Add", [x, linear(mixed, f"{h}.attn.c_proj")], f"{h}.x")
        up = linear(norm(x, f"{h}.ln_2", f"{h}.m"), f"{h}.mlp.c_fc")
        active = node("FastGelu", [up], f"{h}.active", domain="com.microsoft")
        x = node("Add", [x, linear(active, f"{h}.mlp.c_proj")], f"{h}.y")
    final = node("Gather", [norm(x, "ln_f", "final"), "last"], "final_last", axis=1)
    node("MatMul", [final, "head.weight"], "logits")

    cache = ["B", shape.H, "S", shape.D // shape.H]
    inputs = [
        helper.make_tensor_value_info("input_ids", _INT64, ["B", "T"]),
        helper.make_tensor_value_info("position_ids", _INT64, ["B", "T"]),
        helper.make_tensor_value_info("last_index", _INT32, ["B"]),
        helper.make_tensor_value_info("total", _INT32, [1]),
        *(
            helper.make_tensor_value_info(f"past_{n}.{i}", _FLOAT, cache)
            for i in range(shape.L)
            for n in "kv"
        ),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", _FLOAT, ["B", shape.V]),
        *(
            helper.make_tensor_value_info(f"present_{n}.{i}", _FLOAT, cache)
            for i in range(shape.L)
            for n in "kv"
        ),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "gpt2", inputs, outputs, constants)
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


class OnnxRuntime:
    def __init__(self, path: Path, shape: Shape, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._shape = shape

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        rows, length, shape = len(prompts), len(prompts[0]), self._shape
        binding = self._session.io_binding()
        binding.bind_output("logits")
        cache_shape = (rows, shape.H, length + count, shape.D // shape.H)
        for block in range(shape.L):
            for name in "kv":
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(cache_shape, dtype=np.float32))
                binding.bind_ortvalue_input(f"past_{name}.{block}", cache)
                binding.bind_ortvalue_output(f"present_{name}.{block}", cache)
        past = 0

        def step(tokens_BT: np.ndarray[Any, Any]) -> Any:
            nonlocal past
            T = tokens_BT.shape[1]
            positions = np.arange(past, past + T, dtype=np.int64)
            past += T
            inputs = {  # bound, not copied: they must live until the run is over
                "input_ids": tokens_BT,
                "position_ids": np.tile(positions, (rows, 1)),
                "last_index": np.full(rows, past - 1, dtype=np.int32),
                "total": np.array([past], dtype=np.int32),
            }
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            self._session.run_with_iobinding(binding)
            return binding.get_outputs()[0].numpy().copy()  # the next run writes over it

        return greedy(
            lambda: step(np.array(prompts, dtype=np.int64)),
            lambda last: step(last[:, None]).argmax(axis=-1),
            count,
        )


def load(model: Path, converted: Path, precision: str, threads: int) -> OnnxRuntime:
    return OnnxRuntime(converted / "model.onnx", read_shape(model), threads)
