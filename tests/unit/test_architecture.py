"""Rules of the house that import-linter cannot say; its contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "gptwo"
FILES = sorted(SOURCE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))

LONGEST_FILE = 300


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``, which never run."""
    yield node
    for child in ast.iter_child_nodes(node):
        if (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        ):
            continue
        yield from run_time_nodes(child)


def imported_packages(path: Path) -> set[str]:
    """The first part of every module that ``path`` imports when it runs."""
    names: set[str] = set()
    for node in run_time_nodes(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: a relative import"
            assert node.module is not None
            names.add(node.module.split(".")[0])
    return names


def test_there_are_files() -> None:
    assert {"cli/__init__.py", "costs/table.py", "model/gpt2.py"} <= {relative(path) for path in FILES}


def test_model_imports_torch_and_the_standard_library_only() -> None:
    allowed = {"torch", "gptwo", *sys.stdlib_module_names}
    foreign = {
        relative(path): found
        for path in (SOURCE / "model").glob("*.py")
        if (found := imported_packages(path) - allowed)
    }
    assert not foreign


@pytest.mark.parametrize("module", ["gptwo.config", "gptwo.costs", "gptwo.base.errors", "gptwo.cli", "gptwo"])
def test_starts_without_torch_or_numpy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCE.parent)},
    )
    assert done.stdout.split() == []


@each_file
def test_no_pickle_is_opened(path: Path) -> None:
    """``pickle`` and its kin are not imported, and torch's loader, which reads pickles, is not called."""
    assert not imported_packages(path) & {
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
    }
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            assert name != "torch.load", f"line {node.lineno}: torch.load reads pickles"
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
            assert "load" not in {alias.name for alias in node.names}, (
                f"line {node.lineno}: torch.load reads pickles"
            )
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), (
                f"line {node.value.lineno}: allow_pickle is not a constant"
            )
            assert node.value.value is False, f"line {node.value.lineno}: allow_pickle"


@each_file
def test_only_commands_print(path: Path) -> None:
    """Others return, raise, or are given a console to write to."""
    if relative(path).startswith("cli/") or relative(path) == "evaluation/__main__.py":
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "input"}, f"line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in {"stdout", "stderr", "stdin"}, f"line {node.lineno}: sys.{node.attr}"


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}
