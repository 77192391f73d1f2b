"""llama.cpp through the C interface of llama-cpp-python, over GGUF files that its own quantizer makes.

Q8_0 and Q4_0 are pure: the embedding, which is the head as well, too. The cache is llama.cpp's own choice (F16).
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from decoding.engines import Written, greedy
from decoding.released import read, read_shape

_FILE_TYPES = {
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}
_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp tells its whole life on stderr."""


def convert(model: Path, converted: Path, precision: str, *, vocabulary: bool = False) -> None:
    """``converted``/model.gguf: F32 by the gguf package, and from it the other types by llama.cpp's quantizer.

    With ``vocabulary`` it can be given text, else ids alone.
    """
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
    target = converted / "model.gguf"
    plain = target if precision == "F32" else converted / "plain.gguf"
    _write_f32(model, plain, vocabulary=vocabulary)
    if plain == target:
        return
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = _FILE_TYPES[precision]
    settings.pure = True
    failed = llama_cpp.llama_model_quantize(str(plain).encode(), str(target).encode(), ctypes.byref(settings))
    plain.unlink()
    if failed:
        raise RuntimeError(f"llama.cpp did not quantize to {precision}: code {failed}")


def _write_f32(model: Path, target: Path, *, vocabulary: bool) -> None:
    shape, tensors = read_shape(model), read(model)
    writer = gguf.GGUFWriter(target, "gpt2")
    writer.add_block_count(shape.L)
    writer.add_context_length(shape.C)
    writer.add_embedding_length(shape.D)
    writer.add_feed_forward_length(shape.F)
    writer.add_head_count(shape.H)
    writer.add_layer_norm_eps(shape.epsilon)
    writer.add_file_type(0)
    writer.add_vocab_size(shape.V)
    if vocabulary:
        _add_vocabulary(writer, model)
    else:
        writer.add_tokenizer_model("no_vocab")
    writer.add_tensor("token_embd.weight", tensors["wte.weight"])
    writer.add_tensor("position_embd.weight", tensors["wpe.weight"])
    for end in ("weight", "bias"):
        writer.add_tensor(f"output_norm.{end}", tensors[f"ln_f.{end}"])
        for block in range(shape.L):
            for theirs, name in _NAMES.items():
                tensor = tensors[f"h.{block}.{theirs}.{end}"]
                writer.add_tensor(f"blk.{block}.{name}.{end}", np.ascontiguousarray(tensor.T))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, model: Path) -> None:
    """GPT-2's byte-level BPE, or another one that splits words as it does, from ``tokenizer.json``."""
    written = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in written["added_tokens"]}
    ids = {**written["model"]["vocab"], **special}
    tokens = sorted(ids, key=lambda token: ids[token])
    merges = written["model"]["merges"]
    if not merges:
        raise RuntimeError("llama.cpp reads no vocabulary without merges, such as one of bytes alone")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(special["<|endoftext|>"])
    writer.add_eos_token_id(special["<|endoftext|>"])
    writer.add_add_bos_token(False)


class LlamaCpp:
    def __init__(self, path: Path, threads: int) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp did not load {path}")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._threads = threads

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        rows, length = len(prompts), len(prompts[0])
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * (length + count + 1)
        settings.n_seq_max = rows
        settings.n_batch = rows * length
        settings.n_threads = settings.n_threads_batch = self._threads
        context = llama_cpp.llama_init_from_model(self._model, settings)
        if not context:
            raise RuntimeError(f"llama.cpp gave no context for {rows} x {length + count} tokens")
        batch = llama_cpp.llama_batch_init(rows * length, 0, 1)
        past = 0

        def step(tokens_BT: list[list[int]]) -> np.ndarray:
            nonlocal past
            last = []
            index = 0
            for row, tokens in enumerate(tokens_BT):
                for offset, token in enumerate(tokens):
                    batch.token[index] = token
                    batch.pos[index] = past + offset
                    batch.n_seq_id[index] = 1
                    batch.seq_id[index][0] = row
                    batch.logits[index] = offset == len(tokens) - 1
                    index += 1
                last.append(index - 1)
            batch.n_tokens = index
            past += len(tokens_BT[0])
            if code := llama_cpp.llama_decode(context, batch):
                raise RuntimeError(f"llama.cpp did not decode: code {code}")
            found = (llama_cpp.llama_get_logits_ith(context, i) for i in last)
            return np.stack([np.ctypeslib.as_array(logits, shape=(self._vocab_size,)) for logits in found])

        try:
            return greedy(
                lambda: step(prompts), lambda last: step(last[:, None].tolist()).argmax(axis=-1), count
            )
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def load(model: Path, converted: Path, precision: str, threads: int) -> LlamaCpp:
    return LlamaCpp(converted / "model.gguf", threads)
