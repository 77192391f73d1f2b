"""``gptwo finetune``, ``gptwo merge`` and ``gptwo generate --chat`` as a user meets them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from command import TINY, command, documented_keys, done, key_paths, prepared

_FLAGS = """
    --batch-tokens 64 --micro-batch 2 --steps 4 --warmup-steps 1 --eval-every 2 --save-every 2 --log-every 1
    --sample-tokens 4 --device cpu
"""
FLAGS = _FLAGS.split()
LORA = ["--lora-rank", "2"]


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, a run on bytes; ``pairs.jsonl`` and ``talks.jsonl``; ``tuned`` and ``talker``, runs on them."""
    folder = tmp_path_factory.mktemp("made")
    prepared(folder)
    done("train", "--data", folder / "data", "--out", folder / "base", *TINY, "--context", 32)
    pairs = ({"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(20))
    write(folder / "pairs.jsonl", *pairs)
    talks = ([{"role": "user", "content": str(i)}, {"role": "assistant", "content": "o"}] for i in range(20))
    write(folder / "talks.jsonl", *({"messages": talk} for talk in talks))
    finetune = ("finetune", folder / "base", "--data")
    done(*finetune, folder / "pairs.jsonl", "--out", folder / "tuned", *FLAGS)
    done(*finetune, folder / "talks.jsonl", "--out", folder / "talker", *FLAGS, *LORA)
    return folder


def test_what_is_printed(made: Path, tmp_path: Path) -> None:
    outcome = done(
        *("finetune", made / "base", "--data", made / "pairs.jsonl", "--out", tmp_path / "run", *FLAGS)
    )
    lines = outcome.out.splitlines()
    assert lines[0].startswith("loss on the held-out answers: ")
    assert "nats per token before, " in lines[0]
    assert lines[0].endswith(" after 4 steps")
    assert lines[1] == str(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert "step 0  validation loss" in outcome.err


@pytest.mark.parametrize("extra", [[], LORA], ids=["full", "lora"])
def test_json_of_finetune(made: Path, tmp_path: Path, extra: list[str]) -> None:
    outcome = done(
        *("finetune", made / "base", "--data", made / "pairs.jsonl", "--out", tmp_path / "run"),
        *(*FLAGS, *extra, "--json"),
    )
    value = json.loads(outcome.out)
    assert key_paths(value) == documented_keys("finetune")
    assert value["step"] == 4
    assert value["base_nats_per_token"] > 0


def test_merge_and_its_json(made: Path, tmp_path: Path) -> None:
    outcome = done("merge", made / "talker", "--out", tmp_path / "merged", "--json")
    assert key_paths(json.loads(outcome.out)) == documented_keys("merge")
    prompt = ("--prompt", "The", "--max-new-tokens", 8, "--seed", 1)
    written = done("generate", made / "talker", *prompt).out
    assert done("generate", tmp_path / "merged", *prompt).out == written
    assert done("merge", made / "talker", "--out", tmp_path / "again").out.startswith(
        f"{tmp_path / 'again'}\n"
    )
    assert (
        done("info", made / "talker").out.splitlines()[1:] == done("info", made / "base").out.splitlines()[1:]
    )


def test_transformers_loads_what_was_merged(made: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import gptwo

    done("merge", made / "talker", "--out", tmp_path / "merged")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    talk = [{"role": "user", "content": "Hi"}]
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged").apply_chat_template(
        talk, add_generation_prompt=True, return_dict=False
    )
    ours = gptwo.load(made / "talker", device="cpu")
    assert ours.tokenizer.render_chat(talk) == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    assert (torch.tensor(ours.logits(ids)) - expected).abs().max() < 1e-4


def test_a_model_that_learned_messages_can_be_talked_to(made: Path) -> None:
    talk = ("generate", made / "talker", "--prompt", "3", "--chat", "--max-new-tokens", 6, "--seed", 1)
    streamed, whole = done(*talk).out, done(*talk, "--no-stream").out
    assert streamed == whole
    assert "User" not in streamed
    value = json.loads(done(*talk, "--json").out)
    assert value["prompt"] == "3"
    assert value["texts"][0]["text"] + "\n" == streamed
    assert value["texts"][0]["prompt_tokens"] == len("User:\n3") + 1 + len("Assistant:\n")
    talks = ("generate", made / "talker", "--prompts", "-", "--chat", "--max-new-tokens", 6, "--seed", 1)
    assert done(*talks, stdin=b"3\n").out == streamed
    line = command("generate", made / "tuned", "--prompt", "3", "--chat").error_line()
    assert "tuned has no chat template; expected a model fine-tuned on messages" in line


@pytest.mark.parametrize("name", ["tuned", "talker"])
def test_repeated_with_resume_it_goes_on(made: Path, tmp_path: Path, name: str) -> None:
    data = {"tuned": "pairs", "talker": "talks"}[name]
    again = (
        *("finetune", made / "base", "--data", made / f"{data}.jsonl", "--out", tmp_path / "run", *FLAGS),
        *(LORA if name == "talker" else []),
    )
    done(*again)
    done(*again, "--resume")
    outcome = json.loads(done("finetune", "--out", tmp_path / "run", "--resume", "--steps", 6, "--json").out)
    assert outcome["step"] == 6
    outcome = json.loads(done("finetune", "--out", tmp_path / "run", "--resume", "--epochs", 4, "--json").out)
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert outcome["step"] == kept["steps"] > 6
    assert (
        "--seed 1 differs from this run's 0"
        in command("finetune", "--out", tmp_path / "run", "--resume", "--seed", 1).error_line()
    )


def test_a_prepared_folder_is_text(made: Path, tmp_path: Path) -> None:
    done("finetune", made / "base", "--data", made / "data", "--out", tmp_path / "run", *FLAGS, *LORA)
    done("finetune", made / "base", "--data", made / "text.txt", "--out", tmp_path / "other", *FLAGS)
    done("prepare", made / "text.txt", "--tokenizer", "char", "--out", tmp_path / "chars")
    new = ("--out", tmp_path / "new", *FLAGS)
    line = command("finetune", made / "base", "--data", tmp_path / "chars", *new).error_line()
    assert "has a vocabulary of 257 tokens and the data" in line
    both = (made / "data", made / "text.txt")
    line = command("finetune", made / "base", "--data", *both, *new).error_line()
    assert "is prepared data, which is all that a run learns from; give it alone" in line


def test_settings_in_a_file(made: Path, tmp_path: Path) -> None:
    settings = f"model = '{made / 'base'}'\ndata = ['{made / 'pairs.jsonl'}']\nlora_rank = 2\nepochs = 1.0\n"
    (tmp_path / "mine.toml").write_text(settings, encoding="utf-8")
    done("finetune", "--config", tmp_path / "mine.toml", "--out", tmp_path / "run", "--sample-tokens", 0)
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert kept["lora_rank"] == 2
    assert kept["data"] == [str(made / "pairs.jsonl")]
    # The base in the file is a run, and the run keeps the checkpoint that this stood for.
    done("finetune", "--config", tmp_path / "mine.toml", "--out", tmp_path / "run", "--resume")


ON = ("finetune", "{base}", "--data", "{pairs}", "--out", "{new}")
MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("finetune",), ("ConfigError: gptwo finetune: the base is missing; give BASE, before --data",)),
    (("finetune", "{base}"), ("'data' is missing; give --data DATA: JSON lines of prompt and completion",)),
    (("finetune", "{base}", "--data", "{pairs}"), ("'out' is missing; give --out OUT",)),
    (
        ("finetune", "{tmp}/no", "--data", "{pairs}", "--out", "{new}"),
        ("CheckpointError: there is no model",),
    ),
    (("finetune", "{base}", "--data", "{tmp}/no.jsonl", "--out", "{new}"), ("there is no file or folder",)),
    (
        ("finetune", "{base}", "--data", "{pairs}", "{talks}", "--out", "{new}"),
        (
            "DataError: ",
            "talks.jsonl:1 has messages; expected prompt and completion as ",
            "pairs.jsonl:1 has",
        ),
    ),
    (("finetune", "{base}", "--data", "{bad}", "--out", "{new}"), ("bad.jsonl:2 is not JSON",)),
    ((*ON, "--lora-rank", "0"), ("ConfigError: lora rank 0 is not possible; expected at least 1",)),
    ((*ON, "--lora-rank", "2", "--lora-targets", "c_attn"), ("got 'c_attn'; expected some of qkv",)),
    ((*ON, "--steps", "3", "--epochs", "2"), ("steps=3 and epochs=2.0; give one of the two",)),
    ((*ON, "--context", "8"), ("UsageError: unrecognized arguments: --context 8",)),
    ((*ON, "--val-fraction", "1"), ("val_fraction=1.0 is not possible",)),
    (("finetune", "--resume"), ("--resume needs --out RUN",)),
    (
        ("finetune", "--out", "{base}", "--resume"),
        (
            "ConfigError: the run in ",
            "was begun with gptwo train, not gptwo finetune; go on with: gptwo train",
        ),
    ),
    (
        ("train", "--out", "{tuned}", "--resume", "--steps", "9"),
        (
            "ConfigError: the run in ",
            "was begun with gptwo finetune, not gptwo train; go on with: gptwo fine",
        ),
    ),
    (("finetune", "{base}", "--data", "{pairs}", "--out", "{tuned}"), ("holds a run already; add --resume",)),
    (("merge", "{tuned}", "--out", "{new}"), ("CheckpointError: ", "is no adapter: it has a config.json")),
    (("merge", "{talker}", "--out", "{tuned}"), ("is there already; expected a new or empty folder",)),
    (("merge", "{talker}", "--out", "{new}", "--base", "{tuned}"), ("is not the base of",)),
    (("merge", "{talker}", "--out", "{new}", "--base", "{tmp}/no"), ("there is no model",)),
    (("merge", "{tmp}/no", "--out", "{new}"), ("there is no model",)),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), MISTAKES, ids=[ascii(" ".join(a))[1:70] for a, _ in MISTAKES]
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], expected: tuple[str, ...], made: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n', encoding="utf-8")
    places = {
        "tmp": tmp_path,
        "new": tmp_path / "new",
        "bad": tmp_path / "bad.jsonl",
        **{name: made / name for name in ("base", "tuned", "talker")},
        **{name: made / f"{name}.jsonl" for name in ("pairs", "talks")},
    }
    line = command(*(argument.format(**places) for argument in arguments)).error_line()
    for part in expected:
        assert part in line
    assert not (tmp_path / "new").exists()
