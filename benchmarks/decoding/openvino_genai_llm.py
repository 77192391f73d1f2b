"""OpenVINO GenAI's ``LLMPipeline`` over what its own exporter makes of the folder, with all of its defaults."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from decoding.engines import Written


def convert(model: Path, converted: Path, precision: str) -> None:
    command = [
        *(sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"),
        *("--model", str(model), "--task", "text-generation-with-past", "--weight-format", precision),
        str(converted),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["optimum-cli failed"])[-1])


class OpenVINO:
    def __init__(self, converted: Path, threads: int) -> None:
        self._pipeline = openvino_genai.LLMPipeline(str(converted), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count + 1
        config.ignore_eos = True
        config.do_sample = False
        began = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        whole_s = time.perf_counter() - began
        times = result.perf_metrics.raw_metrics.m_new_token_times
        decode_s = (times[-1] - times[0]) / 1e3
        return Written(whole_s - decode_s, decode_s, np.array(result.tokens), None)


def load(model: Path, converted: Path, precision: str, threads: int) -> OpenVINO:
    return OpenVINO(converted, threads)
