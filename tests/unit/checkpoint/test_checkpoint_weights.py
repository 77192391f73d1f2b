from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import TINY, random_weights

import gptwo
from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import config_to_hf
from gptwo.checkpoint.tensor_file import read_tensor_file, tensor_file_chunks
from gptwo.checkpoint.weights import load_model, load_weights, released_state, released_tensors
from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2

OURS = random_weights(TINY, seed=0)
RELEASED = {name: tensor.contiguous() for name, tensor in released_tensors(TINY, OURS).items()}


def folder_with(folder: Path, tensors: dict[str, torch.Tensor] | None, config: GPT2Config = TINY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_to_hf(config, eot_id=None, dtype="float32")))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_ours(weights: dict[str, torch.Tensor]) -> None:
    assert list(weights) == list(OURS)
    for name, tensor in weights.items():
        assert torch.equal(tensor, OURS[name]), name
        assert tensor.is_contiguous(), name


def test_names_with_and_without_prefix(tmp_path: Path) -> None:
    assert_ours(load_weights(folder_with(tmp_path / "with", RELEASED), device="cpu"))
    bare = {name.removeprefix("transformer."): tensor for name, tensor in RELEASED.items()}
    assert_ours(load_weights(folder_with(tmp_path / "without", bare), device="cpu"))


def test_mask_buffers_and_a_tied_head_are_passed_over(tmp_path: Path) -> None:
    more = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 5, 5, dtype=torch.uint8),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
        "lm_head.weight": RELEASED["transformer.wte.weight"].clone(),
    }
    assert_ours(load_weights(folder_with(tmp_path, {**RELEASED, **more}), device="cpu"))


def test_shards_are_put_together(tmp_path: Path) -> None:
    folder_with(tmp_path, None)
    names = sorted(RELEASED)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: RELEASED[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_ours(load_weights(tmp_path, device="cpu"))

    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors is missing"):
        load_weights(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, r"names '\.\./elsewhere\.safetensors'; expected"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"metadata": {}}, "has no weight_map"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, index: dict[str, object], said: str) -> None:
    (folder_with(tmp_path, None) / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=said):
        load_weights(tmp_path, device="cpu")


def test_a_tensor_in_two_places_is_refused(tmp_path: Path) -> None:
    twice = {**RELEASED, "wpe.weight": torch.zeros(5, 6)}
    with pytest.raises(CheckpointError, match=r"holds transformer\.wpe\.weight twice"):
        load_weights(folder_with(tmp_path, twice), device="cpu")


NORM = "transformer.h.1.ln_2.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({NORM: None}, f"{NORM} is missing; expected it with shape (6,)"),
        ({NORM: torch.ones(7)}, f"{NORM} has shape (7,); expected (6,)"),
        (
            {"transformer.h.2.ln_1.weight": torch.ones(6)},
            "transformer.h.2.ln_1.weight with shape (6,) is no part",
        ),
        ({"score.weight": torch.ones(2, 6)}, "transformer.score.weight with shape (2, 6) is no part"),
        ({"lm_head.weight": torch.ones(12, 6)}, "lm_head.weight with shape (12, 6) is no part"),
        # Ours is (out, in), the released one (in, out): the wrong way round must not load.
        ({"transformer.h.0.mlp.c_fc.weight": torch.ones(9, 6)}, "has shape (9, 6); expected (6, 9)"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_named(
    tmp_path: Path, change: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = {name: t for name, t in {**RELEASED, **change}.items() if t is not None}
    with pytest.raises(CheckpointError) as caught:
        load_weights(folder_with(tmp_path, tensors), device="cpu")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept_bytes", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept_bytes: int) -> None:
    path = folder_with(tmp_path, RELEASED) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors file"):
        load_weights(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "MODEL.PTH"])
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    (folder_with(tmp_path, None) / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        CheckpointError, match=rf"only as {name}, a pickle, which is never opened .*save_pretrained"
    ):
        load_weights(tmp_path, device="cpu")
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    (folder_with(tmp_path, RELEASED) / "training_args.bin").write_bytes(b"not even a pickle")
    assert_ours(load_weights(tmp_path, device="cpu"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_weights(folder_with(tmp_path, None), device="cpu")


def test_nothing_in_the_package_can_open_a_pickle() -> None:
    modules = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    found = []
    for path in Path(gptwo.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {(node.module or "").partition(".")[0]}
                if node.module == "torch":
                    imported |= {"pickle" for alias in node.names if alias.name == "load"}
            elif isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name):
                imported = {"pickle"} if node.value.id == "torch" else set()
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                imported = set() if ast.unparse(node.value) == "False" else {"pickle"}
            else:
                continue
            if imported & modules:
                found.append(f"{path}: {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_the_files_unless_one_is_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = folder_with(tmp_path, {name: tensor.to(dtype) for name, tensor in RELEASED.items()})
    assert {t.dtype for t in load_weights(folder, device="cpu").values()} == {dtype}
    asked = load_weights(folder, device="cpu", dtype=torch.float64)
    for name, tensor in asked.items():
        assert torch.equal(tensor, OURS[name].to(dtype).to(torch.float64)), name


def test_mixed_dtypes_want_a_word(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {**RELEASED, NORM: RELEASED[NORM].half()})
    with pytest.raises(
        CheckpointError, match=r"holds weights as F16 and F32; expected one of them throughout"
    ):
        load_weights(folder, device="cpu")
    assert {t.dtype for t in load_weights(folder, device="cpu", dtype=torch.float32).values()} == {
        torch.float32
    }


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_integers_are_no_weights(tmp_path: Path, dtype: torch.dtype | None) -> None:
    folder = folder_with(tmp_path, {**RELEASED, NORM: RELEASED[NORM].to(torch.int8)})
    with pytest.raises(
        CheckpointError, match=rf"{NORM} is I8; expected one of F64, F32, F16, BF16; .*quantized"
    ):
        load_weights(folder, device="cpu", dtype=dtype)


def test_loaded_tensors_do_not_follow_the_file(tmp_path: Path) -> None:
    weights = load_weights(folder_with(tmp_path, RELEASED), device="cpu")
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_ours(weights)


def test_load_model_builds_without_initialising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path, RELEASED)
    devices = []
    monkeypatch.setattr(
        torch.nn.init, "kaiming_uniform_", lambda tensor, *_, **__: devices.append(tensor.device.type)
    )
    model = load_model(folder, device="cpu")
    assert set(devices) == {"meta"}
    assert_ours(dict(model.state_dict()))
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.requires_grad for p in model.parameters())
    assert model.config == TINY


def test_released_state_is_what_the_library_saves(tmp_path: Path) -> None:
    model = GPT2(TINY)
    model.load_state_dict(OURS)
    state = released_state(model)
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        row.released: row.released_shape for row in parameter_table(TINY)
    }
    save_file(state, tmp_path / "by_library.safetensors", metadata={"format": "pt"})
    (tmp_path / "by_us.safetensors").write_bytes(b"".join(tensor_file_chunks(released_tensors(TINY, OURS))))
    assert (tmp_path / "by_us.safetensors").read_bytes() == (tmp_path / "by_library.safetensors").read_bytes()


def test_the_stream_keeps_every_dtype_shape_and_stride(tmp_path: Path) -> None:
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    dtypes += [
        torch.uint8,
        torch.bool,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ]
    tensors = {str(dtype): torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "none": torch.zeros(0)}
    tensors |= {"view": torch.arange(12.0).reshape(3, 4).t()[1:], "leaf": torch.ones(2, requires_grad=True)}
    path = tmp_path / "all.safetensors"
    path.write_bytes(b"".join(tensor_file_chunks(tensors)))
    for read in (load_file(path), read_tensor_file(path, device="cpu")):
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype, name
            assert read[name].shape == tensor.shape, name
            assert read[name].tolist() == tensor.tolist(), name


def test_an_empty_file_of_tensors(tmp_path: Path) -> None:
    (tmp_path / "none.safetensors").write_bytes(b"".join(tensor_file_chunks({})))
    assert read_tensor_file(tmp_path / "none.safetensors", device="cpu") == {}
