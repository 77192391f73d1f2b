from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import TINY, LetterTokenizer, random_weights, save_tiny

from gptwo.base.errors import CheckpointError, StorageError
from gptwo.checkpoint.atomic_folder import in_place_or_aside
from gptwo.checkpoint.manifest import looks_whole
from gptwo.checkpoint.store import (
    TrainingState,
    is_whole,
    load_training_state,
    newest_whole,
    save_checkpoint,
    verify,
)
from gptwo.checkpoint.weights import load_weights
from gptwo.tokenizer import build_byte

FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
    "training.safetensors",
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def seed_of(folder: Path) -> int:
    """Which ``save_tiny`` this whole checkpoint is, weights and training state alike."""
    verify(folder)
    seed = load_training_state(folder).info["seed"]
    assert isinstance(seed, int)
    for name, tensor in random_weights(TINY, seed).items():
        assert torch.equal(load_weights(folder, device="cpu")[name], tensor)
    return seed


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "new" / "folders" / "model", seed=3, step=7)
    assert folder == tmp_path / "new" / "folders" / "model"
    assert names(folder) == FILES
    assert names(folder.parent) == ["model"]
    assert seed_of(folder) == 3
    assert is_whole(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (10, 10)


def test_a_model_alone(tmp_path: Path) -> None:
    folder = save_checkpoint(
        tmp_path / "model", config=TINY, weights=random_weights(TINY, 1), tokenizer=None, training=None
    )
    assert names(folder) == ["config.json", "generation_config.json", "manifest.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] is None
    with pytest.raises(
        CheckpointError, match=r"has no training\.json; expected a checkpoint of a gptwo training run"
    ):
        load_training_state(folder)


def test_the_training_state_is_kept_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "rng/cpu": torch.get_rng_state(),
        "moment/blocks.0.mlp.up.weight": torch.randn(3, 4, dtype=torch.bfloat16).t(),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "step": torch.tensor(12345.0),
    }
    info = {"seed": 2**70, "loss": 0.1 + 0.2, "name": "Kiến Trúc", "nested": {"list": [1, None, True]}}
    save_checkpoint(
        tmp_path / "model",
        config=TINY,
        weights=random_weights(TINY, 1),
        tokenizer=None,
        training=TrainingState(9, tensors, info),
    )
    state = load_training_state(tmp_path / "model")
    assert (state.step, state.info) == (9, info)
    assert state.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert state.tensors[name].shape == tensor.shape
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (state.tensors[name], tensor)]
        assert torch.equal(*bits)


@pytest.mark.parametrize("damage", [{"step": "9", "info": {}}, {"step": 9}, {"step": 9, "info": []}])
def test_a_damaged_training_state_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    folder = save_tiny(tmp_path / "model", seed=1)
    (folder / "training.json").write_text(json.dumps(damage))
    with pytest.raises(CheckpointError, match=r"training\.json is damaged"):
        load_training_state(folder)


def test_weights_that_are_not_the_configs_are_refused(tmp_path: Path) -> None:
    weights = random_weights(TINY, 1)
    missing = {name: t for name, t in weights.items() if name != "final_norm.bias"}
    for wrong, said in [
        (missing, "final_norm.bias is missing"),
        ({**weights, "final_norm.bias": torch.ones(5)}, r"final_norm.bias has shape \(5,\); expected \(6,\)"),
        ({**weights, "more": torch.ones(5)}, "more with shape"),
        ({**weights, "final_norm.bias": torch.ones(6).half()}, "float16 and float32; expected one dtype"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            save_checkpoint(tmp_path / "model", config=TINY, weights=wrong, tokenizer=None, training=None)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_verify_names_the_file(tmp_path: Path, name: str) -> None:
    folder = save_tiny(tmp_path / "model", seed=1)
    content = (folder / name).read_bytes()

    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    (folder / name).write_bytes(altered)
    with pytest.raises(CheckpointError, match=rf"{name} was altered"):
        verify(folder)
    assert not is_whole(folder)
    assert looks_whole(folder)  # the cheap check sees sizes only

    (folder / name).write_bytes(content[:-1])
    with pytest.raises(
        CheckpointError, match=rf"{name} has {len(content) - 1} bytes; expected {len(content)}"
    ):
        verify(folder)
    assert not looks_whole(folder)

    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing"):
        verify(folder)
    assert not looks_whole(folder)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, r"manifest\.json is missing"),
        ({"format": "gptwo checkpoint", "version": 2, "files": {}}, "version 2; expected .* version 1"),
        ({"format": "other", "version": 1, "files": {}}, "'other' version 1; expected"),
        ({"format": "gptwo checkpoint", "version": 1, "files": {"a": {"bytes": 1}}}, "is damaged"),
        ({"format": "gptwo checkpoint", "version": 1, "files": []}, "is damaged"),
        ({"format": "gptwo checkpoint", "version": 1}, "is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, manifest: object, said: str) -> None:
    folder = save_tiny(tmp_path / "model", seed=1)
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=said):
        verify(folder)
    assert not looks_whole(folder)


def test_the_manifest_is_what_sha256sum_says(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", seed=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: (record["bytes"], record["sha256"]) for name, record in manifest["files"].items()} == {
        name: (len(content := (folder / name).read_bytes()), hashlib.sha256(content).hexdigest())
        for name in FILES
        if name != "manifest.json"
    }


def test_saving_again_replaces(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        assert seed_of(save_tiny(tmp_path / "model", seed)) == seed
        assert names(tmp_path) == ["model"]


def test_a_system_that_writes_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    assert seed_of(save_tiny(tmp_path / "model", 1)) == 1


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", 1)
    (tmp_path / "latest").symlink_to("model")
    save_tiny(tmp_path / "latest", 2)
    assert (tmp_path / "latest").is_symlink()
    assert seed_of(tmp_path / "model") == 2


def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("years")
    with pytest.raises(CheckpointError, match=r"holds 'thesis\.txt', which is no part of a checkpoint"):
        save_tiny(tmp_path / "documents", 1)
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        save_tiny(tmp_path / "file", 1)
    assert (tmp_path / "documents" / "thesis.txt").read_text() == "years"
    assert names(tmp_path) == ["documents", "file"]


def test_an_empty_folder_and_a_checkpoint_from_elsewhere_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_tiny(tmp_path / "model", 1)
    (tmp_path / "model" / "manifest.json").unlink()
    assert seed_of(save_tiny(tmp_path / "model", 2)) == 2


# --- where a replacement was cut off ---------------------------------------------------------------------------


def test_one_set_aside_is_found_until_the_next_save(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", 1).rename(tmp_path / ".old-model")
    assert in_place_or_aside(tmp_path / "model") == tmp_path / ".old-model"
    assert seed_of(in_place_or_aside(tmp_path / "model")) == 1
    assert load_training_state(tmp_path / "model").info == {"seed": 1}
    save_tiny(tmp_path / "model", 2)
    assert in_place_or_aside(tmp_path / "model") == tmp_path / "model"
    assert names(tmp_path) == ["model"]


def test_of_one_aside_and_one_in_place_the_whole_one_outlives_a_failing_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "model", 1).rename(tmp_path / ".old-model")
    (save_tiny(tmp_path / "fresh", 2)).rename(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged since")
    monkeypatch.setattr(os, "rename", refusing(errno.EIO))
    with pytest.raises(StorageError):
        save_tiny(tmp_path / "model", 3)
    assert seed_of(in_place_or_aside(tmp_path / "model")) == 1


# --- what processes that were killed leave ---------------------------------------------------------------------


def ended_process_id() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_folders_of_dead_processes_are_cleaned(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead = tmp_path / f".tmp-step-00000001-{ended_process_id()}@{host}"
    own = tmp_path / f".tmp-model-{os.getpid()}@{host}"
    elsewhere_old = tmp_path / f".tmp-step-00000002-{ended_process_id()}@other-{host}"
    alive = tmp_path / f".tmp-step-00000003-{os.getppid()}@{host}"
    elsewhere = tmp_path / f".tmp-step-00000004-{ended_process_id()}@other-{host}"
    impossible = tmp_path / f".tmp-step-00000005-{10**30}@{host}"
    strange = tmp_path / ".tmp-mine"
    for folder in (dead, own, elsewhere_old, alive, elsewhere, impossible, strange):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in (elsewhere_old / "model.safetensors", elsewhere_old):
        os.utime(path, (two_days_ago, two_days_ago))
    save_tiny(tmp_path / "model", 1)
    assert names(tmp_path) == sorted(["model", alive.name, elsewhere.name, strange.name])


# --- what the disk refuses -------------------------------------------------------------------------------------


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("function", "number", "said"),
    [
        ("write", errno.ENOSPC, "make room or choose another disk"),
        ("fsync", errno.EIO, "check the disk"),
        ("mkdir", errno.EROFS, "choose a folder that can be written"),
        ("mkdir", errno.EACCES, "choose a folder that can be written"),
        ("rename", errno.EIO, "check the disk"),
        ("write", errno.EDQUOT, "make room or choose another disk"),
    ],
)
@pytest.mark.parametrize("replacing", [True, False])
def test_a_refusing_disk_leaves_what_was(
    tmp_path: Path, function: str, number: int, said: str, replacing: bool
) -> None:
    previous = save_tiny(tmp_path / "run" / "checkpoints" / "step-00000001", 1)
    target = previous if replacing else previous.parent / "step-00000002"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, function, refusing(number))
        with pytest.raises(StorageError) as caught:
            save_tiny(target, 2)
    message = str(caught.value)
    assert message.startswith(f"cannot save {target}: {os.strerror(number)} (it needs ")
    assert said in message
    assert " are free)" in message
    assert "\n" not in message
    assert names(tmp_path / "run" / "checkpoints") == ["step-00000001"]
    assert newest_whole(tmp_path / "run") == previous
    assert seed_of(previous) == 1


def test_a_tokenizer_that_meets_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", refusing(errno.ENOSPC))
    with pytest.raises(
        StorageError, match=rf"^cannot save {tmp_path}/model: No space left on device \(it needs"
    ):
        save_checkpoint(
            tmp_path / "model",
            config=TINY,
            weights=random_weights(TINY, 1),
            tokenizer=build_byte(),
            training=None,
        )
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        save_tiny(tmp_path / "file" / "model", 1)


def test_ctrl_c_leaves_what_was(tmp_path: Path) -> None:
    class Impatient(LetterTokenizer):
        def save(self, folder: Path) -> None:
            super().save(folder)
            raise KeyboardInterrupt

    save_tiny(tmp_path / "model", 1)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(
            tmp_path / "model",
            config=TINY,
            weights=random_weights(TINY, 2),
            tokenizer=Impatient(),
            training=None,
        )
    assert names(tmp_path) == ["model"]
    assert seed_of(tmp_path / "model") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or sys.platform != "linux":
        pytest.skip("needs Linux's mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root outside a restricted container")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    previous = save_tiny(small_disk / "run" / "checkpoints" / "step-00000001", 1)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192))
    with pytest.raises(
        StorageError, match=r"No space left on device \(it needs [\d,]+ bytes, [\d,]+ are free\)"
    ):
        save_tiny(small_disk / "run" / "checkpoints" / "step-00000002", 2)
    with pytest.raises(StorageError, match="No space left on device"):
        save_tiny(previous, 3)
    assert names(previous.parent) == ["step-00000001"]
    assert newest_whole(small_disk / "run") == previous
    assert seed_of(previous) == 1
    filler.unlink()
    assert seed_of(save_tiny(previous.parent / "step-00000002", 2)) == 2


# --- what must have reached the disk, and when -----------------------------------------------------------------


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="needs /proc/self/fd to see which file is flushed"
)
def test_everything_is_flushed_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, temporary = tmp_path, tmp_path / f".tmp-model-{os.getpid()}@{socket.gethostname()}"
    real_fsync, real_rename = os.fsync, os.rename
    events: list[tuple[str, str]] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        size = path.stat().st_size if path.is_file() else len(names(path))
        events.append((path.name, f"flushed with {size}"))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        if source == temporary:
            for name in FILES:
                flushed = events.index((name, f"flushed with {(source / name).stat().st_size}"))
                assert flushed <= events.index(("manifest.json", f"flushed with {size_of_manifest(source)}"))
            assert events[-1] == (temporary.name, f"flushed with {len(FILES)}")
            events.append(("", "renamed"))
        real_rename(source, target)

    def size_of_manifest(folder: Path) -> int:
        return (folder / "manifest.json").stat().st_size

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    save_tiny(parent / "model", 1)
    assert events[-2:] == [("", "renamed"), (parent.name, "flushed with 1")]
