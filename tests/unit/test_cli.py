"""``gptwo`` from its arguments to its output, in this process: every command, every flag, every mistake."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import TINY, Outcome, command, documented_keys, done, key_paths, prepared
from gptwo.cli import main
from gptwo.config import PRESETS, TrainConfig
from gptwo.train.run_folder import read_toml

LONG_NUMBER = "9" * 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` of bytes, ``chars/data`` of characters, and a ``run`` on each."""
    folder = tmp_path_factory.mktemp("made")
    prepared(folder)
    prepared(folder / "chars", tokenizer="char")
    done("train", "--data", folder / "data", "--out", folder / "run", *TINY)
    done("train", "--data", folder / "chars" / "data", "--out", folder / "chars" / "run", *TINY)
    return folder


@pytest.fixture
def run(made: Path) -> Path:
    return made / "run"


def written(run: Path, *flags: object, stdin: bytes = b"") -> str:
    return done(
        "generate", run, "--prompt", "The", "--max-new-tokens", 12, "--seed", 7, *flags, stdin=stdin
    ).out


def parsed(outcome: Outcome) -> dict[str, Any]:
    """The one JSON object on standard output."""
    assert outcome.out.endswith("\n")
    assert outcome.out.count("\n") == 1
    value = json.loads(outcome.out)
    assert isinstance(value, dict)
    return value


# --- the whole path -----------------------------------------------------------------------------------------------


def test_prepare_says_what_it_made_and_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc " * 100, encoding="utf-8")
    outcome = done("prepare", tmp_path / "text.txt", "--tokenizer", "char", "--out", tmp_path / "data")
    assert "360 training and 40 validation tokens (400 bytes of text) with the char tokenizer" in outcome.out
    assert (
        outcome.out.splitlines()[-1] == f"train on it: gptwo train --data {tmp_path / 'data'} --out runs/mine"
    )
    assert outcome.err == ""


def test_prepare_reads_standard_input(tmp_path: Path) -> None:
    done("prepare", "-", "--tokenizer", "byte", "--out", tmp_path / "data", stdin="xin chào ".encode() * 50)
    assert (tmp_path / "data" / "index.json").exists()


def test_prepare_takes_the_tokenizer_of_a_run(made: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox. " * 30, encoding="utf-8")
    run = made / "chars" / "run"
    done("prepare", tmp_path / "text.txt", "--tokenizer", run, "--out", tmp_path / "data")
    of_data = json.loads((tmp_path / "data" / "index.json").read_text(encoding="utf-8"))["tokenizer"]
    of_run = json.loads((made / "chars" / "data" / "index.json").read_text(encoding="utf-8"))["tokenizer"]
    assert of_data["sha256"] == of_run["sha256"]


def test_train_keeps_figures_on_standard_error_and_the_result_on_standard_output(
    made: Path, tmp_path: Path
) -> None:
    outcome = done("train", "--data", made / "data", "--out", tmp_path / "run", *TINY)
    checkpoint, advice = outcome.out.splitlines()
    assert checkpoint == str(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert advice == f"write with it: gptwo generate {tmp_path / 'run'} --prompt TEXT"
    assert "step 4/4  loss " in outcome.err
    assert "validation loss" in outcome.err
    assert outcome.err.splitlines()[1].endswith("micro-batches of 3, 3,456 tokens of text"), (
        "one line, unwrapped"
    )


def test_info_of_a_size_has_the_paper_s_totals() -> None:
    out = done("info", "gpt2").out
    assert "124,439,808" in out
    assert "163,037,184" in out
    assert "blocks.11.mlp.down.weight" in out


def test_info_of_a_run_is_that_of_its_newest_checkpoint(run: Path) -> None:
    assert done("info", run).out.startswith(f"{run}: L=1 H=2 D=16 F=64 C=16 V=257;")
    assert done("info", run, "--tokens", 3).out != done("info", run).out


def test_version_and_help() -> None:
    assert done("--version").out.startswith("gptwo ")
    for name in ("demo", "prepare", "train", "generate", "info"):
        assert name in done("--help").out
        assert "--json" in done(name, "--help").out


# --- --json -------------------------------------------------------------------------------------------------------


def test_json_of_info() -> None:
    value = parsed(done("info", "nano", "--json"))
    assert key_paths(value) == documented_keys("info")
    assert value["model"] == "nano"


def test_json_of_prepare(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text. " * 50, encoding="utf-8")
    value = parsed(
        done("prepare", tmp_path / "text.txt", "--tokenizer", "byte", "--out", tmp_path / "d", "--json")
    )
    assert key_paths(value) == documented_keys("prepare")
    assert value["folder"] == str(tmp_path / "d")
    index = json.loads((tmp_path / "d" / "index.json").read_text(encoding="utf-8"))
    assert value == {"folder": value["folder"], **index}


def test_json_of_train(made: Path, tmp_path: Path) -> None:
    value = parsed(done("train", "--data", made / "data", "--out", tmp_path / "run", *TINY, "--json"))
    assert key_paths(value) == documented_keys("train")
    assert value["step"] == 4
    assert value["stopped_by"] is None
    assert value["evaluation"]["tokens"] == 383


def test_json_of_generate(run: Path) -> None:
    value = parsed(done("generate", run, "--prompt", "The", "--max-new-tokens", 5, "--num", 2, "--json"))
    assert key_paths(value) == documented_keys("generate")
    assert value["prompt"] == "The"
    assert len(value["texts"]) == 2
    text = value["texts"][1]
    assert text["prompt_tokens"] == 3
    again = parsed(
        done("generate", run, "--prompt", "The", "--max-new-tokens", 5, "--seed", text["seed"], "--json")
    )
    assert again["texts"][0]["tokens"] == text["tokens"], "the seed in the result gives it again"


def test_json_of_generate_with_a_file_of_prompts(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "The", "id": 1}\n\n{"prompt": "a\\nb"}\n', encoding="utf-8"
    )
    ask = (
        "generate",
        run,
        "--prompts",
        tmp_path / "prompts.jsonl",
        "--max-new-tokens",
        5,
        "--seed",
        3,
        "--json",
    )
    value = parsed(done(*ask))
    assert key_paths(value) == documented_keys("generate --prompts FILE")
    assert [text["prompt"] for text in value["texts"]] == ["The", "a\nb"]
    second = parsed(done("generate", run, "--prompt", "a\nb", "--max-new-tokens", 5, "--seed", 4, "--json"))
    assert second["texts"][0]["tokens"] == value["texts"][1]["tokens"]


def test_json_keeps_text_as_it_is(run: Path) -> None:
    outcome = done("generate", run, "--prompt", "chào", "--max-new-tokens", 2, "--json")
    assert "chào" in outcome.out
    assert parsed(outcome)["prompt"] == "chào"


# --- generate -----------------------------------------------------------------------------------------------------


def test_streamed_text_is_the_text(run: Path) -> None:
    streamed = written(run, "--stream")
    assert streamed == written(run, "--no-stream")
    assert streamed == written(run)
    assert streamed.startswith("The")
    value = parsed(done("generate", run, "--prompt", "The", "--max-new-tokens", 12, "--seed", 7, "--json"))
    assert streamed == "The" + value["texts"][0]["text"] + "\n"


def test_a_seed_repeats_and_another_differs(run: Path) -> None:
    assert written(run) == written(run)
    assert written(run) != written(run, "--seed", 8)
    assert written(run, "--temperature", 0) == written(run, "--temperature", 0, "--seed", 8)


def test_several_texts_are_those_of_the_seeds_that_follow(run: Path) -> None:
    expected = ""
    for number in range(3):
        one = written(run, "--seed", 7 + number)
        expected += f"--- {number + 1} of 3, seed {7 + number}\n{one}"
    assert written(run, "--num", 3) == expected


def test_a_file_of_prompts_gives_the_texts_of_the_seeds_that_follow(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("The\r\n\nch\u00e0o\nThe".encode())
    flags = ("--max-new-tokens", 12, "--seed", 7)
    expected = ""
    for number, prompt in enumerate(["The", "chào", "The"]):
        one = done("generate", run, "--prompt", prompt, *flags, "--seed", 7 + number).out
        expected += f"--- {number + 1} of 3, seed {7 + number}\n{one}"
    for batch in (1, 8):
        ask = ("generate", run, "--prompts", tmp_path / "prompts.txt", *flags, "--batch", batch)
        assert done(*ask).out == expected
    read = done("generate", run, "--prompts", "-", *flags, stdin=(tmp_path / "prompts.txt").read_bytes())
    assert read.out == expected


def test_a_line_of_prompts_that_cannot_be_is_named(run: Path, tmp_path: Path) -> None:
    def line(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return command("generate", run, "--prompts", tmp_path / name).error_line()

    assert "a.txt: byte 0xff at offset 4 is not UTF-8" in line("a.txt", b"abc\n\xff")
    assert "a.jsonl:2 has the fields 'text'; expected \"prompt\" with a text" in line(
        "a.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n'
    )
    assert "a.jsonl:1 has the fields 'prompt'; expected" in line("a.jsonl", b'{"prompt": 3}\n')
    assert "a.jsonl:1 is not JSON" in line("a.jsonl", b"The\n")
    assert line("b.txt", b"abc\n" + b"x" * 17).startswith(
        "ContextLengthError: prompt 2 of 2: the prompt has 17 tokens;"
    )


def test_penalties_and_biases(run: Path) -> None:
    assert written(run, "--logit-bias", "33=1000", "--logit-bias", "34=-5") == "The" + 12 * "!" + "\n"
    plain = written(run)
    assert written(run, "--presence-penalty", 0, "--frequency-penalty", 0) == plain
    assert written(run, "--presence-penalty", 1000) != plain
    assert written(run, "--frequency-penalty", 1000) != plain


def test_stop_ends_before_its_text(run: Path) -> None:
    text = parsed(done("generate", run, "--prompt", "The", "--max-new-tokens", 12, "--top-k", 1, "--json"))[
        "texts"
    ][0]["text"]
    stop = text[2:4]
    assert written(run, "--top-k", 1, "--stop", "never there", "--stop", stop) == (
        "The" + text[: text.index(stop)] + "\n"
    )


def test_a_prompt_from_standard_input(run: Path) -> None:
    assert written(run, "--prompt", "-", stdin=b"The") == written(run)
    outcome = command("generate", run, "--prompt", "-", stdin=b"ab\xffc")
    assert outcome.error_line().startswith("DataError: standard input: byte 0xff at offset 2 is not UTF-8;")


def test_an_empty_prompt_begins_at_the_end_of_a_text(run: Path) -> None:
    value = parsed(done("generate", run, "--prompt", "", "--max-new-tokens", 2, "--json"))
    assert value["texts"][0]["prompt_tokens"] == 1


def test_an_empty_prompt_needs_an_endoftext(made: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(made / "chars" / "run" / "checkpoints" / "step-00000004", checkpoint)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = []
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.endswith("_token")}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    done("generate", checkpoint, "--prompt", "The", "--max-new-tokens", 2)
    line = command("generate", checkpoint, "--prompt", "").error_line()
    assert line.startswith("TokenizerError: the prompt is empty and the tokenizer has no <|endoftext|>")


def test_past_the_context_it_says_so_and_slides_when_asked(run: Path) -> None:
    ended = done("generate", run, "--prompt", "The", "--seed", 1, "--max-new-tokens", 40, "--json")
    assert ended.err.startswith("note: the context of 16 tokens is full after 14 of 40 new tokens;")
    assert ended.err.count("\n") == 1
    slid = done("generate", run, "--prompt", "The", "--seed", 1, "--max-new-tokens", 40, "--json", "--slide")
    assert parsed(slid)["texts"][0]["tokens"][:14] == parsed(ended)["texts"][0]["tokens"]
    assert len(parsed(slid)["texts"][0]["tokens"]) > 14
    assert "slide=" not in slid.err


# --- settings: flags, --config, --resume --------------------------------------------------------------------------


def test_flags_win_over_the_file_and_the_run_keeps_what_was_resolved(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('model = "nano"\nlr = 0.01\nseed = 5\nsample_prompt = "a"\n', "utf-8")
    flags = ["--data", made / "data", "--out", tmp_path / "run", *TINY]
    done("train", "--config", tmp_path / "mine.toml", *flags, "--seed", 6)
    kept = read_toml(tmp_path / "run" / "config.toml")
    assert (kept["model"], kept["lr"], kept["seed"], kept["sample_prompt"]) == ("nano", 0.01, 6, "a")
    assert (kept["dtype"], kept["micro_batch"], kept["n_embd"]) == ("fp32", 3, 16)


def test_the_kept_settings_repeat_the_run(made: Path, run: Path, tmp_path: Path) -> None:
    done("train", "--config", run / "config.toml", "--out", tmp_path / "again")
    for name in ("model.safetensors", "training.safetensors"):
        again = tmp_path / "again" / "checkpoints" / "step-00000004" / name
        assert again.read_bytes() == (run / "checkpoints" / "step-00000004" / name).read_bytes(), name
    kept, repeated = (read_toml(folder / "config.toml") for folder in (run, tmp_path / "again"))
    assert {**kept, "out": ""} == {**repeated, "out": ""}
    assert TrainConfig.from_mapping(kept).to_mapping() == kept


def test_resume_goes_on_for_as_many_steps_as_are_asked(made: Path, tmp_path: Path) -> None:
    done("train", "--data", made / "data", "--out", tmp_path / "run", *TINY)
    outcome = done("train", "--out", tmp_path / "run", "--resume", "--steps", 6, "--json")
    assert parsed(outcome)["step"] == 6
    assert "resumed after step 4" in outcome.err


def test_a_text_of_one_line_trains_by_character_without_a_prompt(tmp_path: Path) -> None:
    data = prepared(tmp_path, tokenizer="char", text="only a few letters " * 50)
    done("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert read_toml(tmp_path / "run" / "config.toml")["sample_prompt"] == ""
    line = command(
        "train", "--data", data, "--out", tmp_path / "other", *TINY, "--sample-prompt", "Z"
    ).error_line()
    assert line.startswith("ConfigError: sample_prompt='Z': character 'Z' (U+005A) at position 0 is not in")
    assert not (tmp_path / "other").exists(), "found before anything was made"


# --- mistakes -----------------------------------------------------------------------------------------------------

NO_COMMAND = "UsageError: the following arguments are required: COMMAND"
ON = ("train", "--data", "{data}", "--out", "{new}", *TINY)
GENERATE = ("generate", "{run}", "--prompt", "a")
MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    # the command itself
    ((), (NO_COMMAND, "see gptwo --help")),
    (("--bogus",), (NO_COMMAND,)),
    (("write",), ("UsageError: ", "'write'", "'generate'")),
    (("two\nlines",), ("UsageError: ",)),
    (("info", "nano", "two\nlines"), ("UsageError: unrecognized arguments: two lines",)),
    (("info", "nano", "--bogus"), ("UsageError: unrecognized arguments: --bogus",)),
    (("info", "nano", "--tokens", "x"), ("UsageError: argument --tokens: invalid int value: 'x'",)),
    # no such model
    (
        ("info", "nothing"),
        ("CheckpointError: there is no model 'nothing'; expected a folder with config.json",),
    ),
    (("info", "{tmp}"), ("CheckpointError: ", "is no model: it has neither config.json nor checkpoints/")),
    (("info", "{text}"), ("CheckpointError: ", "is a file; expected a folder")),
    (("info", "n" * 300), ("Error: ",)),
    (
        ("info", "nano", "--tokens", "65"),
        ("ContextLengthError: 65 tokens are more than the model's context of 64",),
    ),
    (("info", "nano", "--tokens", "0"), ("ConfigError: ", "expected batch >= 1, tokens >= 1")),
    (
        ("generate", "{tmp}/nothing", "--prompt", "a"),
        ("CheckpointError: there is no model ", "check the path"),
    ),
    (("generate", "nobody/nothing", "--prompt", "a"), ("there is no folder 'nobody/nothing'", "hub")),
    ((*ON, "--model", "nothing"), ("CheckpointError: there is no model 'nothing'",)),
    # generate
    (("generate", "{run}"), ("UsageError: one of the arguments --prompt --prompts is required",)),
    (
        (*GENERATE, "--prompts", "{text}"),
        ("UsageError: argument --prompts: not allowed with argument --prompt",),
    ),
    (
        ("generate", "{run}", "--prompts", "{text}", "--num", "2"),
        ("ConfigError: num=2 is not possible with --prompts; expected one text a prompt",),
    ),
    (
        ("generate", "{run}", "--prompts", "{little}", "--batch", "0"),
        ("ConfigError: batch=0 is not possible",),
    ),
    (("generate", "{run}", "--prompts", "{tmp}/gone.txt"), ("DataError: ", "gone.txt")),
    (("generate", "{run}", "--prompts", "{empty}"), ("DataError: ", "has no prompt; expected one a line")),
    (
        (*GENERATE, "--lookup", "--engine", "torch"),
        (
            "ConfigError: lookup=True needs logits that are the same in any batch, and torch on cpu",
            "(--lookup)",
        ),
    ),
    (
        (*GENERATE, "--logit-bias", "3"),
        ("UsageError: argument --logit-bias: '3' is not possible; expected ID=X",),
    ),
    (
        (*GENERATE, "--logit-bias", "3=nan"),
        ("ConfigError: logit_bias[3]=nan is not possible; expected a finite",),
    ),
    (
        (*GENERATE, "--logit-bias", "257=1"),
        ("ConfigError: logit_bias has id 257; expected ids of the model, 0 to 256",),
    ),
    (
        (*GENERATE, "--prompt", "a" * 17),
        ("ContextLengthError: the prompt has 17 tokens;", "context of 16; shorten"),
    ),
    ((*GENERATE, "--prompt", "\udcff"), ("TokenizerError: lone surrogate U+DCFF at position 0",)),
    (
        ("generate", "{chars}", "--prompt", "The Zoo"),
        ("TokenizerError: character 'Z' (U+005A) at position 4",),
    ),
    *(
        (
            (*GENERATE, f"--{name.replace('_', '-')}={value}"),
            (f"ConfigError: {name}=", "is not possible; expected"),
        )
        for name, values in {
            "temperature": ("-1", "nan", "inf"),
            "top_k": ("0", "-3"),
            "top_p": ("0", "1.5", "nan", "-inf"),
            "min_p": ("2", "nan"),
            "repetition_penalty": ("0", "nan"),
            "presence_penalty": ("nan",),
            "frequency_penalty": ("inf",),
            "seed": ("-1", str(2**63), LONG_NUMBER),
            "max_new_tokens": ("0", "-5"),
            "num": ("0", "-1", LONG_NUMBER),
            "stop": ("",),
        }.items()
        for value in values
    ),
    ((*GENERATE, "--top-k", "1.5"), ("UsageError: argument --top-k: invalid int value: '1.5'",)),
    ((*GENERATE, "--temperature", "warm"), ("UsageError: argument --temperature: invalid float value",)),
    (
        (*GENERATE, "--engine", "torch", "--dtype", "int8"),
        ("ConfigError: dtype 'int8' is not possible on the torch engine; expected one of bf16",),
    ),
    (
        ("quantize", "{run}", "--to", "int8", "--out", "{new}", "--data", "{text}", "--limit", "0"),
        ("ConfigError: limit=0 is not possible",),
    ),
    (
        ("quantize", "{run}", "--to", "int8", "--out", "{new}", "--data", "{tmp}/gone.txt"),
        ("gone.txt",),
    ),
    (
        (*GENERATE, "--engine", "warp"),
        ("ConfigError: there is no engine 'warp'; expected auto or one of native",),
    ),
    ((*GENERATE, "--threads", "0"), ("ConfigError: threads=0 is not possible",)),
    ((*GENERATE, "--device", "tpu"), ("DeviceError: device 'tpu' is unknown; expected auto, cpu",)),
    ((*GENERATE, "--device", "cuda:99"), ("DeviceError: device 'cuda:99' is not there", "use --device cpu")),
    # prepare
    (("prepare", "{tmp}/gone.txt", "--out", "{new}"), ("DataError: there is no file or folder ", "gone.txt")),
    (
        ("prepare", "{bad}", "--out", "{new}"),
        ("DataError: ", "bad.txt: byte 0xff at offset 3 is not UTF-8", "iconv"),
    ),
    (
        ("prepare", "{empty}", "--out", "{new}"),
        (
            "DataError: ",
            "empty.txt: no text in it",
        ),
    ),
    (("prepare", "-", "--out", "{new}"), ("DataError: -: no text in it",)),
    (("prepare", "{text}"), ("UsageError: the following arguments are required: --out",)),
    (
        ("prepare", "{text}", "--out", "{data}"),
        ("DataError: ", "is not empty; choose another folder, or give --force"),
    ),
    (
        ("prepare", "{text}", "--out", "{run}", "--force"),
        ("DataError: ", "is not empty; choose another folder"),
    ),
    (("prepare", "{text}", "--out", "{text}"), ("DataError: ", "is a file; expected a folder")),
    (("prepare", "{text}", "--out", "{text}/in"), ("StorageError: cannot write ",)),
    (
        ("prepare", "{text}", "--out", "{new}", "--tokenizer", "words"),
        ("there is no tokenizer 'words'; expected gpt2",),
    ),
    (
        ("prepare", "{text}", "--out", "{new}", "--tokenizer", "{text}"),
        ("TokenizerError: ", "is not a tokenizer.json"),
    ),
    (("prepare", "{text}", "--out", "{new}", "--vocab-size", "3"), ("vocab_size=3 is too small",)),
    (
        ("prepare", "{text}", "--out", "{new}", "--vocab-size", LONG_NUMBER),
        ("is too large; expected at most",),
    ),
    (
        ("prepare", "{text}", "--out", "{new}", "--tokenizer", "byte", "--vocab-size", "300"),
        ("only --tokenizer bpe",),
    ),
    *(
        (("prepare", "{text}", "--out", "{new}", "--val-fraction", value), ("DataError: val_fraction=",))
        for value in ("nan", "inf", "1", "-0.1")
    ),
    # train
    (("train",), ("ConfigError: gptwo train: 'data' is missing; give --data DATA",)),
    (("train", "--data", "{data}"), ("ConfigError: gptwo train: 'out' is missing; give --out OUT",)),
    (
        (*ON, "--n-embd", "770", "--n-head", "12"),
        ("not divisible by n_head=12; nearest widths are 768 and 780",),
    ),
    (
        (*ON, "--n-embd", "200000"),
        ("ConfigError: training 480,", "choose a smaller model, --context"),
    ),
    ((*ON, "--n-layer", str(10**15)), ("ConfigError: training ", "choose a smaller")),
    ((*ON, "--n-embd", LONG_NUMBER + "0"), ("ConfigError: n_embd=", "expected at most 2**63 - 1")),
    (
        (*ON, "--model", "{chars}"),
        ("DataError: the model", "a vocabulary of 31 tokens and the data", "one of 257"),
    ),
    ((*ON, "--model", "{run}", "--n-layer", "2"), ("ConfigError: n_layer=2 differs from the 1 of",)),
    (
        (*ON, "--data", "{tmp}/nothing"),
        ("DataError: there is no ", "expected a folder that `gptwo prepare` made"),
    ),
    (
        (*ON, "--data", "{run}"),
        ("DataError: there is no ", "index.json; expected a folder that `gptwo prepare` made"),
    ),
    (
        (*ON, "--out", "{run}"),
        ("ConfigError: ", "holds a run already; add --resume to go on, or choose another --out"),
    ),
    ((*ON, "--out", "{text}"), ("StorageError: cannot write in ", "choose another --out")),
    ((*ON, "--out", "{text}/in"), ("StorageError: cannot write in ", "choose another --out")),
    ((*ON, "--out", "{tmp}/" + "n" * 300), ("StorageError: ", "File name too long")),
    ((*ON, "--out", "\udcff"), ("ConfigError: out='\\udcff' is not possible; expected text in UTF-8",)),
    (
        (*ON, "--context", "4000", "--batch-tokens", "4000"),
        ("DataError: the data has 3456 tokens; a context of 4000",),
    ),
    ((*ON, "--batch-tokens", "65"), ("ConfigError: batch_tokens=65 is not a multiple of the context of 16",)),
    ((*ON, "--steps", "0"), ("ConfigError: steps=0 is not possible; expected a whole number of at least 1",)),
    ((*ON, "--steps", "1e3"), ("UsageError: argument --steps: invalid int value: '1e3'",)),
    ((*ON, "--lr", "nan"), ("ConfigError: lr=nan is not possible; expected a finite number >= 0",)),
    ((*ON, "--lr", "inf"), ("ConfigError: lr=inf is not possible",)),
    ((*ON, "--dropout", "nan"), ("ConfigError: dropout=nan is not possible; expected 0 <= dropout < 1",)),
    ((*ON, "--seed", LONG_NUMBER), ("ConfigError: seed=", "expected at most 2**63 - 1")),
    ((*ON, "--dtype", "fp16"), ("UsageError: argument --dtype: invalid choice: 'fp16'",)),
    ((*ON, "--device", "cuda:99"), ("DeviceError: device 'cuda:99' is not there", "use --device cpu")),
    ((*ON, "--learning-rate", "1"), ("UsageError: unrecognized arguments: --learning-rate 1",)),
    ((*ON, "--resume"), ("ConfigError: there is no run to resume in ", "leave out --resume to start one")),
    (("train", "--resume"), ("ConfigError: --resume needs --out RUN",)),
    (
        ("train", "--resume", "--out", "{run}", "--lr", "0.5"),
        ("ConfigError: --lr 0.5 differs from this run's ",),
    ),
    (
        (*ON, "--config", "{tmp}/gone.toml"),
        ("ConfigError: there is no settings file ", "expected a TOML file"),
    ),
    ((*ON, "--config", "{tmp}"), ("ConfigError: cannot read ", "Is a directory; expected a TOML file")),
    (
        (*ON, "--config", "{text}/x.toml"),
        ("ConfigError: cannot read ", "Not a directory; expected a TOML file"),
    ),
    ((*ON, "--config", "{bad}"), ("ConfigError: ", "is not TOML: ", "0xff")),
    # demo
    *(
        (("demo", "--text", "{text}", "--out", "{new}", "--minutes", value), ("ConfigError: minutes=",))
        for value in ("0", "-1", "nan", "inf")
    ),
    (("demo", "--text", "{tmp}/gone.txt", "--out", "{new}"), ("DataError: there is no file or folder ",)),
    (("demo", "--text", "{bad}", "--out", "{new}"), ("DataError: ", "byte 0xff at offset 3 is not UTF-8")),
    (("demo", "--text", "{empty}", "--out", "{new}"), ("DataError: ", "no text in it")),
    (("demo", "--text", "{little}", "--out", "{new}"), ("DataError: the text has ", "give more text")),
    (("demo", "--text", "{text}", "--out", "{text}/in"), ("StorageError: cannot write ",)),
    (
        ("demo", "--text", "{text}", "--out", "{new}", "--device", "tpu"),
        ("DeviceError: device 'tpu' is unknown",),
    ),
    (
        ("demo", "--text", "{text}", "--out", "{new}", "--seed", "-1"),
        ("ConfigError: seed=-1 is not possible",),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    MISTAKES,
    ids=[ascii(" ".join(arguments).replace(" ".join(TINY), "…"))[1:60] for arguments, _ in MISTAKES],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], expected: tuple[str, ...], made: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff def")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "little.txt").write_text("too little text", encoding="utf-8")
    places = {
        "tmp": tmp_path,
        "new": tmp_path / "new",
        "text": made / "text.txt",
        "data": made / "data",
        "run": made / "run",
        "chars": made / "chars" / "run",
        **{name: tmp_path / f"{name}.txt" for name in ("bad", "empty", "little")},
    }
    line = command(*(argument.format(**places) for argument in arguments)).error_line()
    for part in expected:
        assert part in line
    if arguments and arguments[0] in ("prepare", "train", "quantize"):
        assert not (tmp_path / "new").exists(), "a mistake leaves nothing that looks made"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lr = = 3", "is not TOML: Invalid value (at line 1, column 6)"),
        ("learning_rate = 3", "mine.toml: unknown key 'learning_rate'; expected one of data, out, model"),
        ("[train]\nlr = 3", "unknown key 'train'"),
        ('lr = "fast"', "lr='fast' is not possible; expected a number"),
        ("steps = 2.5", "steps=2.5 is not possible; expected a whole number"),
        ("compile = 1", "compile=1 is not possible; expected true or false"),
        ("compile = 'yes'", "compile='yes' is not possible; expected true or false"),
        ("lr = nan", "lr=nan is not possible"),
        ("model = ['nano']", "model=['nano'] is not possible; expected text"),
        ("device = 'tpu'", "device 'tpu' is unknown"),
    ],
)
def test_a_settings_file_is_checked(content: str, expected: str, made: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content, encoding="utf-8")
    line = command(
        "train", "--config", file, "--data", made / "data", "--out", tmp_path / "new", "--context", 16
    ).error_line()
    assert expected in line


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(run / "checkpoints" / "step-00000004", tmp_path / "model"))


@pytest.mark.parametrize("bytes_left", [0, 7, 500, -1])
def test_truncated_weights_are_named(bytes_left: int, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:bytes_left])
    line = command("generate", checkpoint, "--prompt", "a").error_line()
    assert line.startswith(f"CheckpointError: {file} is not a whole safetensors file (")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "llama"}'])
def test_a_broken_config_is_named(content: str, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(content, encoding="utf-8")
    for arguments in (("info", checkpoint), ("generate", checkpoint, "--prompt", "a")):
        assert command(*arguments).error_line().startswith(f"CheckpointError: {checkpoint / 'config.json'}")


def test_a_broken_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{", encoding="utf-8")
    line = command("generate", checkpoint, "--prompt", "a").error_line()
    assert line.startswith(f"TokenizerError: {checkpoint / 'tokenizer.json'} is not a tokenizer.json")


class Bomb:
    """Unpickling it writes a file: the proof that somebody did."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._trace),))


def opened_files(record: list[str], enabled: list[bool]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and enabled:
            record.append(str(arguments[0]))

    sys.addaudithook(hook)  # cannot be taken away again; without ``enabled`` it does nothing


def test_a_pickle_is_refused_and_never_opened(checkpoint: Path, made: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    weights = checkpoint / "pytorch_model.bin"
    weights.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    record: list[str] = []
    enabled = [True]
    opened_files(record, enabled)
    lines = [
        command("generate", checkpoint, "--prompt", "a").error_line(),
        command("generate", weights, "--prompt", "a").error_line(),
        command(
            "train", "--data", made / "data", "--out", tmp_path / "n", *TINY, "--model", checkpoint
        ).error_line(),
    ]
    enabled.clear()
    for line in lines:
        assert "a pickle, which is never opened because it can run any code" in line
    assert not (tmp_path / "exploded").exists()
    assert record, "the hook saw other files opened"
    assert str(weights) not in record


def test_an_altered_shard_is_named(made: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made / "data", tmp_path / "data"))
    shard = data / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    line = command("train", "--data", data, "--out", tmp_path / "run", *TINY).error_line()
    assert line.startswith(f"DataError: {shard} was altered: its SHA-256 is ")
    shard.write_bytes(content[:-3])
    line = command("train", "--data", data, "--out", tmp_path / "run", *TINY).error_line()
    assert line.startswith(f"DataError: {shard} has {len(content) - 3} bytes; expected {len(content)}")


def test_a_validation_split_of_one_token_is_refused_before_training(tmp_path: Path) -> None:
    data = prepared(tmp_path, tokenizer="char", text="abcdefghij")
    line = command("train", "--data", data, "--out", tmp_path / "run", *TINY, "--context", 4).error_line()
    assert line.startswith(f"DataError: the val split of {data} has 1 token, and predicting needs 2;")
    assert not (tmp_path / "run").exists()


def test_memory_that_is_not_there_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*_: object, **__: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr("gptwo.load", refuse, raising=False)
    line = command("generate", run, "--prompt", "a").error_line()
    assert line.startswith("OutOfMemory: this needs more memory than there is; choose a smaller model")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gptwo.load", fail, raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate", "x", "--prompt", "a"])


# --- disks that refuse --------------------------------------------------------------------------------------------


def test_a_full_disk_while_saving_is_one_line_and_keeps_what_was_saved(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    done("train", "--data", made / "data", "--out", run, *TINY)

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        outcome = command("train", "--out", run, "--resume", "--steps", 6)
    assert outcome.code == 2
    assert outcome.out == ""
    *_, last = outcome.err.splitlines()
    assert last.startswith(
        f"StorageError: cannot save {run / 'checkpoints' / 'step-00000006'}: No space left on device (it needs "
    )
    assert last.endswith("make room or choose another disk; what was saved before is whole")
    assert "Traceback" not in outcome.err
    assert parsed(done("train", "--out", run, "--resume", "--steps", 6, "--json"))["step"] == 6


def test_a_disk_that_refuses_where_nobody_foresaw_it_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/somewhere/file")

    monkeypatch.setattr("gptwo.costs.cost_table", refuse)
    assert command("info", "nano").error_line() == "StorageError: /somewhere/file: Input/output error"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command; run where there is one, as root")
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted; run as root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk(made: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    flags = ["--data", made / "data", "--out", run, *TINY, "--save-every", 1, "--eval-every", 100]
    outcome = command("train", *flags)
    assert outcome.code == 2
    *_, last = outcome.err.splitlines()
    assert last.startswith(
        f"StorageError: cannot save {run / 'checkpoints' / 'step-00000002'}: No space left on device"
    )
    assert " are free)" in last
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"], (
        "nothing half-written"
    )
    done("generate", run, "--prompt", "a", "--max-new-tokens", 2)
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert parsed(done("train", "--out", run, "--resume", "--json"))["step"] == 4


def test_preparing_on_a_full_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text that is long enough. " * 20_000, encoding="utf-8")
    line = command(
        "prepare", tmp_path / "text.txt", "--tokenizer", "byte", "--out", small_disk / "data"
    ).error_line()
    assert line.startswith(f"StorageError: cannot write {small_disk / 'data'}: No space left on device")
    assert list(small_disk.iterdir()) == []


# --- start-up -----------------------------------------------------------------------------------------------------

HEAVY = {"torch", "numpy", "rich", "matplotlib", "tokenizers", "transformers", "safetensors", "psutil"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["info", "gpt2"], ["info", "gpt2", "--json"], ["info", "{run}"], []],
)
def test_nothing_heavy_is_imported_before_a_command_needs_it(arguments: list[str], run: Path) -> None:
    script = (
        "import sys\nfrom gptwo.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script, *(argument.format(run=run) for argument in arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    loaded = set(completed.stdout.splitlines()[-1].split())
    assert "gptwo" in loaded
    assert loaded & HEAVY == set()


def test_every_size_has_its_table() -> None:
    for name, config in PRESETS.items():
        value = parsed(done("info", name, "--json"))
        assert value["config"]["n_layer"] == config.n_layer
