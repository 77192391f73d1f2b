"""Adapters between gptwo and peft: the same folder, the same logits; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gptwo
from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.adapter import (
    Base,
    load_adapter,
    merged_weights,
    restore_adapters,
    save_adapter,
    weights_sha256,
)
from gptwo.checkpoint.manifest import verify
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.store import TrainingState, load_training_state, save_checkpoint
from gptwo.checkpoint.weights import load_model, load_weights
from gptwo.config import GPT2Config
from gptwo.model import GPT2, build_model
from gptwo.model.lora import LoraConfig, adapters, add_lora
from gptwo.tokenizer.build import build_byte
from tolerance import Tolerance

# What peft asks of this transformers, which deprecates it; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SHAPE = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=257, n_inner=40, dropout=0.0)
TOKENS = torch.tensor([[72, 101, 108, 108, 111, 256, 7], [1, 2, 3, 4, 5, 6, 7]])
LOGITS = Tolerance(atol=2e-5, rtol=1e-4, why="fp32, x Wᵀ + x Aᵀ Bᵀ against x (W + B A)ᵀ")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = build_model(SHAPE, seed=3, device="cpu")
    return save_checkpoint(
        tmp_path / "base", config=SHAPE, weights=model.state_dict(), tokenizer=build_byte(), training=None
    )


def adapted(base: Path, lora: LoraConfig) -> GPT2:
    """The base with adapters whose B is not zero."""
    model = load_model(base, device="cpu")
    add_lora(model, lora, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, module in adapters(model):
            module.lora_B.normal_(0, 0.2, generator=generator)
    return model.eval()


def save(
    folder: Path, model: GPT2, base: Path, lora: LoraConfig, training: TrainingState | None = None
) -> Path:
    named = Base(str(base), weights_sha256(load_weights(base, device="cpu")))
    return save_adapter(folder, model=model, lora=lora, base=named, tokenizer=build_byte(), training=training)


def transformers_base(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()


ALL = LoraConfig(rank=3, alpha=7.5, dropout=0.1)


@pytest.mark.parametrize("targets", [("qkv",), ("output", "down"), ALL.targets], ids="-".join)
def test_peft_loads_ours(base: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    from peft import PeftModel

    lora = LoraConfig(rank=3, alpha=7.5, targets=targets)
    ours = adapted(base, lora)
    save(tmp_path / "adapter", ours, base, lora)
    theirs = PeftModel.from_pretrained(transformers_base(base), str(tmp_path / "adapter"))
    with torch.no_grad():
        LOGITS.assert_close(ours(TOKENS), theirs(TOKENS).logits, "logits")
        gap = (ours(TOKENS) - load_model(base, device="cpu")(TOKENS)).abs().max()
    assert gap > 0.05, "the adapter does nothing, so nothing is proved"


def peft_adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """An adapter as peft trains and saves it."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    defaults = {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "fan_in_fan_out": True,
    }
    config = PeftConfig(task_type="CAUSAL_LM", **{**defaults, **settings})
    torch.manual_seed(0)
    model = get_peft_model(transformers_base(base), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=3.0)
    for _ in range(3):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return model.eval()


def test_ours_loads_pefts(base: Path, tmp_path: Path) -> None:
    theirs = peft_adapter(base, tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(TOKENS).logits
        gap = (expected - load_model(base, device="cpu")(TOKENS)).abs().max()
    assert gap > 0.05, "peft learned nothing, so nothing is proved"
    model = gptwo.load(tmp_path / "adapter", device="cpu")
    for row, logits in zip(TOKENS, expected, strict=True):
        LOGITS.assert_close(model.logits(row.numpy()), logits, "logits")
    # Into adapters, not merged, as a run would be resumed.
    unmerged = load_model(base, device="cpu")
    add_lora(unmerged, LoraConfig(rank=2, alpha=6), seed=9)
    restore_adapters(unmerged, tmp_path / "adapter")
    with torch.no_grad():
        LOGITS.assert_close(unmerged(TOKENS), expected, "logits")


def test_an_adapter_is_a_model_wherever_one_is_asked_for(base: Path, tmp_path: Path) -> None:
    ours = adapted(base, ALL)
    folder = save(tmp_path / "adapter", ours, base, ALL)
    assert read_config(folder) == SHAPE
    with torch.no_grad():
        LOGITS.assert_close(load_model(folder, device="cpu")(TOKENS), ours(TOKENS), "logits")
    assert gptwo.load(folder, device="cpu").generate("Hi", max_new_tokens=2, seed=0).tokens
    half = load_weights(folder, device="cpu", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert not (folder / "config.json").exists()
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert files < (base / "model.safetensors").stat().st_size / 2


def test_merging_a_half_precision_base_rounds_once(tmp_path: Path) -> None:
    weights = {n: t.bfloat16() for n, t in build_model(SHAPE, seed=3, device="cpu").state_dict().items()}
    base = save_checkpoint(
        tmp_path / "base", config=SHAPE, weights=weights, tokenizer=build_byte(), training=None
    )
    ours = adapted(base, ALL)
    folder = save(tmp_path / "adapter", ours, base, ALL)
    merged = merged_weights(folder, device="cpu")
    name, module = next(iter(adapters(ours)))
    exact = module.weight.double() + ALL.scale * module.lora_B.double() @ module.lora_A.double()
    assert merged[f"{name}.weight"].dtype == torch.bfloat16
    Tolerance(rtol=2**-8, atol=1e-6, why="one rounding to bf16's 8 bits").assert_close(
        merged[f"{name}.weight"], exact
    )


def test_it_is_saved_whole_and_with_its_training(base: Path, tmp_path: Path) -> None:
    state = TrainingState(5, {"moment": torch.ones(2)}, {"seed": 1})
    folder = save(tmp_path / "adapter", adapted(base, ALL), base, ALL, state)
    verify(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "adapter_base.json", "manifest.json"),
        *("tokenizer.json", "tokenizer_config.json", "training.json", "training.safetensors"),
    }
    assert load_training_state(folder).step == 5
    save(folder, adapted(base, ALL), base, ALL)  # in its own place again
    verify(folder)


def test_a_wrong_or_missing_base_is_said(base: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "adapter", adapted(base, ALL), base, ALL)
    moved = tmp_path / "moved"
    shutil.move(base, moved)
    with pytest.raises(
        CheckpointError, match=r"the base of the adapter .*adapter is not there: there is no model"
    ):
        load_weights(folder, device="cpu")
    assert merged_weights(folder, device="cpu", base=moved)
    other = build_model(SHAPE, seed=4, device="cpu").state_dict()
    save_checkpoint(base, config=SHAPE, weights=other, tokenizer=None, training=None)
    with pytest.raises(
        CheckpointError, match=r"base is not the base of .*adapter: the SHA-256 of its weights is"
    ):
        load_weights(folder, device="cpu")


def test_the_hash_is_of_the_weights_and_not_of_their_file(base: Path, tmp_path: Path) -> None:
    transformers_base(base).save_pretrained(tmp_path / "again", max_shard_size="20KB")
    hashes = {weights_sha256(load_weights(folder, device="cpu")) for folder in (base, tmp_path / "again")}
    assert len(hashes) == 1
    weights: dict[str, Tensor] = load_weights(base, device="cpu")
    weights["final_norm.bias"][0] += 1e-6
    assert weights_sha256(weights) not in hashes


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"peft_type": "IA3"}, "has peft_type='IA3'; expected 'LORA'"),
        ({"use_dora": True}, "has use_dora=True; expected False: this adapter computes something else"),
        ({"use_rslora": True}, "has use_rslora=True"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save="),
        ({"rank_pattern": {"c_attn": 4}}, "has rank_pattern="),
        ({"r": "three"}, "has no possible r and lora_alpha"),
        ({"lora_alpha": 0}, "has no possible r and lora_alpha"),
        ({"r": 4}, r"lora_A.weight has shape \(3, 16\); expected \(4, 16\)"),
        ({"base_model_name_or_path": None}, "names no base; expected base_model_name_or_path"),
    ],
)
def test_an_adapter_that_is_another_thing_is_refused(
    base: Path, tmp_path: Path, values: dict[str, Any], line: str
) -> None:
    folder = save(tmp_path / "adapter", adapted(base, ALL), base, ALL)
    change(folder, **values)
    with pytest.raises(CheckpointError, match=line):
        load_weights(folder, device="cpu")


def test_an_adapter_that_names_itself_is_refused(base: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "adapter", adapted(base, ALL), base, ALL)
    change(folder, base_model_name_or_path=str(folder))
    with pytest.raises(CheckpointError, match="names itself as its base"):
        read_config(folder)


def test_an_adapter_of_the_embedding_is_refused(base: Path, tmp_path: Path) -> None:
    peft_adapter(base, tmp_path / "adapter", target_modules=["wte"], fan_in_fan_out=False)
    with pytest.raises(CheckpointError, match="is no adapter of a projection of this GPT-2"):
        load_weights(tmp_path / "adapter", device="cpu")


def test_half_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "adapter", adapted(base, ALL), base, ALL)
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[min(tensors)]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"attention.qkv has only lora_B; expected both"):
        load_adapter(folder, SHAPE, device="cpu")
    with pytest.raises(CheckpointError, match="adapts other projections than this run"):
        restore_adapters(
            adapted(base, LoraConfig(rank=3, alpha=1, targets=("qkv",))),
            save(folder, adapted(base, ALL), base, ALL),
        )
