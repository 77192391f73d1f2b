"""Whether a file is in memory, and that it is not after it was to be forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptwo.perf import page_cache
from gptwo.perf.page_cache import make_cold, read_seconds, resident_share


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    return tmp_path / "file"


def test_a_file_that_was_forgotten_is_in_memory_after_it_is_read(file: Path) -> None:
    if resident_share(file) is None:
        pytest.skip("this system has no mincore")
    assert resident_share(file) == 1.0
    if (reason := make_cold(file)) is not None:
        pytest.skip(reason)  # a file system in memory, as tmpfs
    assert read_seconds(file) > 0
    assert resident_share(file) == 1.0


def test_a_file_that_stays_in_memory_is_not_cold(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "resident_share", lambda path: 0.4)
    assert make_cold(file) == "not cold: the system keeps 40% of the file in memory"


def test_a_system_that_cannot_forget_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.posix_fadvise", raising=False)
    assert str(make_cold(file)).startswith("not cold: this system cannot")
