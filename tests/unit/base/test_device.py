"""A device is the one asked for, or an error in one line; ``auto`` takes the best there is."""

from __future__ import annotations

import pytest
import torch

from gptwo.base.device import resolve_device
from gptwo.base.errors import DeviceError


def machine(patch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Let torch see ``cuda`` CUDA devices, and an Apple GPU or none."""
    patch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    patch.setattr(torch.cuda, "device_count", lambda: cuda)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=True)
    assert resolve_device() == torch.device("cuda", 0)
    machine(monkeypatch, mps=True)
    assert resolve_device("auto") == torch.device("mps")
    machine(monkeypatch)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "index"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), (torch.device("cuda", 1), 1), ("cuda:01", 1)],
)
def test_cuda_always_has_its_index(
    name: str | torch.device, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cuda=2)
    assert resolve_device(name) == torch.device("cuda", index)


def test_the_cpu_is_always_there_and_stays_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1, mps=True)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("mps") == torch.device("mps")


# cuda:300 is cuda:44 to torch.device, and the longest one does not parse there at all.
@pytest.mark.parametrize(
    ("name", "count"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:300", 64), ("cuda:99999999999999999999", 2)],
)
def test_a_cuda_device_that_is_not_there(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=count)
    with pytest.raises(DeviceError) as error:
        resolve_device(name)
    assert str(error.value) == (
        f"device '{name}' is not there: torch {torch.__version__} sees {count} CUDA devices; "
        "use --device cpu, or install a CUDA build of torch and check nvidia-smi"
    )


def test_mps_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=1)
    with pytest.raises(DeviceError) as error:
        resolve_device("mps")
    assert str(error.value) == "device 'mps' is not there: it needs an Apple GPU; use --device cpu"


@pytest.mark.parametrize(
    "name",
    ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "cpu:0", "xpu", "tpu", "cuda\n", "meta"],
)
def test_nonsense_is_unknown_and_the_names_are_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=8, mps=True)
    with pytest.raises(DeviceError) as error:
        resolve_device(name)
    assert str(error.value) == f"device {name!r} is unknown; expected auto, cpu, cuda, cuda:N or mps"
