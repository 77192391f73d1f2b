from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny_checkpoint import save_tiny

from gptwo.base.errors import StorageError
from gptwo.checkpoint.runs import checkpoint_path, list_checkpoints, newest_whole, prune
from gptwo.checkpoint.store import load_training_state


def save_steps(run: Path, *steps: int) -> list[Path]:
    return [save_tiny(checkpoint_path(run, step), seed=step, step=step) for step in steps]


def alter(folder: Path, name: str = "model.safetensors") -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)


def test_where_a_checkpoint_lies(tmp_path: Path) -> None:
    assert checkpoint_path(tmp_path, 1000) == tmp_path / "checkpoints" / "step-00001000"


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    assert newest_whole(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert newest_whole(tmp_path) is None
    assert prune(tmp_path, keep_last=1) == []


def test_the_list_goes_by_step_and_leaves_out_what_is_not_whole(tmp_path: Path) -> None:
    saved = save_steps(tmp_path, 9, 100, 123456789, 20)
    (tmp_path / "checkpoints" / "notes").mkdir()
    (tmp_path / "checkpoints" / ".tmp-step-00000500-1@host").mkdir()
    (saved[1] / "tokenizer.json").unlink()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000009",
        "step-00000020",
        "step-123456789",
    ]
    assert load_training_state(list_checkpoints(tmp_path)[-1]).step == 123456789


def test_the_newest_whole_one_is_found_past_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = save_steps(tmp_path, 1, 2, 3)
    assert newest_whole(tmp_path) == third
    assert caplog.records == []
    alter(third)
    (second / "config.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path) == first
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"passing over checkpoint {third}",
        f"passing over checkpoint {second}",
    ]
    alter(first)
    assert newest_whole(tmp_path) is None


def test_a_reader_of_the_model_does_not_mind_the_training_state(tmp_path: Path) -> None:
    first, second = save_steps(tmp_path, 1, 2)
    alter(second, "training.safetensors")
    assert newest_whole(tmp_path) == first
    assert newest_whole(tmp_path, training=False) == second
    alter(second, "model.safetensors")
    assert newest_whole(tmp_path, training=False) == first


def test_one_set_aside_counts_where_none_is_in_place(tmp_path: Path) -> None:
    first, second = save_steps(tmp_path, 1, 2)
    aside = second.rename(second.parent / f".old-{second.name}")
    assert list_checkpoints(tmp_path) == [first, aside]
    assert newest_whole(tmp_path) == aside
    save_steps(tmp_path, 2)
    save_tiny(aside, seed=5)
    assert list_checkpoints(tmp_path) == [first, second]
    assert newest_whole(tmp_path) == second
    alter(second)
    assert newest_whole(tmp_path) == aside


def test_prune_keeps_the_last_and_the_chosen(tmp_path: Path) -> None:
    saved = save_steps(tmp_path, 1, 2, 3, 4, 5)
    assert prune(tmp_path, keep_last=2, keep=[saved[1]]) == [saved[0], saved[2]]
    assert list_checkpoints(tmp_path) == [saved[1], saved[3], saved[4]]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    assert prune(tmp_path, keep_last=9) == []


def test_prune_never_removes_the_only_whole_one(tmp_path: Path) -> None:
    saved = save_steps(tmp_path, 1, 2, 3, 4)
    alter(saved[3])
    alter(saved[2])
    assert prune(tmp_path, keep_last=1) == [saved[0], saved[2]]
    assert list_checkpoints(tmp_path) == [saved[1], saved[3]]
    assert newest_whole(tmp_path) == saved[1]


def test_prune_where_nothing_is_whole_removes_only_what_is_damaged(tmp_path: Path) -> None:
    saved = save_steps(tmp_path, 1, 2)
    alter(saved[0])
    alter(saved[1])
    assert prune(tmp_path, keep_last=1) == [saved[0]]


def test_prune_wants_to_keep_something(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last=0; expected at least 1"):
        prune(tmp_path, keep_last=0)


def test_prune_says_what_it_cannot_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_steps(tmp_path, 1, 2)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(StorageError, match=rf"cannot remove {saved[0]}: Permission denied"):
        prune(tmp_path, keep_last=1)
    assert newest_whole(tmp_path) == saved[1]
