"""How the native library is built: without a compiler, for another processor, and under the compiler's sanitizers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[3]
NATIVE = ROOT / "src" / "gptwo" / "kernels" / "native"
# The kernels, the forward pass over pages, and what is asked of every engine.
NATIVE_TESTS = [
    "tests/unit/kernels/test_library.py",
    "tests/unit/kernels/test_top.py",
    "tests/unit/kernels/test_choose.py",
    "tests/unit/kernels/test_shapes.py",
    "tests/unit/infer/test_native_engine.py",
    "tests/contract/test_engines.py",
]
# Before it, a license that is a name was no license.
SETUPTOOLS = 77

needs_setuptools = pytest.mark.skipif(
    int(setuptools.__version__.split(".")[0]) < SETUPTOOLS,
    reason=f"setuptools {setuptools.__version__} reads no pyproject.toml of this kind; needs {SETUPTOOLS}: "
    "pip install -U setuptools",
)


def build(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["build_ext", "--build-lib", str(out), "--build-temp", str(out / "objects")]
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_setuptools
def test_without_a_compiler_an_installation_goes_on_and_auto_says_why_it_is_torch(tmp_path: Path) -> None:
    built = build(tmp_path / "lib", CC="/nowhere/cc", CXX="/nowhere/c++")
    assert built.returncode == 0, built.stderr
    assert not list(tmp_path.rglob("_native*"))
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so"))
    code = (
        "from pathlib import Path; from gptwo.infer.engines import choose_engine; "
        "from random_checkpoint import write_random_checkpoint; from gptwo.config import GPT2Config; "
        "shape = GPT2Config(n_layer=1, n_head=1, n_embd=4, context=4, vocab_size=5); "
        f"print(*choose_engine(write_random_checkpoint(Path({str(tmp_path / 'model')!r}), shape), dtype='fp32'))"
    )
    path = os.pathsep.join([str(tmp_path / "src"), str(ROOT / "tests")])
    chosen = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert chosen.stdout.startswith("torch the native kernels are not built"), chosen.stderr


@pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or shutil.which("aarch64-linux-gnu-g++") is None,
    reason="needs an emulator and a compiler for 64-bit Arm: apt install qemu-user g++-aarch64-linux-gnu",
)
def test_neon_computes_what_the_portable_kernels_do(tmp_path: Path) -> None:
    sources = [
        NATIVE / "kernels_neon.cpp",
        NATIVE / "kernels_portable.cpp",
        ROOT / "tests/native/compare.cpp",
    ]
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-static", "-DOTHER=neon", f"-I{NATIVE}"]
    program = tmp_path / "compare"
    subprocess.run(["aarch64-linux-gnu-g++", *flags, *map(str, sources), "-o", str(program)], check=True)
    ran = subprocess.run(["qemu-aarch64", str(program)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "all alike\n")


@pytest.mark.long
@needs_setuptools
@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("objdump") is None,
    reason="needs an x86 processor, where files are compiled for several, and objdump (binutils)",
)
def test_what_several_files_define_runs_on_every_machine(tmp_path: Path) -> None:
    # Nothing is inlined, so that each function that the files share has a copy in each of them.
    built = build(tmp_path / "lib", GPTWO_CXXFLAGS="-O0")
    assert built.returncode == 0, built.stderr
    (library,) = (tmp_path / "lib").rglob("_native*")
    listing = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = [function.partition(">:\n") for function in listing.split("\n\n")]
    shared = {name: code for name, _, code in functions if code and "gptwo::avx" not in name}
    assert any("gptwo::Matrix::panel(" in name for name in shared)
    beyond = re.compile(r"\tv[a-z]|%[yz]mm")
    assert not [name for name, code in shared.items() if beyond.search(code)]


def sanitized(tmp_path: Path, *kinds: str) -> Path:
    """The native library under these sanitizers of the compiler's."""
    flags = f"-O1 -g -fsanitize={','.join(kinds)} -fno-omit-frame-pointer"
    built = build(tmp_path / "lib", GPTWO_CXXFLAGS=flags)
    assert built.returncode == 0, built.stderr
    (library,) = (tmp_path / "lib").rglob("_native*")
    return library


def outcome(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
@needs_setuptools
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the sanitizers are preloaded")
def test_the_native_engine_passes_its_tests_under_sanitizers(tmp_path: Path) -> None:
    library = sanitized(tmp_path, "address", "undefined")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(library, tmp_path / "src/gptwo/kernels")
    preloaded = [
        outcome(["g++", f"-print-file-name={name}"]).stdout.strip() for name in ("libasan.so", "libubsan.so")
    ]
    ran = outcome(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "-p",
            "no:faulthandler",
            "-k",
            # The address sanitizer alone takes more addresses than that test allows a process.
            "not torch and not the_system_refuses",
            *NATIVE_TESTS,
        ],
        PYTHONPATH=str(tmp_path / "src"),
        LD_PRELOAD=":".join(preloaded),
        # Python keeps memory until it ends; of what it allocates, each piece is to be seen.
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1",
        PYTHONMALLOC="malloc",
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


@pytest.mark.long
@needs_setuptools
@pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: a thread sanitizer and a path within a program"
)
def test_threads_and_engines_side_by_side_have_no_races(tmp_path: Path) -> None:
    library = sanitized(tmp_path, "thread")
    program = tmp_path / "threads"
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{NATIVE}"]
    built = outcome(
        [
            "g++",
            *flags,
            ROOT / "tests/native/threads.cpp",
            library,
            f"-Wl,-rpath,{library.parent}",
            "-o",
            program,
        ]
    )
    assert built.returncode == 0, built.stderr
    ran = outcome([program])
    assert (ran.returncode, ran.stdout) == (0, "all alike\n"), ran.stderr[-3000:]
