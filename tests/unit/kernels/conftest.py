from __future__ import annotations

import pytest

from gptwo.base.errors import NativeLibraryError
from gptwo.kernels.library import Kernels, instruction_sets, open_kernels

try:
    INSTRUCTION_SETS = instruction_sets()
except NativeLibraryError as error:
    INSTRUCTION_SETS = [pytest.param("none", marks=pytest.mark.skip(reason=str(error)))]


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Each instruction set that this machine has, on two threads."""
    return open_kernels(2, str(request.param))
