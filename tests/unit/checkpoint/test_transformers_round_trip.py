"""A folder of transformers is ours, and ours is one of transformers: tensors, logits, ids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import random_weights
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2LMHeadModel
from transformers import GPT2Config as HFConfig

from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.resolve import resolve_model
from gptwo.checkpoint.store import save_checkpoint
from gptwo.checkpoint.weights import load_model, load_weights, released_state
from gptwo.config import GPT2Config
from gptwo.tokenizer import build_byte

CONFIGS = {
    "n_inner set": GPT2Config(
        n_layer=2,
        n_head=3,
        n_embd=21,
        context=17,
        vocab_size=257,
        n_inner=50,
        dropout=0.25,
        layer_norm_epsilon=1e-3,
    ),
    "one head": GPT2Config(n_layer=1, n_head=1, n_embd=5, context=3, vocab_size=257),
    "square": GPT2Config(n_layer=3, n_head=2, n_embd=8, context=8, vocab_size=257, n_inner=8, dropout=0.0),
}

both = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def theirs(config: GPT2Config) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        HFConfig(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            n_positions=config.context,
            vocab_size=config.vocab_size,
            n_inner=config.n_inner,
            resid_pdrop=config.dropout,
            layer_norm_epsilon=config.layer_norm_epsilon,
            bos_token_id=256,
            eos_token_id=256,
        )
    ).double()
    for parameter in model.parameters():  # biases and norms too, which are constant at the start
        torch.nn.init.normal_(parameter)
    return model.eval()


def assert_same_logits(ours: torch.nn.Module, other: GPT2LMHeadModel, config: GPT2Config) -> None:
    tokens = torch.randint(config.vocab_size, (2, config.context), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # 1e-10: float64 sums in another order, on logits of some hundreds.
        torch.testing.assert_close(ours(tokens), other(tokens).logits, atol=1e-10, rtol=1e-10)


@both
@pytest.mark.parametrize("max_shard_size", ["5GB", "4KB"])
def test_a_folder_of_transformers_is_a_model_here(
    tmp_path: Path, config: GPT2Config, max_shard_size: str
) -> None:
    other = theirs(config)
    other.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors").exists() == (max_shard_size == "5GB")

    assert read_config(tmp_path) == config
    model = load_model(tmp_path, device="cpu")
    state = other.state_dict()
    for name, tensor in released_state(model).items():
        assert torch.equal(tensor, state[name]), name
    assert_same_logits(model, other, config)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_checkpoint_here_is_a_folder_of_transformers(
    tmp_path: Path, config: GPT2Config, dtype: torch.dtype
) -> None:
    weights = random_weights(config, seed=2, dtype=dtype)
    tokenizer = build_byte()
    folder = save_checkpoint(
        tmp_path / "model", config=config, weights=weights, tokenizer=tokenizer, training=None
    )

    other = AutoModelForCausalLM.from_pretrained(folder)
    assert type(other) is GPT2LMHeadModel
    assert other.dtype == dtype
    assert (other.config.bos_token_id, other.config.eos_token_id) == (tokenizer.eot_id, tokenizer.eot_id)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eot_id
    other.eval()
    model = load_model(folder, device="cpu")
    state = other.state_dict()
    for name, tensor in released_state(model).items():
        assert torch.equal(tensor, state[name]), name
    if dtype == torch.float64:
        assert_same_logits(model, other, config)

    text = "Kiến Trúc\n  <|endoftext|> 🙂"
    ids = AutoTokenizer.from_pretrained(folder)(text, split_special_tokens=True)["input_ids"]
    assert ids == tokenizer.encode(text)


def test_back_and_forth_changes_no_bit(tmp_path: Path) -> None:
    config = CONFIGS["n_inner set"]
    weights = random_weights(config, seed=3)
    save_checkpoint(tmp_path / "ours", config=config, weights=weights, tokenizer=None, training=None)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert read_config(tmp_path / "theirs") == config
    for name, tensor in load_weights(tmp_path / "theirs", device="cpu").items():
        assert torch.equal(tensor, weights[name]), name


def test_resolving_and_reading_a_shape_stay_free_of_torch(tmp_path: Path) -> None:
    config = CONFIGS["one head"]
    save_checkpoint(
        tmp_path / "m", config=config, weights=random_weights(config, 0), tokenizer=None, training=None
    )
    code = (
        "import sys; from gptwo.checkpoint.resolve import resolve_model; "
        "from gptwo.checkpoint.released_config import read_config; from gptwo.checkpoint.store import verify; "
        f"folder = resolve_model({str(tmp_path / 'm')!r}); verify(folder); read_config(folder); "
        "sys.exit('torch' in sys.modules)"
    )
    assert resolve_model(tmp_path / "m") == tmp_path / "m"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
