"""A cold start: a new process of the command, until its first token is written. Imports nothing that takes memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PROMPT = "The sea keeps what rivers bring"


def start(model: Path, dtype: str, threads: int) -> dict[str, float]:
    """Seconds to the first token, and the greatest resident memory in bytes of a process that writes one token.

    Must run in a small process: a child's figure starts at the memory of whoever started it.
    """
    command = [
        *(sys.executable, "-m", "gptwo", "generate", str(model), "--prompt", PROMPT, "--max-new-tokens", "1"),
        *("--temperature", "0", "--engine", "native", "--dtype", dtype, "--threads", str(threads)),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.fileno()
    text = b""
    # The prompt is printed at once; what follows it is the token, or the newline after one that is half a character.
    while len(text) <= len(PROMPT) and (piece := os.read(output, 4096)):
        text += piece
    first_token_s = time.perf_counter() - began
    while os.read(output, 4096):
        pass
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(text) <= len(PROMPT):
        raise RuntimeError(f"gptwo generate ended with code {process.returncode}")
    return {"first_token_s": first_token_s, "resident_bytes": usage.ru_maxrss * 1024}
