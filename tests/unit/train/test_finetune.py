"""Fine-tuning: what is learned and what is not, resuming to the bit, adapters on the disk, and what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptwo
from gptwo.base.errors import CheckpointError, ConfigError, DataError
from gptwo.checkpoint import resolve
from gptwo.checkpoint.adapter import merge
from gptwo.checkpoint.runs import list_checkpoints, newest_whole
from gptwo.checkpoint.store import load_training_state, save_checkpoint
from gptwo.checkpoint.tensor_file import read_tensor_file
from gptwo.checkpoint.weights import load_weights
from gptwo.config import GPT2Config
from gptwo.costs import parameter_count
from gptwo.data.examples import read_examples
from gptwo.model import build_model
from gptwo.model.lora import LoraConfig, adapter_parameters, add_lora
from gptwo.tokenizer.build import build_byte
from gptwo.train import run_folder
from gptwo.train.evaluate import Evaluation
from gptwo.train.examples_source import PackedExamples
from gptwo.train.finetune import FinetuneResult, finetune
from gptwo.train.finetune_config import FULL_LR_BY_WIDTH, LORA_LR_BY_WIDTH, FinetuneConfig
from gptwo.train.metrics import read_metrics
from gptwo.train.observer import Silent
from gptwo.train.setup import require_room
from tolerance import Tolerance

SHAPE = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=24, vocab_size=257, dropout=0.1)
BYTE = build_byte()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    # Larger than at initialisation: over a frozen head of 0.02 no adapter could say much.
    weights = {
        n: t * 10 if "embedding" in n else t
        for n, t in build_model(SHAPE, seed=3, device="cpu").state_dict().items()
    }
    return save_checkpoint(folder, config=SHAPE, weights=weights, tokenizer=BYTE, training=None)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    choose = random.Random(0)
    pairs = [(choose.randrange(10), choose.randrange(10)) for _ in range(60)]
    return write(
        tmp_path_factory.mktemp("sums") / "sums.jsonl",
        *({"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in pairs),
    )


@pytest.fixture
def settings(base: Path, sums: Path, tmp_path: Path) -> Callable[..., FinetuneConfig]:
    def build(**changes: Any) -> FinetuneConfig:
        given: dict[str, Any] = {
            "model": str(base),
            "data": [str(sums)],
            "out": str(tmp_path / "run"),
            "batch_tokens": 96,
            "micro_batch": 3,
            "steps": 6,
            "warmup_steps": 2,
            "save_every": 1,
            "eval_every": 3,
            "keep_last": 20,
            "log_every": 1,
            "sample_tokens": 4,
            "device": "cpu",
        }
        merged = {**given, **changes}
        return FinetuneConfig.from_mapping({k: v for k, v in merged.items() if v is not None})

    return build


Settings = Callable[..., FinetuneConfig]
LORA = {"lora_rank": 3, "lora_dropout": 0.2}


# --- what is learned ----------------------------------------------------------------------------------------------


def test_masked_tokens_have_no_gradient(tmp_path: Path) -> None:
    """The gradient is that of the answers' targets alone: what the masked ones are changes nothing."""
    records = [{"prompt": f"What is {i}?", "completion": "yes"} for i in range(8)]
    examples = read_examples([str(write(tmp_path / "a.jsonl", *records))], BYTE, val_fraction=0.5)
    source = PackedExamples(examples, BYTE, context=24, batch_tokens=48, seed=0)
    rows = source.batch(0, 0, 2)
    answers = rows.targets != -100
    assert answers.sum() == source.predicted_tokens(0)
    assert not answers.all()
    model = build_model(SHAPE, seed=3, device="cpu").eval()
    tokens, documents = torch.from_numpy(rows.tokens), torch.from_numpy(rows.documents)

    def gradients(targets: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        logits = model.loss(tokens, targets, documents=documents, reduction="none").reshape(targets.shape)
        (logits * torch.from_numpy(answers)).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    model.loss(tokens, torch.from_numpy(rows.targets), documents=documents, reduction="sum").backward()
    masked = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    filled = torch.where(torch.from_numpy(answers), torch.from_numpy(rows.targets), 7)
    rounding = Tolerance(atol=1e-5, rtol=1e-4, why="fp32, a loss summed by the library against one by us")
    for name, gradient in gradients(filled).items():
        rounding.assert_close(masked[name], gradient, name)


def test_the_loss_of_a_step_is_that_of_its_examples_alone(tmp_path: Path) -> None:
    """Packed = each example by itself: positions from 0, nothing seen of its neighbours."""
    records = [{"prompt": "a" * (i % 7), "completion": chr(98 + i % 20) * (1 + i % 5)} for i in range(30)]
    examples = read_examples([str(write(tmp_path / "a.jsonl", *records))], BYTE, val_fraction=0.3)
    source = PackedExamples(examples, BYTE, context=24, batch_tokens=24, seed=0)
    model = build_model(SHAPE, seed=3, device="cpu").eval()
    packed = 0.0
    for step in range(source.rows):  # an epoch
        rows = source.batch(step, 0, 1)
        arrays = [torch.from_numpy(array) for array in (rows.tokens, rows.targets, rows.documents)]
        packed += model.loss(arrays[0], arrays[1], documents=arrays[2], reduction="sum").item()
    alone, count = 0.0, 0
    for example in examples.train:
        ids = torch.from_numpy(example.ids).long()
        losses = model.loss(ids[None, :-1], ids[None, 1:], reduction="none")
        alone += losses[torch.from_numpy(example.answer[1:])].sum().item()
        count += int(example.answer[1:].sum())
    Tolerance(rtol=1e-5, why="fp32 sums in two orders").assert_close(packed, alone)
    assert sum(source.predicted_tokens(step) for step in range(source.rows)) == count
    evaluation = source.evaluate(model, FinetuneConfig(model="m", data=("d",), out="o", micro_batch=2))
    held_out = sum(int(example.answer[1:].sum()) for example in examples.val)
    assert evaluation.tokens == held_out
    assert evaluation.bytes == held_out - len(examples.val), "a byte each, but for <|endoftext|>"


def test_an_epoch_is_every_row_once_and_each_has_its_order(sums: Path) -> None:
    examples = read_examples([str(sums)], BYTE, val_fraction=0.1)
    source = PackedExamples(examples, BYTE, context=24, batch_tokens=24 * 4, seed=5)
    again = PackedExamples(examples, BYTE, context=24, batch_tokens=24 * 4, seed=5)
    other = PackedExamples(examples, BYTE, context=24, batch_tokens=24 * 4, seed=6)

    def row(from_source: PackedExamples, sample: int) -> tuple[bytes, bytes]:
        step, at = divmod(sample, 4)
        rows = from_source.batch(step, at, at + 1)
        return rows.tokens.tobytes(), rows.targets.tobytes()

    epochs = [[row(source, e * source.rows + i) for i in range(source.rows)] for e in range(3)]
    assert source.rows > 4
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    assert [row(again, source.rows + i) for i in range(source.rows)] == epochs[1], "in any order of asking"
    assert [row(other, i) for i in range(source.rows)] != epochs[0]
    whole = source.batch(3, 0, 4)
    assert whole.tokens[2:3].tobytes() == row(source, 14)[0]
    assert source.identity == again.identity == other.identity


# --- runs ---------------------------------------------------------------------------------------------------------


def folder_bytes(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


@pytest.mark.parametrize("extra", [{}, LORA], ids=["full", "lora"])
def test_resumed_at_any_step_it_is_the_same_run(
    settings: Settings, tmp_path: Path, extra: dict[str, Any]
) -> None:
    whole = finetune(settings(**extra))
    expected = folder_bytes(whole.run.checkpoint)
    log = [r for r in read_metrics(whole.run.run / "metrics.jsonl") if "tokens_per_s" not in r]
    # A run that lost its later checkpoints is one that was killed.
    for stop in (1, 3, 5):
        out = tmp_path / f"cut-{stop}"
        finetune(settings(**extra, out=str(out)))
        for checkpoint in list_checkpoints(out):
            if int(checkpoint.name.removeprefix("step-")) > stop:
                for path in checkpoint.iterdir():
                    path.unlink()
                checkpoint.rmdir()
        kept = tomllib.loads((out / "config.toml").read_text())
        resumed = finetune(FinetuneConfig.from_mapping(kept), resume=True)
        assert folder_bytes(resumed.run.checkpoint) == expected
        assert resumed.base_nats_per_token == whole.base_nats_per_token
        again = [r for r in read_metrics(out / "metrics.jsonl") if "tokens_per_s" not in r]
        assert again == log


def test_what_it_goes_on_from_is_verified_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time is a hash of all weights: of the run's own newest checkpoint, and of that of a run that is the base."""
    finetune(settings(out=str(tmp_path / "base"), steps=1))
    read: list[Path] = []

    def counted(run: Path, **arguments: Any) -> Path | None:
        read.append(run)
        return newest_whole(run, **arguments)

    for module in (resolve, run_folder):
        monkeypatch.setattr(module, "newest_whole", counted)
    given = settings(model=str(tmp_path / "base"), steps=1, **LORA)
    finetune(given)
    assert read == [tmp_path / "base"]
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    finetune(FinetuneConfig.from_mapping({**kept, "steps": 2}), resume=True)
    assert read == [tmp_path / "base", tmp_path / "run"]


def test_the_base_is_measured_once_though_the_run_stops_there(settings: Settings) -> None:
    class Stopping(Silent):
        def evaluated(self, step: int, evaluation: Evaluation, sample: str) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = finetune(settings(steps=3), observer=Stopping())
    assert (stopped.run.step, stopped.run.stopped_by) == (0, "SIGTERM")
    kept = tomllib.loads((stopped.run.run / "config.toml").read_text())
    finetune(FinetuneConfig.from_mapping(kept), resume=True)
    log = read_metrics(stopped.run.run / "metrics.jsonl")
    assert [r["step"] for r in log if "val_loss" in r] == [0, 3]


def test_it_learns(settings: Settings, tmp_path: Path) -> None:
    for extra, lr in (({}, 3e-3), (LORA, 3e-2)):
        often = {"save_every": 40, "eval_every": 40, "log_every": 40}
        result = finetune(settings(**extra, **often, lr=lr, steps=40, out=str(tmp_path / str(lr))))
        assert result.run.evaluation is not None
        assert result.base_nats_per_token is not None
        assert result.run.evaluation.nats_per_token < result.base_nats_per_token - 1


def test_what_a_run_of_adapters_leaves(settings: Settings, base: Path) -> None:
    result = finetune(settings(**LORA))
    folder = result.run.checkpoint
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    state = load_training_state(folder)
    adapter = read_tensor_file(folder / "adapter_model.safetensors", device="cpu")
    assert len(adapter) == 2 * 4 * 2
    # The base has neither moments nor a place in the checkpoint.
    assert {name.rsplit(".", 1)[0] for name in state.tensors} == {
        f"optimizer.blocks.{i}.{path}.lora_{which}"
        for i in range(2)
        for path in ("attention.qkv", "attention.output", "mlp.up", "mlp.down")
        for which in "AB"
    }
    merged = merge(result.run.run, Path(settings().out) / "merged")
    for name, tensor in load_weights(merged, device="cpu").items():
        assert torch.equal(tensor, load_weights(folder, device="cpu")[name])
    prompt = BYTE.encode("3+4=")
    assert torch.equal(
        torch.tensor(gptwo.load(merged, device="cpu", engine="torch").logits(prompt)),
        torch.tensor(gptwo.load(result.run.run, device="cpu", engine="torch").logits(prompt)),
    )


def test_the_base_keeps_to_one_checkpoint_and_may_be_an_adapter(settings: Settings, tmp_path: Path) -> None:
    first = finetune(settings(**LORA, steps=2))
    second = finetune(settings(model=str(first.run.run), out=str(tmp_path / "second"), **LORA, steps=2))
    kept = tomllib.loads((tmp_path / "second" / "config.toml").read_text())
    assert kept["model"] == str(first.run.checkpoint)
    assert first.run.evaluation is not None
    Tolerance(rtol=1e-5, why="merged against not merged, fp32").assert_close(
        second.base_nats_per_token, first.run.evaluation.nats_per_token
    )


def test_defaults(settings: Settings) -> None:
    assert settings(steps=None).epochs == 3.0
    assert settings().epochs == 0.0
    result = finetune(settings(steps=None, epochs=2.0, batch_tokens=None, eval_every=1000, save_every=1000))
    kept = tomllib.loads((result.run.run / "config.toml").read_text())
    # 60 short sums are few rows, so a step is one of them: two epochs are twice the rows.
    assert kept["batch_tokens"] == 24
    assert kept["lr"] == FULL_LR_BY_WIDTH / 16
    assert kept["epochs"] == 0.0
    assert kept["steps"] == result.run.step
    assert kept["sample_prompt"].endswith("=")


@pytest.mark.parametrize(("given", "kept"), [({}, LORA_LR_BY_WIDTH / 16), ({"lr": 0.5}, 0.5)])
def test_the_learning_rate_of_adapters(settings: Settings, given: dict[str, float], kept: float) -> None:
    result = finetune(settings(**LORA, **given, steps=1))
    assert tomllib.loads((result.run.run / "config.toml").read_text())["lr"] == kept


def test_chat(settings: Settings, tmp_path: Path) -> None:
    talks = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "no"}]}
        for i in range(12)
    ]
    result: FinetuneResult = finetune(settings(data=[str(write(tmp_path / "c.jsonl", *talks))]))
    tokenizer = gptwo.load(result.run.run, device="cpu").tokenizer
    assert "Assistant:" in tokenizer.config["chat_template"]
    kept = tomllib.loads((result.run.run / "config.toml").read_text())
    assert kept["sample_prompt"].startswith("User:\n")
    assert kept["sample_prompt"].endswith("?<|endoftext|>Assistant:\n")
    assert tokenizer.encode(kept["sample_prompt"], allow_special=True) == tokenizer.render_chat(
        [{"role": "user", "content": kept["sample_prompt"].split("\n")[1].split("<")[0]}]
    )


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": None}, "the base is missing; give BASE, before --data"),
        ({"epochs": 2.0}, "steps=6 and epochs=2.0; give one of the two"),
        ({"n_layer": 3}, "n_layer=3 is not possible; the shape is the base's"),
        ({"val_fraction": 0.0}, "val_fraction=0.0 is not possible; expected 0 < val_fraction < 1"),
        ({"data": []}, "data is empty; expected one file at least"),
        ({"data": None}, "'data' is missing; give --data DATA"),
        ({"steps": None, "epochs": -1.0}, "epochs=-1.0 is not possible"),
        ({"lora_alpha": 3.0}, "lora_alpha=3.0 is of no use without adapters"),
        ({"lora_targets": "qkv"}, "lora_targets=qkv is of no use without adapters"),
        ({"lora_rank": 1, "optimizer": "muon"}, "optimizer='muon' is not possible with lora_rank"),
        ({"lora_rank": 0}, "lora rank 0 is not possible"),
        ({"lora_rank": 1, "lora_targets": "qkv, c_fc"}, "got 'c_fc'; expected some of qkv, output, up, down"),
        ({"batch_tokens": 25}, "batch_tokens=25 is not a multiple of the context of 24; nearest: 24 and 48"),
    ],
)
def test_settings_that_cannot_be(settings: Settings, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        finetune(settings(**changes))


def test_too_long_examples_are_counted_and_said(settings: Settings, tmp_path: Path) -> None:
    records = [{"prompt": f"{i:02d}", "completion": "ok"} for i in range(20)]
    long = [{"prompt": "p" * 30, "completion": "x"}, {"prompt": "p", "completion": "y" * 30}]

    class Listener(Silent):
        def warned(self, message: str) -> None:
            warnings.append(message)

    warnings: list[str] = []
    finetune(
        settings(data=[str(write(tmp_path / "l.jsonl", *records, *long))], steps=1),
        observer=Listener(),
    )
    assert warnings == [
        "longer than the context of 24 tokens: 1 examples, whose answers are learned as far as they fit, and 1 more, "
        "left out because no token of their answer fits"
    ]
    with pytest.raises(DataError, match=r"no train example has an answer within the context of 24 tokens"):
        finetune(
            settings(data=[str(write(tmp_path / "m.jsonl", *long[:1], *long[:1]))], out=str(tmp_path / "m"))
        )


def test_adapters_need_the_memory_of_the_base_and_little_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = GPT2Config(n_layer=4, n_head=4, n_embd=256, context=8, vocab_size=16)
    config, device = settings(**LORA), torch.device("cpu")
    # Weights are 4 bytes each; all that training them takes is 16 and more.
    monkeypatch.setattr("gptwo.train.setup.free_bytes", lambda device: 8 * parameter_count(wide))
    require_room(config, wide, device, adapters=adapter_parameters(wide, LoraConfig(rank=2, alpha=4)))
    with pytest.raises(
        ConfigError, match=r"of memory \(weights .*, optimizer .*\), and cpu has .* free; choose a "
    ):
        require_room(config, wide, device)


def test_the_number_of_adapter_parameters() -> None:
    model = build_model(SHAPE, seed=0, device="cpu")
    lora = LoraConfig(rank=3, alpha=6, targets=("qkv", "down"))
    add_lora(model, lora, seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_parameters(SHAPE, lora) == trained


def test_a_base_that_changed_is_not_resumed(settings: Settings, base: Path, tmp_path: Path) -> None:
    moving = tmp_path / "moving"
    save_checkpoint(
        moving, config=SHAPE, weights=load_weights(base, device="cpu"), tokenizer=BYTE, training=None
    )
    finetune(settings(**LORA, model=str(moving), steps=2))
    other = build_model(SHAPE, seed=4, device="cpu").state_dict()
    save_checkpoint(moving, config=SHAPE, weights=other, tokenizer=BYTE, training=None)
    with pytest.raises(CheckpointError, match=r"moving is not the base of .*step-00000002"):
        finetune(settings(**LORA, model=str(moving)), resume=True)


def test_other_data_is_not_resumed(settings: Settings, tmp_path: Path) -> None:
    finetune(settings(steps=2))
    other = write(tmp_path / "o.jsonl", *({"prompt": str(i), "completion": "z"} for i in range(20)))
    with pytest.raises(DataError, match="is not the data that this run was trained on"):
        finetune(settings(data=[str(other)]), resume=True)
