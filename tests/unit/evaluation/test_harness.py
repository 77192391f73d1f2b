"""gptwo in lm-evaluation-harness gives the numbers of the harness's own ``hf`` on the same folder."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

import gptwo
from command import TINY, done
from gptwo.base.errors import ConfigError, MissingExtraError, TokenizerError
from gptwo.config import GPT2Config
from gptwo.evaluation.__main__ import main
from gptwo.tokenizer import EOT, Tokenizer, build_byte, train_bpe
from random_checkpoint import write_random_checkpoint
from tolerance import Tolerance

lm_eval = pytest.importorskip("lm_eval", reason="pip install 'gptwo[eval]'")
transformers = pytest.importorskip("transformers", reason="pip install 'gptwo[dev]'")
pytest.importorskip("accelerate", reason="the backend hf needs it: pip install 'gptwo[dev]'")

Instance = pytest.importorskip("lm_eval.api.instance").Instance
get_model = pytest.importorskip("lm_eval.api.registry").get_model
simple_evaluate = pytest.importorskip("lm_eval.evaluator").simple_evaluate
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager
HarnessModel = pytest.importorskip("gptwo.evaluation.harness").HarnessModel

C = 24
TEXT = (
    "The sea keeps what rivers bring, and gives back rain over the hills. Năm nay mưa nhiều: the sea rises. "
    * 30
)


@dataclass(frozen=True)
class Pair:
    """One folder, in both backends."""

    folder: Path
    ours: Any
    theirs: Any
    near: Tolerance


def by_transformers(folder: Path) -> Path:
    """Random weights in float64, as transformers writes them."""
    tokenizer = train_bpe(iter([TEXT]), 320)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_positions=C,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.eot_id,
        eos_token_id=tokenizer.eot_id,
    )
    model = transformers.GPT2LMHeadModel(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def by_us(folder: Path) -> Path:
    """Trained for a moment in float32, as ``gptwo train`` writes it."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    done("prepare", folder / "text.txt", "--vocab-size", 300, "--out", folder / "data")
    longer = ["--context", C, "--batch-tokens", 4 * C, "--steps", 60, "--eval-every", 60, "--save-every", 60]
    done("train", "--data", folder / "data", "--out", folder / "run", *TINY, *longer)
    (checkpoint,) = (folder / "run" / "checkpoints").iterdir()
    return checkpoint


FOLDERS = {
    "by transformers, float64": (by_transformers, Tolerance(rtol=1e-11, why="float64 sums in another order")),
    "by gptwo, float32": (by_us, Tolerance(rtol=3e-6, why="float32 logits and sums of up to 60 of them")),
}


@pytest.fixture(scope="module", params=FOLDERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    make, near = FOLDERS[request.param]
    folder = make(tmp_path_factory.mktemp("folder"))
    theirs = get_model("hf")(pretrained=str(folder), device="cpu", batch_size=3)
    return Pair(folder, HarnessModel(str(folder), device="cpu", batch_size=3), theirs, near)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


CONTINUATIONS = [
    ("The sea keeps", " what rivers bring"),
    ("The sea keeps ", "what rivers bring"),
    ("The sea  \n ", " rises"),
    ("", "The sea"),
    ("", f"{EOT}The sea"),
    (f"{EOT}The sea", " keeps"),
    (f"and rain{EOT}The sea", " keeps"),
    ("Năm nay", " mưa nhiều 中文"),
    (TEXT[:200], " rises"),
    (TEXT[200:500], TEXT[500:520]),
    ("a", "b"),
]


def test_log_likelihoods_are_equal(pair: Pair) -> None:
    # Some of what greedy decoding writes, so that both answers to "is it greedy" occur.
    model = gptwo.load(pair.folder, device="cpu")
    written = [
        (text, model.generate(text, max_new_tokens=3, temperature=0).text)
        for text in ("The sea", "rivers", " rain over", "Năm")
    ]
    asked = requests("loglikelihood", *CONTINUATIONS, *written)
    ours, theirs = pair.ours.loglikelihood(asked), pair.theirs.loglikelihood(asked, disable_tqdm=True)
    pair.near.assert_close([log_prob for log_prob, _ in ours], [log_prob for log_prob, _ in theirs])
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert {greedy for _, greedy in ours} == {True, False}


def test_rolling_log_likelihoods_are_equal(pair: Pair) -> None:
    tokenizer = Tokenizer.load(pair.folder)
    ids = tokenizer.encode(TEXT)
    lengths = (1, C - 1, C, C + 1, 2 * C, 2 * C + 1, 5 * C + 7)
    texts = [tokenizer.decode(ids[:length]) for length in lengths]
    asked = requests("loglikelihood_rolling", *((text,) for text in [*texts, f"{EOT}The sea", "中文", ""]))
    pair.near.assert_close(
        pair.ours.loglikelihood_rolling(asked), pair.theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    )


GENERATIONS = [
    ("The sea", {"until": ["\n"], "max_gen_toks": 9}),
    ("The sea", {"until": [" "], "max_gen_toks": 9}),
    ("The sea", {"until": ["e", "ri", "ng"], "max_gen_toks": 12, "do_sample": False}),
    ("rivers bring", {"until": "s", "max_gen_toks": 12, "temperature": 0.0}),
    (TEXT[:300], {"until": [], "max_gen_toks": 7}),
    (f"{EOT}Năm nay", {"until": ["."], "max_gen_toks": C - 1}),
]


def test_greedy_generation_is_equal(pair: Pair) -> None:
    for context, settings in GENERATIONS:
        (asked,) = requests("generate_until", (context, settings))
        (theirs,) = pair.theirs.generate_until([asked], disable_tqdm=True)
        assert pair.ours.generate_until([asked]) == [theirs], context


LINES: dict[str, list[dict[str, Any]]] = {
    "lambada": [
        {"text": text}
        for text in (
            "The sea keeps what rivers bring",
            "gives back rain over the hills",
            f"{TEXT[:150]} sea",
            "Năm nay mưa nhiều",
            "alone",
        )
    ],
    "hellaswag": [
        {
            "activity_label": label,
            "ctx_a": f"The sea keeps {number} rivers.",
            "ctx_b": "the rain  [substeps] falls" if number % 2 else "",
            "endings": [
                "over the hills",
                " [title] gives back rain. ",
                "what rivers bring [x] today.",
                "Mưa nhiều.",
            ],
            "label": number % 4,
        }
        for number, label in enumerate(["Sailing", "Rain", "Rivers", "The hills", "Năm nay"])
    ],
    "multiple-choice": [
        {"query": query, "choices": choices, "answer": answer}
        for query, choices, answer in [
            # Not "The sea keeps": it would share all tokens but the last with a line of lambada, cut elsewhere, and
            # ``hf`` of 0.4.13 then takes log p at a wrong position from its logits_cache.
            ("A sea keeps", ["what rivers bring", "rain", "Năm nay mưa"], 0),
            ("Rivers bring", ["the sea over the hills", "mưa nhiều"], 1),
            (TEXT[:160], ["The sea", "Năm"], 0),
            ("rain ", ["over", "over the hills and back"], 1),
        ]
    ],
}
TASKS_OF_THE_HARNESS = {
    "lambada": "include: {tasks}/lambada/lambada_openai.yaml\ntest_split: test",
    "hellaswag": "include: {tasks}/hellaswag/hellaswag.yaml\ntraining_split: null\nvalidation_split: test",
    "multiple-choice": (
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{{{query}}}}'\n"
        "doc_to_choice: '{{{{choices}}}}'\ndoc_to_target: answer\n"
        "metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]"
    ),
    "perplexity": (
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: '{{{{text}}}}'\n"
        "metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]"
    ),
    "writing": (
        "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{{{text}}}}'\ndoc_to_target: rain\n"
        "generation_kwargs: {{until: ['.'], max_gen_toks: 5}}\nmetric_list: [{{metric: exact_match}}]"
    ),
}
LINES["perplexity"] = LINES["writing"] = LINES["lambada"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the harness's own tasks, over local files instead of its data sets."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, task in TASKS_OF_THE_HARNESS.items():
        lines = "\n".join(json.dumps(line) for line in LINES[name])
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (folder / f"{name}.yaml").write_text(
            task.format(tasks=Path(lm_eval.__file__).parent / "tasks")
            + f"\ntask: local-{name}\ndataset_path: json\ndataset_name: null\ndataset_kwargs:\n"
            f"  data_files: {{test: {folder}/{name}.jsonl}}\n  cache_dir: {folder}/cache\n"
        )
    return folder


@pytest.fixture(scope="module")
def results(pair: Pair, tasks: Path) -> list[dict[str, dict[str, Any]]]:
    """What a whole evaluation with the harness gives, ours first."""
    manager = TaskManager(include_defaults=False, include_path=str(tasks))
    return [
        simple_evaluate(
            model=model, tasks=sorted(manager.all_tasks), task_manager=manager, bootstrap_iters=0
        )["results"]
        for model in (pair.ours, pair.theirs)
    ]


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Names without the harness's filter, figures only."""
    return {
        name.partition(",")[0]: value
        for name, value in result.items()
        if name.endswith(",none") and "stderr" not in name
    }


@pytest.mark.parametrize("name", TASKS_OF_THE_HARNESS)
def test_whole_evaluations_are_equal(results: list[dict[str, Any]], pair: Pair, name: str) -> None:
    ours, theirs = (figures(result[f"local-{name}"]) for result in results)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 0
    for metric, value in theirs.items():
        if "acc" in metric or metric == "exact_match":
            assert ours[metric] == value, metric
        else:
            pair.near.assert_close(ours[metric], value, metric)


@pytest.mark.parametrize("name", ["lambada", "hellaswag", "multiple-choice"])
def test_our_own_tasks_give_the_figures_of_the_harness(
    results: list[dict[str, Any]], pair: Pair, tasks: Path, name: str
) -> None:
    theirs = figures(results[1][f"local-{name}"])
    found = gptwo.evaluate(gptwo.load(pair.folder, device="cpu"), tasks / f"{name}.jsonl", task=name)
    for metric, value in theirs.items():
        pair.near.assert_close(found.metrics[metric], value, metric)


def test_the_harness_knows_it_by_name() -> None:
    assert get_model("gptwo") is HarnessModel


@pytest.mark.parametrize("pair", ["by gptwo, float32"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"until": [], "num_beams": 4}, "gptwo cannot generate with num_beams; expected temperature, top_k"),
        (
            {"until": [], "max_gen_toks": C},
            f"max_gen_toks={C} leaves no room for a prompt in the context of {C}",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(pair: Pair, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pair.ours.generate_until(requests("generate_until", ("The sea", settings)))


def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    # <|endoftext|>, with which every text begins, and a token after it.
    for vocab_size, text in ((200, "a"), (257, "a<x>")):
        config = GPT2Config(n_layer=1, n_head=1, n_embd=4, context=8, vocab_size=vocab_size)
        folder = write_random_checkpoint(tmp_path / str(vocab_size), config)
        build_byte().save(folder)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_tokens(["<x>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        with pytest.raises(
            TokenizerError, match=r"token 25[67] at position . is not in the model's vocabulary"
        ):
            HarnessModel(str(folder), device="cpu").loglikelihood(requests("loglikelihood", ("b", text)))


@pytest.mark.parametrize("pair", ["by gptwo, float32"], indirect=True)
def test_sampling_follows_the_seed(pair: Pair) -> None:
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 50, "seed": 3, "max_gen_toks": 8}
    first, again, other = (
        pair.ours.generate_until(requests("generate_until", ("The sea", {**settings, "seed": seed})))
        for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize("pair", ["by gptwo, float32"], indirect=True)
def test_the_harness_command_runs(
    tasks: Path, pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading the thousands of tasks that it comes with takes longer than all else here.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", functools.partial(TaskManager, include_defaults=False))
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda *_: None)
    arguments = ["--tasks", str(tasks / "lambada.yaml"), "--device", "cpu", "--batch_size", "auto"]
    command = [sys.executable, "--model", "gptwo", *arguments, "--model_args"]
    monkeypatch.setattr(sys, "argv", [*command, f"pretrained={pair.folder}"])
    assert main() == 0
    assert "|local-lambada|" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "pretrained=no/such"])
    assert main() == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("CheckpointError: ")
    assert "no/such" in said[-1]


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "gptwo.evaluation.harness")
    with pytest.raises(MissingExtraError, match=r"pip install 'gptwo\[eval\]'"):
        importlib.import_module("gptwo.evaluation.harness")
