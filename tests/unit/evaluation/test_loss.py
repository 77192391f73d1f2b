"""``evaluate`` over texts: which tokens count, from what, and over how many bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import gptwo
from command import TEXT, TINY, command, done, prepared
from gptwo.base.errors import ConfigError, DataError, TokenizerError
from gptwo.config import GPT2Config
from gptwo.data import TokenData
from gptwo.tokenizer import build_byte
from gptwo.train.metrics import read_metrics
from random_checkpoint import write_random_checkpoint
from tolerance import Tolerance

ORDER = Tolerance(rtol=1e-6, why="fp32 losses near 5, summed in another order")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on byte tokens with C=16, which evaluated its whole validation split at its end."""
    folder = tmp_path_factory.mktemp("run")
    data = prepared(folder)
    done("train", "--data", data, "--out", folder / "run", *TINY)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> gptwo.LanguageModel:
    return gptwo.load(run / "run", device="cpu")


def test_it_is_the_last_evaluation_of_the_run_itself(run: Path) -> None:
    logged = [record for record in read_metrics(run / "run" / "metrics.jsonl") if "val_loss" in record][-1]
    found = json.loads(done("eval", run / "run", "--data", run / "data", "--json").out)
    ORDER.assert_close(found["metrics"]["nats_per_token"], logged["val_loss"])
    assert found["protocol"] == "side-by-side"
    assert found["counts"]["tokens"] == TokenData.open(run / "data", "val").tokens - 1


def by_hand(model: gptwo.LanguageModel, tokens: np.ndarray, stride: int) -> float:
    """Nats of all tokens but the first, one window at a time, from the model's own scores."""
    C = model.config.context
    nats = -model.score(tokens[: C + 1][:C]).sum()  # score takes C tokens, and so predicts C - 1
    logits = model.logits(tokens[:C])[-1].astype(np.float64)
    nats += np.logaddexp.reduce(logits) - logits[tokens[C]]
    for position in range(C + 1, len(tokens)):
        start = -(-(position - C) // stride) * stride
        logits = model.logits(tokens[start:position])[-1].astype(np.float64)
        nats += np.logaddexp.reduce(logits) - logits[tokens[position]]
    return float(nats)


@pytest.mark.parametrize("stride", [None, 16, 1, 5])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_windows_overlap_as_the_rule_says(
    run: Path, model: gptwo.LanguageModel, stride: int | None, batch: int | None
) -> None:
    tokens = TokenData.open(run / "data", "val").read(0, 90)
    result = gptwo.evaluate(model, run / "data", stride=stride, limit=89, batch=batch)
    expected = by_hand(model, tokens, stride or 16) / 89
    ORDER.assert_close(result.metrics["nats_per_token"], expected)
    assert result.counts == {"tokens": 89, "bytes": 89}
    assert result.protocol == ("sliding" if stride in (1, 5) else "side-by-side")
    if stride == 5:
        assert result.rule.endswith(
            "each 5 after the one before: from all tokens before it, or from at least 12"
        )


def test_more_context_predicts_better_on_a_repetitive_text(run: Path, model: gptwo.LanguageModel) -> None:
    """Otherwise the stride could be ignored unseen."""
    losses = [
        gptwo.evaluate(model, run / "data", stride=stride).metrics["nats_per_token"] for stride in (16, 1)
    ]
    assert losses[0] != losses[1]


def test_perplexity_and_bits_are_the_loss_in_other_units(run: Path, model: gptwo.LanguageModel) -> None:
    metrics = gptwo.evaluate(model, run / "data").metrics
    assert list(metrics) == ["nats_per_token", "perplexity", "nats_per_byte", "bits_per_byte"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nats_per_token"]))
    assert metrics["bits_per_byte"] == pytest.approx(metrics["nats_per_byte"] / math.log(2))
    # Byte tokens: as many bytes as tokens.
    assert metrics["nats_per_byte"] == pytest.approx(metrics["nats_per_token"])


def test_the_training_split_can_be_asked_for(run: Path, model: gptwo.LanguageModel) -> None:
    result = gptwo.evaluate(model, run / "data", split="train")
    assert result.counts["tokens"] == TokenData.open(run / "data", "train").tokens - 1


def test_a_text_file_is_what_it_is_when_prepared(
    run: Path, model: gptwo.LanguageModel, tmp_path: Path
) -> None:
    data = TokenData.open(run / "data", "val")
    (tmp_path / "val.txt").write_bytes(bytes(data.read(0, data.tokens).tolist()))
    assert gptwo.evaluate(model, tmp_path / "val.txt") == gptwo.evaluate(model, run / "data")


def test_documents_of_a_table_are_ended_as_prepare_ends_them(tmp_path: Path) -> None:
    records = [json.dumps({"text": f"{number} {TEXT[:300]}"}) for number in range(6)]
    (tmp_path / "all.jsonl").write_text("\n".join(records), encoding="utf-8")
    done(
        "prepare",
        tmp_path / "all.jsonl",
        "--tokenizer",
        "bpe",
        "--vocab-size",
        280,
        "--out",
        tmp_path / "data",
    )
    done("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY)
    model = gptwo.load(tmp_path / "run", device="cpu")
    whole = gptwo.evaluate(model, tmp_path / "all.jsonl")
    parts = [TokenData.open(tmp_path / "data", split) for split in ("train", "val")]
    assert whole.counts["tokens"] == sum(part.tokens for part in parts) - 1
    share = whole.counts["tokens"] / (whole.counts["tokens"] + 1)
    assert whole.counts["bytes"] == round(sum(part.bytes for part in parts) * share)


def test_progress_reaches_the_end(run: Path, model: gptwo.LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    gptwo.evaluate(model, run / "data", limit=40, batch=1, progress=lambda *now: seen.append(now))
    assert seen == [(16, 40), (32, 40), (40, 40)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride=0 is not possible; expected 1 to the model's context of 16"),
        ({"stride": 17}, "stride=17 is not possible; expected 1 to the model's context of 16"),
        ({"limit": 0}, "limit=0 is not possible; expected a whole number of at least 1"),
        ({"batch": -1}, "batch=-1 is not possible; expected a whole number of at least 1"),
        (
            {"task": "mmlu"},
            "there is no task 'mmlu'; expected loss or one of lambada, hellaswag, multiple-choice",
        ),
        (
            {"task": "lambada", "stride": 3},
            "stride belongs to the loss over a text; leave it out with the task lambada",
        ),
        (
            {"task": "lambada", "split": "val"},
            "split belongs to the loss over a text; leave it out with the task lambada",
        ),
    ],
)
def test_settings_that_are_not_possible(
    run: Path, model: gptwo.LanguageModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        gptwo.evaluate(model, run / "data", **options)  # type: ignore[arg-type]
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 tokens to evaluate, and predicting needs 2; give more text"),
        (b"a", "has 1 tokens to evaluate, and predicting needs 2; give more text"),
        (b"ab\xff", "byte 0xff at offset 2 is not UTF-8"),
    ],
)
def test_text_that_cannot_be_evaluated(
    model: gptwo.LanguageModel, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        gptwo.evaluate(model, tmp_path / "a.txt")


def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, context=8, vocab_size=200)
    build_byte().save(write_random_checkpoint(tmp_path / "small", config))
    (tmp_path / "a.txt").write_text("ab中", encoding="utf-8")
    for engine in ("native", "torch"):
        model = gptwo.load(tmp_path / "small", device="cpu", dtype="fp32", engine=engine)
        with pytest.raises(TokenizerError, match="token 228 at position 2 is not in the model's vocabulary"):
            gptwo.evaluate(model, tmp_path / "a.txt")


def test_a_file_has_no_split(model: gptwo.LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(ConfigError, match="there is no train split in the file"):
        gptwo.evaluate(model, tmp_path / "a.txt", split="train")


def test_mistakes_are_one_line_each(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    others = prepared(tmp_path / "other", tokenizer="char")
    for arguments, expected in [
        (["eval", run / "run"], "UsageError: the following arguments are required: --data"),
        (["eval", "--data", run / "data"], "UsageError: the following arguments are required: MODEL"),
        (["eval", tmp_path / "no", "--data", run / "data"], "CheckpointError: "),
        (["eval", run / "run", "--data", tmp_path / "no.txt"], "DataError: there is no file or folder"),
        (["eval", run / "run", "--data", tmp_path / "empty"], "DataError: there is no "),
        (["eval", run / "run", "--data", others], "DataError: the model "),
        (
            ["eval", run / "run", "--data", run / "data", "--dtype", "int3"],
            "ConfigError: dtype 'int3' is not possible on any engine",
        ),
    ]:
        assert command(*arguments).error_line().startswith(expected)


def test_it_says_what_was_measured_and_how(run: Path) -> None:
    out = done("eval", run / "run", "--data", run / "data", "--stride", 4, "--limit", 50).out
    head, rule, *figures = out.splitlines()
    assert head.startswith(f"{run / 'run'} (native on cpu in fp32 (")
    assert head.endswith(f") on {run / 'data'}: 50 tokens, 50 bytes")
    assert rule.startswith(
        "sliding: every token but the first predicted once, in windows of 16 tokens, each 4 after"
    )
    assert [figure.split()[0] for figure in figures] == [
        "nats_per_token",
        "perplexity",
        "nats_per_byte",
        "bits_per_byte",
    ]
