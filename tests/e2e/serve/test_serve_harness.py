"""lm-evaluation-harness through the server (``local-completions``) gives what its ``hf`` gives on the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from running_server import TEXT, RunningServer
from tolerance import Tolerance

pytest.importorskip("lm_eval", reason="pip install 'gptwo[eval]'")
pytest.importorskip("transformers", reason="pip install 'gptwo[dev]'")
pytest.importorskip("accelerate", reason="the backend hf needs it: pip install 'gptwo[dev]'")
pytest.importorskip("tenacity", reason="the harness's clients need it: pip install 'gptwo[dev]'")

Instance = pytest.importorskip("lm_eval.api.instance").Instance
get_model = pytest.importorskip("lm_eval.api.registry").get_model
simple_evaluate = pytest.importorskip("lm_eval.evaluator").simple_evaluate
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager

NEAR = Tolerance(rtol=1e-5, atol=1e-5, why="float32 logits of two engines, and sums of up to 300 of them")
C = 1024
BACKENDS: dict[str, dict[str, Any]] = {
    "one at a time": {"num_concurrent": 1},
    "eight at a time": {"num_concurrent": 8},
    "batches of four": {"num_concurrent": 1, "batch_size": 4},
    "our tokenizer over HTTP": {"num_concurrent": 8, "tokenizer_backend": "auto", "tokenizer": None},
}


@pytest.fixture(scope="module")
def theirs(model_folder: Path) -> Any:
    return get_model("hf")(pretrained=str(model_folder), device="cpu", batch_size=4, dtype="float32")


@pytest.fixture(scope="module", params=BACKENDS)
def ours(request: pytest.FixtureRequest, server: RunningServer, model_folder: Path) -> Any:
    of_files = {"tokenizer": str(model_folder), "tokenizer_backend": "huggingface"}
    settings = {**of_files, **BACKENDS[request.param]}
    # The API needs room for the one token that it writes after what it scores.
    model = get_model("local-completions")(
        model=server.model, base_url=f"{server.url}/v1/completions", max_length=C, max_retries=1, **settings
    )
    assert model.tokenizer_backend == ("remote" if settings["tokenizer"] is None else "huggingface")
    return model


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


CONTINUATIONS = [
    ("The sea keeps", " what rivers bring"),
    ("The sea  \n ", " rises"),
    ("", "The sea"),
    ("Năm nay", " mưa nhiều 中文 🌊"),
    (TEXT[:900], " rises"),
    (TEXT[200:900], TEXT[900:1200]),
    ("a", "b"),
    *((TEXT[n : n + 30], TEXT[n + 30 : n + 50]) for n in range(0, 300, 30)),
]


def test_log_likelihoods(ours: Any, theirs: Any) -> None:
    written = theirs.generate_until(
        requests(
            "generate_until", *((text, {"until": [], "max_gen_toks": 3}) for text in ("sea", "rain", "Năm"))
        ),
        disable_tqdm=True,
    )
    greedy = list(zip(("sea", "rain", "Năm"), written, strict=True))
    asked = requests("loglikelihood", *CONTINUATIONS, *greedy)
    found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    NEAR.assert_close([log_prob for log_prob, _ in found], [log_prob for log_prob, _ in expected])
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]
    assert {is_greedy for _, is_greedy in found} == {True, False}


def test_greedy_texts(ours: Any, theirs: Any) -> None:
    for settings in (
        {"until": ["\n"], "max_gen_toks": 20},
        {"until": ["e", "ri", " t"], "max_gen_toks": 40, "do_sample": False},
        {"until": [], "max_gen_toks": 30, "temperature": 0.0},
    ):
        asked = requests("generate_until", *((TEXT[n : n + 40], settings) for n in range(0, 200, 25)))
        # We leave out a character that max_tokens cut through, and hf writes U+FFFD for each byte of it.
        found, expected = (
            [text.rstrip("\ufffd") for text in model.generate_until(asked, disable_tqdm=True)]
            for model in (ours, theirs)
        )
        assert found == expected


TASKS = {
    "choices": (
        "output_type: multiple_choice\ndoc_to_text: '{{query}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]"
    ),
    "perplexity": (
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{query}}'\n"
        "metric_list: [{metric: byte_perplexity}]"
    ),
    "writing": (
        "output_type: generate_until\ndoc_to_text: '{{query}}'\ndoc_to_target: '{{choices[0]}}'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 5}\nmetric_list: [{metric: exact_match}]"
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tasks over a local file."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [
        {
            "query": TEXT[n : n + 35],
            "choices": [TEXT[n + 35 : n + 45], " rain", " mưa nhiều"],
            "answer": n % 3,
        }
        for n in range(0, 200, 20)
    ]
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"{task}\ntask: served-{name}\ntest_split: test\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files: {{test: {folder}/lines.jsonl}}\n  cache_dir: {folder}/cache\n"
        )
    return TaskManager(include_defaults=False, include_path=str(folder))


def figures(model: Any, tasks: Any) -> dict[str, dict[str, float]]:
    results = simple_evaluate(
        model=model, tasks=sorted(tasks.all_tasks), task_manager=tasks, bootstrap_iters=0
    )["results"]
    return {
        task: {name: value for name, value in found.items() if isinstance(value, float)}
        for task, found in results.items()
    }


@pytest.fixture(scope="module")
def expected_figures(theirs: Any, tasks: Any) -> dict[str, dict[str, float]]:
    return figures(theirs, tasks)


def test_whole_evaluations(ours: Any, expected_figures: dict[str, dict[str, float]], tasks: Any) -> None:
    found = figures(ours, tasks)
    assert found.keys() == expected_figures.keys() == {f"served-{name}" for name in TASKS}
    for task, metrics in expected_figures.items():
        assert metrics, task
        assert found[task].keys() == metrics.keys()
        for name, value in metrics.items():
            NEAR.assert_close(found[task][name], value, f"{task} {name}")
