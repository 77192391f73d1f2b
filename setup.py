"""Builds the native kernels with the rest; what else there is to say of the package stands in pyproject.toml.

A plain shared library, called through ctypes: it needs a C++ compiler and no headers of Python's. Where there is no
compiler, the package installs without it, and `engine=auto` runs on torch and says so.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/gptwo/kernels/native")
ARM = platform.machine().lower() in ("aarch64", "arm64")
# Every file of kernels is compiled for one instruction set; which of them runs is chosen at run time. Of a function
# that several files define, a linker keeps the first copy: so what runs on every machine comes first.
FLAGS = {
    "api.cpp": [],
    "model.cpp": [],
    "head.cpp": [],
    "choose.cpp": [],
    "pool.cpp": [],
    "kernels_portable.cpp": [],
    "kernels_neon.cpp": [],
    "kernels_avx2.cpp": ["-mavx2", "-mfma"],
    # gcc 12 calls what its own header leaves undefined on purpose uninitialized.
    "kernels_avx512.cpp": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512vnni",
        "-mfma",
        "-Wno-uninitialized",
        "-Wno-maybe-uninitialized",
    ],
}
# No product is fused with a sum but where the source says so: that would depend on what stands around it.
COMMON = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-Wall", "-Wextra"]


def _sources() -> list[str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    left_out = {"kernels_neon.cpp": ARM, "kernels_avx512.cpp": x86, "kernels_avx2.cpp": x86}
    return [str(NATIVE / name) for name in FLAGS if left_out.get(name, True)]


class BuildNative(build_ext):
    """Compiles each file with the flags of its instruction set, and links them without Python's own library."""

    def build_extension(self, ext: Extension) -> None:
        extra = os.environ.get("GPTWO_CXXFLAGS", "").split()
        objects: list[str] = []
        for source in ext.sources:
            objects += self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                extra_postargs=[*COMMON, *FLAGS[Path(source).name], *extra],
                depends=ext.depends,
            )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=["-pthread", *extra],
            target_lang="c++",
        )


setup(
    ext_modules=[
        Extension(
            "gptwo.kernels._native",
            sources=_sources(),
            depends=[str(path) for path in sorted(NATIVE.glob("*")) if path.suffix in (".h", ".inl")],
            language="c++",
            # Neither a missing compiler nor a strange one may stop an installation.
            optional=True,
        )
    ]
    if sys.platform != "win32"
    else [],
    cmdclass={"build_ext": BuildNative},
)
