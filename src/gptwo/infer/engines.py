"""The table of engines, and which of them ``auto`` takes. No torch until an engine needs it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gptwo.base.errors import ConfigError, NativeLibraryError
from gptwo.checkpoint.layout import packed_file
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import is_adapter, read_config
from gptwo.checkpoint.stored import stored_tensors
from gptwo.infer.engine import Engine
from gptwo.kernels.library import instruction_sets

_log = logging.getLogger(__name__)
# The widest head that the kernels' buffers hold: MOST_K of native/kernels.inl.
MOST_HEAD_WIDTH = 256
_SIGNS = (Path("/dev/kfd"), Path("/dev/dxg"))


class EngineEntry(NamedTuple):
    """An engine of the table: the dtypes of its weights, those of keys and values where it lets one choose (else they
    are as it computes), and ``load(folder, device, dtype, threads, kv_dtype)``."""

    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    load: Callable[[Path, str, str | None, int | None, str | None], Engine]


class EngineChoice(NamedTuple):
    """The engine to take, and in a line why ``auto`` passed the native one over; None where it did not."""

    name: str
    reason: str | None


def _load_native(
    folder: Path, device: str, dtype: str | None, threads: int | None, kv_dtype: str | None
) -> Engine:
    from gptwo.infer.native_engine import NativeEngine

    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"the native engine runs on the cpu, not on {device!r}; leave the device out, or use engine=torch"
        )
    return NativeEngine.load(folder, dtype=dtype, threads=threads, kv_dtype=kv_dtype)


def _load_torch(
    folder: Path, device: str, dtype: str | None, threads: int | None, kv_dtype: str | None
) -> Engine:
    from gptwo.infer.torch_engine import TorchEngine

    return TorchEngine.load(folder, device=device, dtype=dtype, threads=threads)


# The contract test runs over this table: an engine is tested by being here.
ENGINES: dict[str, EngineEntry] = {
    "native": EngineEntry(("fp32", "bf16", "int8", "int4"), ("fp32", "bf16", "int8"), _load_native),
    "torch": EngineEntry(("fp32", "bf16", "fp16", "fp64"), (), _load_torch),
}


def load_engine(
    folder: Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    kv_dtype: str | None = None,
) -> Engine:
    """The model in ``folder``, on the engine of that name, or on the one that ``choose_engine`` takes.

    ``threads`` and ``kv_dtype`` None leave these to the engine. Raises ``ConfigError`` for an unknown name, and what
    the engine raises for a device, dtype or folder.
    """
    choice = choose_engine(folder, engine=engine, device=device, dtype=dtype, kv_dtype=kv_dtype)
    return load_chosen(folder, choice, device=device, dtype=dtype, threads=threads, kv_dtype=kv_dtype)


def load_chosen(
    folder: Path,
    choice: EngineChoice,
    *,
    device: str,
    dtype: str | None,
    threads: int | None,
    kv_dtype: str | None,
) -> Engine:
    """``load_engine`` after ``choose_engine``, for those who keep its reason."""
    name, reason = choice
    loaded = ENGINES[name].load(folder, device, dtype, threads, kv_dtype)
    _log.info(
        "engine=%s device=%s dtype=%s kv_dtype=%s threads=%s: %s%s",
        name,
        device,
        dtype,
        kv_dtype,
        threads,
        loaded.description,
        f" ({reason})" if reason else "",
    )
    return loaded


def choose_engine(
    folder: Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str | None = None,
    kv_dtype: str | None = None,
) -> EngineChoice:
    """The engine of that name; of ``auto``, the native one where it can run this and there is no accelerator.

    Raises ``ConfigError`` for an unknown name, and for a dtype that no such engine has; ``NativeLibraryError`` for a
    folder of ``gptwo quantize`` where the kernels were not built; ``CheckpointError`` for a folder that is not whole.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ConfigError(f"there is no engine {engine!r}; expected auto or one of {', '.join(ENGINES)}")
    entries = [ENGINES[engine]] if engine != "auto" else list(ENGINES.values())
    which = "any" if engine == "auto" else f"the {engine}"
    for what, asked, possible in (
        ("dtype", dtype, sorted({name for one in entries for name in one.dtypes})),
        ("kv_dtype", kv_dtype, sorted({name for one in entries for name in one.kv_dtypes})),
    ):
        if asked is not None and short_dtype(asked) not in possible:
            expected = (
                f"one of {', '.join(possible)}" if possible else "none, as it keeps them as it computes"
            )
            raise ConfigError(f"{what} {asked!r} is not possible on {which} engine; expected {expected}")
    if engine != "auto":
        return EngineChoice(engine, None)
    reason = _asked_for_torch(device, dtype) or _why_not_native(folder, device, dtype, kv_dtype)
    if reason and dtype is not None and short_dtype(dtype) not in ENGINES["torch"].dtypes:
        raise ConfigError(f"dtype {dtype} is the native engine's alone, and {reason}; leave the dtype out")
    if reason and kv_dtype is not None:
        raise ConfigError(f"kv_dtype {kv_dtype} is the native engine's alone, and {reason}; leave it out")
    return EngineChoice("torch" if reason else "native", reason)


def short_dtype(name: str) -> str:
    """``fp32`` for torch's names of it, ``float32`` and ``torch.float32``, and so for the others."""
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
    return short.get(name.removeprefix("torch."), name.removeprefix("torch."))


def _asked_for_torch(device: str, dtype: str | None) -> str | None:
    if device not in ("auto", "cpu"):
        return f"the native engine runs on the cpu, and {device} was asked for"
    if dtype is not None and short_dtype(dtype) not in ENGINES["native"].dtypes:
        return f"the native engine does not compute in {dtype}"
    return None


def _why_not_native(folder: Path, device: str, dtype: str | None, kv_dtype: str | None) -> str | None:
    if packed_file(folder) is not None:  # which torch cannot run
        instruction_sets()
        return None
    if is_adapter(folder):
        return "the native engine runs no adapter; gptwo merge makes a model of it"
    if (width := read_config(folder).head_width) > MOST_HEAD_WIDTH:
        return f"the native engine has heads of at most {MOST_HEAD_WIDTH}, not {width}"
    if dtype is None and _is_float64(folder):
        return "the native engine does not compute in float64, as the weights are"
    in_few_bits = dtype is not None and short_dtype(dtype) in ("int8", "int4")
    natives_alone = in_few_bits or kv_dtype is not None
    if device == "auto" and not natives_alone and has_accelerator():
        return "there is an accelerator"
    return _why_not_built()


def _why_not_built() -> str | None:
    try:
        instruction_sets()
    except NativeLibraryError as error:
        return str(error)
    return None


def _is_float64(folder: Path) -> bool:
    stored = stored_tensors(folder, parameter_table(read_config(folder)))
    return any(tensor.record.dtype == "F64" for tensor in stored.values())


def has_accelerator() -> bool:
    """Whether torch would run on another device than the CPU. It is asked only where a sign of one is there.

    Signs are the device files of NVIDIA's and AMD's drivers and of Windows' Linux, and macOS.
    """
    signs = [*Path("/dev").glob("nvidia[0-9]*"), *(path for path in _SIGNS if path.exists())]
    if sys.platform != "darwin" and not signs:
        return False
    from gptwo.base.device import resolve_device

    return resolve_device("auto").type != "cpu"
