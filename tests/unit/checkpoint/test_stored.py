"""Reading a folder's weights without torch; what is refused is tested where torch reads them too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoint import TINY, random_weights, save_tiny

from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.stored import stored_arrays, stored_tensors
from gptwo.checkpoint.tensor_header import encoded_header, read_header
from gptwo.checkpoint.weights import released_tensors

WITHOUT_TORCH = (
    "gptwo.checkpoint.stored",
    "gptwo.kernels.layout",
    "gptwo.infer.packed_cache",
    "gptwo.infer.quantize",
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout == "False\n"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_arrays_are_the_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save_tiny(tmp_path / "tiny", 1)
    released = released_tensors(TINY, random_weights(TINY, 5, dtype))
    save_file({name: t.contiguous() for name, t in released.items()}, folder / "model.safetensors")
    table = parameter_table(TINY)
    arrays = stored_arrays(stored_tensors(folder, table))
    assert list(arrays) == [row.ours for row in table]
    for row in table:
        expected = released[row.released].contiguous()
        bits = (
            expected.view(torch.int16).numpy().view(np.uint16)
            if dtype == torch.bfloat16
            else expected.numpy()
        )
        assert arrays[row.ours].dtype == bits.dtype
        assert np.array_equal(arrays[row.ours], bits), row.ours
        assert not arrays[row.ours].flags.writeable


@pytest.mark.parametrize("alignment", [8, 64])
def test_a_header_says_what_was_put_into_it(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "file.safetensors"
    for extra in range(70):  # every remainder of the header's length
        head = encoded_header(
            {"a": ("F32", (2, 3), 24), "b": ("U8", (5,), 5), "none": ("F16", (0, 4), 0)},
            {"what": "x" * extra},
            alignment=alignment,
        )
        path.write_bytes(head + bytes(29))
        header = read_header(path)
        assert header.data_begin == len(head)
        assert len(head) % alignment == 0
        assert header.metadata == {"what": "x" * extra}
        a, b, none = (header.tensors[name] for name in ("a", "b", "none"))
        assert (a.dtype, a.shape, a.begin, a.end) == ("F32", (2, 3), len(head), len(head) + 24)
        assert (b.dtype, b.shape, b.begin, b.end) == ("U8", (5,), len(head) + 24, len(head) + 29)
        assert none.begin == none.end
