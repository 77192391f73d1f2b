"""The plain C interface of the native library, as ctypes has it: structures and signatures. Pointers are addresses."""

from __future__ import annotations

import ctypes
import functools
import sysconfig
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from gptwo.base.errors import NativeLibraryError

_INTERFACE = 2
DTYPES = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
"""``Dtype`` of native/types.h."""


class MatrixStruct(Structure):
    """``Matrix`` of native/types.h."""

    _fields_ = (
        ("data", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("dtype", c_int32),
    )


class BlockStruct(Structure):
    """``Block`` of native/model.h."""

    _fields_ = (
        ("attention_norm_weight", c_void_p),
        ("attention_norm_bias", c_void_p),
        ("qkv", MatrixStruct),
        ("output", MatrixStruct),
        ("mlp_norm_weight", c_void_p),
        ("mlp_norm_bias", c_void_p),
        ("up", MatrixStruct),
        ("down", MatrixStruct),
    )


class ModelStruct(Structure):
    """``Model`` of native/model.h."""

    _fields_ = (
        ("layers", c_int32),
        ("heads", c_int32),
        ("width", c_int32),
        ("mlp_width", c_int32),
        ("vocabulary", c_int32),
        ("epsilon", c_float),
        ("embedding", MatrixStruct),
        ("positions", c_void_p),
        ("final_norm_weight", c_void_p),
        ("final_norm_bias", c_void_p),
        ("blocks", POINTER(BlockStruct)),
    )


class CacheStruct(Structure):
    """``Cache`` of native/types.h."""

    _fields_ = (
        ("data", c_void_p),
        ("dtype", c_int32),
        ("blocks", c_int32),
        ("heads", c_int32),
        ("head_width", c_int32),
    )


class SegmentStruct(Structure):
    """``Segment`` of native/model.h."""

    _fields_ = (("tokens", c_int32), ("start", c_int32), ("table", c_void_p))


class TopStruct(Structure):
    """``Top`` of native/head.h."""

    _fields_ = (("k", c_int64), ("ids", c_void_p), ("logits", c_void_p), ("log_sum_exp", c_void_p))


class ChoiceStruct(Structure):
    """``Choice`` of native/choose.h."""

    _fields_ = (
        ("temperature", c_double),
        ("top_k", c_int64),
        ("top_p", c_double),
        ("min_p", c_double),
        ("u", c_double),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gptwo_interface": (c_int32, ()),
    "gptwo_instruction_set": (c_char_p, (c_int32,)),
    "gptwo_open": (c_void_p, (c_char_p, c_int32)),
    "gptwo_close": (None, (c_void_p,)),
    "gptwo_forward": (
        c_int32,
        (
            c_void_p,
            POINTER(ModelStruct),
            POINTER(CacheStruct),
            POINTER(SegmentStruct),
            c_int64,
            c_void_p,
            c_void_p,
            c_int64,
            c_void_p,
            POINTER(TopStruct),
        ),
    ),
    "gptwo_cache_bytes": (c_int64, (POINTER(CacheStruct), c_int64)),
    "gptwo_copy_block": (None, (POINTER(CacheStruct), c_int64, c_int64, c_int64)),
    "gptwo_top": (c_int32, (c_void_p, c_void_p, c_int64, c_int64, POINTER(TopStruct))),
    "gptwo_choose": (
        c_int32,
        (c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int64, POINTER(ChoiceStruct)),
    ),
    "gptwo_head": (None, (c_void_p, POINTER(MatrixStruct), c_void_p, c_int64, POINTER(TopStruct))),
    "gptwo_linear": (None, (c_void_p, POINTER(MatrixStruct), c_void_p, c_int64, c_int32, c_void_p, c_void_p)),
    "gptwo_layer_norm": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_int64, c_int64, c_void_p)),
    "gptwo_quantize": (None, (c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_void_p)),
    "gptwo_matrix_row": (None, (c_void_p, POINTER(MatrixStruct), c_int64, c_void_p)),
    "gptwo_attention": (
        None,
        (
            c_void_p,
            POINTER(CacheStruct),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_void_p,
            c_void_p,
            c_void_p,
        ),
    ),
    "gptwo_hash": (c_uint64, (c_void_p, c_void_p, c_int64)),
    "gptwo_read_bandwidth": (c_double, (c_void_p, c_void_p, c_int64, c_int32)),
    "gptwo_multiply_add_peak": (c_double, (c_void_p, c_int32)),
}


def timed_forward(library: ctypes.CDLL) -> Any:
    """``gptwo_forward`` with the times of its steps. ``NativeLibraryError`` of an older build."""
    try:
        function = library.gptwo_forward_timed
    except AttributeError:
        raise NativeLibraryError(
            "the native kernels were built before their steps could be timed; install gptwo again"
        ) from None
    result, arguments = _SIGNATURES["gptwo_forward"]
    function.restype, function.argtypes = result, (*arguments, c_void_p)
    return function


@functools.cache
def native_library() -> ctypes.CDLL:
    """The library, loaded on first use. ``NativeLibraryError`` where it was not built or does not load."""
    path = Path(__file__).with_name("_native" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if not path.exists():
        raise NativeLibraryError(
            "the native kernels are not built (no C++ compiler was found when gptwo was installed); "
            "expected a compiler such as g++ or clang++; install one, then gptwo again, or use engine=torch"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeLibraryError(
            f"the native kernels do not load ({error}); install gptwo again on this machine"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.gptwo_interface() != _INTERFACE:
        raise NativeLibraryError("the native kernels were built for another version; install gptwo again")
    return library
