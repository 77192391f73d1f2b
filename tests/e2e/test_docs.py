"""The documentation, held to the code: its examples run, its links and names exist, its tables are complete.

Pages in docs/guides, and docs/explain-api.md, are programs. Their blocks run in order in one temporary folder per
page, which holds ``texts/``, ``more/`` and, where no block makes it, the trained run ``runs/mine``:

    ```sh       runs in bash, which must succeed; ``gptwo train`` gets ``SMALLER`` behind its own flags.
                ``gptwo serve`` is started, and answers until the page ends or starts another one; it listens at a
                free port, which the other blocks are given where they say 8000
    ```python   runs in one namespace per page
    ```toml     after ``<!-- file: NAME -->``, becomes that file
    ```text     is output, and not run; nor is a block after ``<!-- not run: reason -->``
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gptwo import cli
from gptwo.config import PRESETS, TrainConfig
from gptwo.data import prepare
from gptwo.demo import Baselines, DemoResult
from gptwo.train.evaluate import Evaluation
from gptwo.train.loop import train
from gptwo.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = sorted([*(ROOT / "docs" / "guides").glob("*.md"), ROOT / "docs" / "explain-api.md"])
# What makes the guides' trainings a matter of seconds. The last of two equal flags wins.
SMALLER = "--n-layer 1 --n-head 2 --n-embd 32 --context 32 --batch-tokens 256 --steps 4 --sample-tokens 4"
SMALLER_RESUMED = "--steps 6"
WORDS = ["the", "sea", "keeps", "what", "rivers", "bring", "and", "gives", "back", "rain", "over", "hills"]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


# --- the guides run -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its fence, and the comment just above."""

    language: str
    text: str
    line: int
    note: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = iter(enumerate(page.splitlines(), start=1))
    note = ""
    for number, line in lines:
        if line.startswith("```"):
            body: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            else:
                raise AssertionError(f"line {number}: the block has no end")
            yield Block(line.removeprefix("```"), "\n".join(body) + "\n", number, note)
            note = ""
        elif line.strip():
            comment = re.fullmatch(r"<!-- (.*) -->", line)
            note = comment[1] if comment else ""


def run_page(page: str, environment: dict[str, str]) -> list[str]:
    """Run the blocks of a page in the working directory; the languages that were run, in order."""
    ran: list[str] = []
    namespace: dict[str, Any] = {"__name__": "guide"}
    with contextlib.ExitStack() as server:
        for block in blocks(page):
            where = f"the block at line {block.line}"
            text = block.text.replace(":8000", f":{environment['GUIDE_PORT']}")
            if block.language == "text" or re.match(r"not run: \S", block.note):
                continue
            if block.language == "toml":
                assert block.note.startswith("file: "), f"{where}: no comment says which file it is"
                Path(block.note.removeprefix("file: ")).write_text(text, encoding="utf-8")
            elif block.language == "python":
                # As many empty lines before it as the page has, so that a traceback names the page's line.
                exec(compile("\n" * block.line + text, "the page", "exec"), namespace)  # noqa: S102
            elif block.language == "sh" and text.startswith("gptwo serve "):
                server.close()
                server.enter_context(serving(text, environment, where))
            elif block.language == "sh":
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", text],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{where} ended with {done.returncode}: {done.stderr[-800:]}"
            else:
                raise AssertionError(f"{where}: {block.language!r} is neither run nor said to be output")
            ran.append(block.language)
    for left in namespace.values():
        if type(left).__name__ == "OpenAI":
            left.close()  # a program's end would
    return ran


@contextlib.contextmanager
def serving(command: str, environment: dict[str, str], where: str) -> Iterator[None]:
    """The server that ``command`` starts, from when it is healthy."""
    health = f"http://127.0.0.1:{environment['GUIDE_PORT']}/health"
    output = Path(environment["GUIDE_LOG"])
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {command}"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while not healthy(health):
            said = output.read_text(encoding="utf-8")
            assert process.poll() is None, f"{where} ended with {process.returncode}: {said[-800:]}"
            assert time.monotonic() < deadline, f"{where} serves nobody after a minute: {said[-800:]}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def write_texts(folder: Path, seed: int) -> None:
    folder.mkdir()
    choose = random.Random(seed)
    for number in range(8):
        lines = (" ".join(choose.choices(WORDS, k=9)).capitalize() + ".\n" for _ in range(30))
        (folder / f"{number}.txt").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts/, more/, and runs/mine, trained for a moment on texts/."""
    folder = tmp_path_factory.mktemp("world")
    write_texts(folder / "texts", seed=0)
    write_texts(folder / "more", seed=1)
    prepare([str(folder / "texts")], tokenizer="bpe", vocab_size=300, out=folder / "data" / "mine")
    train_small(folder, folder / "runs/mine")
    return folder


def train_small(world: Path, out: Path, *more: str) -> None:
    arguments = ["--data", str(world / "data/mine"), "--out", str(out), *SMALLER.split(), *more]
    parsed = vars(cli.build_parser().parse_args(["train", *arguments]))
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    train(TrainConfig(**{name: value for name, value in parsed.items() if name in names}))


@pytest.fixture(scope="session")
def served(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose context has room for a conversation."""
    out = tmp_path_factory.mktemp("served") / "mine"
    train_small(world, out, "--context", "128")
    return out


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where ``gptwo`` and ``python`` are this interpreter's, and training is small."""
    folder = tmp_path / "bin"
    folder.mkdir()
    gptwo = f"""#!/bin/sh
if [ "$1" = train ]; then
    case " $* " in *" --resume "*) set -- "$@" {SMALLER_RESUMED};; *) set -- "$@" {SMALLER};; esac
fi
if [ "$1" = finetune ]; then set -- "$@" --steps 2 --sample-tokens 4; fi
if [ "$1" = serve ]; then set -- "$@" --port "$GUIDE_PORT"; fi
exec '{sys.executable}' -m gptwo "$@"
"""
    for name, script in {"gptwo": gptwo, "python": f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n"}.items():
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    search = os.pathsep.join(path for path in (str(ROOT / "src"), os.environ.get("PYTHONPATH")) if path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": search,
        "GUIDE_PORT": port,
        "GUIDE_LOG": str(tmp_path / "log"),
    }


@pytest.mark.parametrize("page", GUIDES, ids=page_id)
def test_the_examples_of_a_guide_run(
    page: Path, world: Path, environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text(encoding="utf-8")
    here = tmp_path / "here"
    here.mkdir()
    for name in ("texts", "more"):
        shutil.copytree(world / name, here / name)
    if "--out runs/mine" not in text:
        serves = page.name in ("serve.md", "explain-api.md")
        run = request.getfixturevalue("served") if serves else world / "runs" / "mine"
        shutil.copytree(run, here / "runs" / "mine")
    with contextlib.chdir(here):
        ran = run_page(text, environment)
    assert "python" in ran
    assert "sh" in ran or page.name in {"python.md", "json.md"}


README_SECTIONS = {"README.md": "Serve it", "README.vi.md": "Phục vụ"}


@pytest.mark.parametrize("name", README_SECTIONS)
def test_the_server_of_a_readme_answers_as_it_says(
    name: str, served: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(served, tmp_path / "here" / "runs" / "demo")
    monkeypatch.chdir(tmp_path / "here")
    ran = run_page(sections(ROOT / name)[README_SECTIONS[name]], environment)
    assert ran == ["sh", "sh", "python"]


def test_there_are_guides() -> None:
    assert {page.name for page in GUIDES} >= {"train.md", "python.md", "devices.md"}


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```sh\ngptwo train --no-such-flag\n```\n", "line 1 ended with 2: UsageError"),
        ("```sh\nfalse | true\n```\n", "line 1 ended with 1"),
        ("```sh\ngptwo serve no-such-model\n```\n", "line 1 ended with 2"),
        ("Text.\n\n```python\nassert 1 == 2, 'not so'\n```\n", "not so"),
        ("```toml\na = 1\n```\n", "no comment says which file"),
        ("```rust\n```\n", "'rust' is neither run nor said to be output"),
        ("```\nls\n```\n", "'' is neither run"),
        ("```sh\ntrue\n", "the block has no end"),
        ("<!-- not run: -->\n```sh\nfalse\n```\n", "ended with 1"),
        ("<!-- not run: reason -->\n\nA paragraph between.\n\n```sh\nfalse\n```\n", "ended with 1"),
    ],
)
def test_a_page_can_fail(page: str, message: str, environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        run_page(page, environment)


def test_only_what_a_comment_leaves_out_is_left_out(environment: dict[str, str]) -> None:
    page = "<!-- not run: reason -->\n```sh\nfalse\n```\n```text\nno code\n```\n```python\nx = 1\n```\n"
    assert run_page(page + "```python\nassert x == 1\n```\n", environment) == ["python", "python"]


# --- links and names ----------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def test_a_broken_link_is_seen() -> None:
    text = (
        "[a](no.md) ![b](images/no.png) [c](cli.md#no-such) [d](cli.md#gptwo-train) [e](https://example.org)"
    )
    assert broken_links(text, ROOT / "docs" / "json.md") == ["no.md", "images/no.png", "cli.md#no-such"]


# A file as text names it: from the root (src/…, tests/…) or from a room, e.g. `data/order.py:TokenOrder`.
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py|(?:src|tests|tools|benchmarks)/[\w./-]*)(?::(\w+))?`")


def unknown_names(text: str) -> list[str]:
    """Files, and functions or classes of files, that a page names and that do not exist."""
    unknown = []
    for path, name in _FILE.findall(text):
        places = [ROOT / path, ROOT / "src" / "gptwo" / path]
        if "/" not in path:
            places += [*(ROOT / "src" / "gptwo").rglob(path)]
        files = [file for file in places if file.exists()]
        defined = rf"^(?:def|class) {name}\b|^{name}\b.*=" if name else ""
        if not any(
            not name or re.search(defined, file.read_text(encoding="utf-8"), re.MULTILINE) for file in files
        ):
            unknown.append(f"{path}:{name}" if name else path)
    return unknown


@each_page
def test_every_file_and_function_that_a_page_names_exists(page: Path) -> None:
    assert unknown_names(page.read_text(encoding="utf-8")) == []


def test_an_unknown_name_is_seen() -> None:
    text = (
        "`data/order.py:TokenOrder` `order.py` `data/no.py` `data/order.py:no` `src/gptwo/no/` `tests/unit/`"
    )
    assert unknown_names(text) == ["data/no.py", "data/order.py:no", "src/gptwo/no/"]


# --- the command line's reference ---------------------------------------------------------------------------------


@pytest.fixture
def cli_reference() -> ModuleType:
    specification = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools/cli_reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_reference_is_fresh(cli_reference: ModuleType) -> None:
    assert cli_reference.main(["--check"]) == 0, "docs/cli.md is stale: run `make docs`"


def test_a_stale_reference_is_one_line_and_code_1(
    cli_reference: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli_reference, "TARGET", tmp_path / "cli.md")
    for prepared in (None, "# Something else\n"):
        if prepared is not None:
            (tmp_path / "cli.md").write_text(prepared, encoding="utf-8")
        assert cli_reference.main(["--check"]) == 1
        assert capsys.readouterr().err == "cli.md is stale: run `make docs` and commit it\n"
    assert cli_reference.main([]) == 0
    assert cli_reference.main(["--check"]) == 0


def test_the_reference_does_not_depend_on_the_terminal(
    cli_reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cli_reference.reference()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli_reference.reference() == expected


def test_every_flag_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text


def test_the_guide_has_every_limit_of_the_server_with_its_default() -> None:
    section = sections(ROOT / "docs" / "guides" / "serve.md")["Limits"]
    documented = dict(re.findall(r"^\| `(--[\w-]+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    commands = next(a for a in cli.build_parser()._actions if isinstance(a.choices, dict))
    assert commands.choices is not None
    limits = {
        action.option_strings[0]: f"{action.default:g}" if action.default < 1000 else str(action.default)
        for action in commands.choices["serve"]._actions
        if isinstance(action.default, int | float) and action.dest not in ("port", "log_prompts")
        if action.metavar
    }
    assert len(limits) > 10
    assert {flag: documented.get(flag) for flag in limits} == limits
    assert documented.keys() - limits.keys() == {"--kv-tokens", "--max-prompt-tokens"}


# --- keys of --json, metrics.jsonl and TOML -----------------------------------------------------------------------


def sections(page: Path) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_keys(text: str) -> set[str]:
    """The first cells of a section's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))


def leaves(value: Any, path: str = "") -> set[str]:
    """The paths of the values in a JSON object, as the tables write them; both splits are S."""
    if isinstance(value, dict):
        return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".lstrip("."))}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {leaf for inner in value for leaf in leaves(inner, f"{path}[]")}
    return {re.sub(r"^splits\.(train|val)\b", "splits.S", path)}


def output_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    output: dict[str, Any] = json.loads(line)
    return output


def check_section(command: str, output: dict[str, Any]) -> None:
    section = sections(ROOT / "docs" / "json.md")[f"`gptwo {command}`"]
    (example,) = (json.loads(block.text) for block in blocks(section) if block.language == "json")
    containers = {
        "evaluation",
        "texts",
    }  # rows that say of an object or array when it is null, or how long it is
    assert documented_keys(section) - containers == leaves(output), "the table is not the output's keys"
    assert leaves(example) == leaves(output), "the example has not the output's keys"
    assert list(example) == list(output), "the example has another order"


def test_keys_of_info(capsys: pytest.CaptureFixture[str]) -> None:
    output = output_of(["info", "mini"], capsys)
    check_section("info", output)
    section = sections(ROOT / "docs" / "json.md")["`gptwo info`"]
    assert f"two of its {len(output['rows'])} rows" in section
    (example,) = (json.loads(block.text) for block in blocks(section) if block.language == "json")
    assert all(row in output["rows"] for row in example.pop("rows"))
    assert {key: output[key] for key in example} == example


PLANS = {
    "plan": [
        "--device",
        "a100",
        "--batch-tokens",
        "524288",
        "--tokens",
        "10e9",
        "--gpus",
        "8",
        "--price",
        "2",
    ],
    "plan --generate": [
        *("--device", "raspberry-pi-5", "--memory", "8GiB", "--generate", "128", "--slots", "4"),
        *("--dtype", "int8", "--price", "0.01"),
    ],
}


@pytest.mark.parametrize("name", PLANS)
def test_keys_of_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "gpt2", *PLANS[name], "--json", "-"]) == 0
    output = json.loads(capsys.readouterr().out)
    check_section(name, output)
    section = sections(ROOT / "docs" / "json.md")[f"`gptwo {name}`"]
    assert f"`gptwo plan gpt2 {' '.join(PLANS[name])} --json -`:" in section
    (example,) = (json.loads(block.text) for block in blocks(section) if block.language == "json")
    assert example == output, "the example is another plan than this command's"


def test_keys_of_prepare(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_section(
        "prepare", output_of(["prepare", str(world / "texts"), "--out", str(tmp_path / "d")], capsys)
    )


def test_keys_of_train_and_of_its_log(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--data", str(world / "data" / "mine"), "--out", str(run), *SMALLER.split()]
    check_section("train", output_of(arguments, capsys))
    page = sections(ROOT / "docs" / "metrics.md")["metrics.jsonl"]
    logged = {tuple(record) for record in read_metrics(run / "metrics.jsonl")}
    examples = {tuple(json.loads(block.text)) for block in blocks(page) if block.language == "json"}
    assert examples == logged
    assert documented_keys(page) == {key for record in logged for key in record}


def test_keys_of_finetune_and_merge(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    arguments = ["finetune", str(world / "runs/mine"), "--data", str(world / "more"), "--out", run]
    check_section(
        "finetune",
        output_of([*arguments, "--lora-rank", "2", "--steps", "1", "--sample-tokens", "0"], capsys),
    )
    check_section("merge", output_of(["merge", run, "--out", str(tmp_path / "merged")], capsys))


def test_keys_of_quantize(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(world / "runs/mine"), "--to", "int8", "--out", str(tmp_path / "small")]
    check_section("quantize", output_of(arguments, capsys))


def test_keys_of_generate(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", str(world / "runs" / "mine"), "--prompt", "sea", "--max-new-tokens", "2"]
    check_section("generate", output_of(arguments, capsys))
    (tmp_path / "prompts.txt").write_text("sea\nrain\n", encoding="utf-8")
    arguments = [*arguments[:2], "--prompts", str(tmp_path / "prompts.txt"), "--max-new-tokens", "2"]
    check_section("generate --prompts FILE", output_of(arguments, capsys))


TASK_LINES = {
    "lambada": {"text": "the sea keeps what rivers bring"},
    "multiple-choice": {"query": "the sea keeps", "choices": ["what rivers bring", "rain"], "answer": 0},
}


def test_keys_of_eval(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", str(world / "runs" / "mine"), "--data"]
    check_section("eval", output_of([*arguments, str(world / "data" / "mine")], capsys))
    for task, line in TASK_LINES.items():
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(line), encoding="utf-8")
        output = output_of([*arguments, str(tmp_path / f"{task}.jsonl"), "--task", task], capsys)
        check_section(f"eval --task {task}", output)


def test_keys_of_demo() -> None:
    result = DemoResult(
        run=Path("r"),
        data=Path("d"),
        checkpoint=Path("c"),
        source="s",
        parameters=1,
        steps=1,
        evaluation=Evaluation(nats_per_token=1.0, nats_per_byte=1.0, tokens=1, bytes=1),
        baselines=Baselines(bigram=1.0, zlib=1.0, lzma=1.0),
        prompt="p",
        sample="s",
        seconds=1.0,
    )
    check_section("demo", result.to_json())


def test_the_toml_of_the_guide_is_a_configuration() -> None:
    page = (ROOT / "docs" / "guides" / "train.md").read_text(encoding="utf-8")
    (toml,) = (block.text for block in blocks(page) if block.language == "toml")
    assert TrainConfig.from_mapping(tomllib.loads(toml)).model in PRESETS
