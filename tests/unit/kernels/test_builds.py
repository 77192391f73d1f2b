"""How the native library is built: without a compiler, for another processor, and under the compiler's sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[3]
NATIVE = ROOT / "src" / "gptwo" / "kernels" / "native"
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
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the sanitizers are preloaded")
def test_the_kernels_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    built = build(
        tmp_path / "lib", GPTWO_CXXFLAGS="-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer"
    )
    assert built.returncode == 0, built.stderr
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so"))
    name = "_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))
    shutil.copy(tmp_path / "lib/gptwo/kernels" / name, tmp_path / "src/gptwo/kernels" / name)
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        "PYTHONPATH": str(tmp_path / "src"),
        "LD_PRELOAD": ":".join(libraries),
        # Python keeps memory until it ends; of what it allocates, each piece is to be seen.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-s",
            "-p",
            "no:faulthandler",
            "tests/unit/kernels/test_library.py",
            "tests/unit/kernels/test_top.py",
            "tests/unit/kernels/test_choose.py",
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
