"""Settings of every test: threads, no network, no time limits of hypothesis; nothing heavy is imported here."""

from __future__ import annotations

import os

from hypothesis import settings

# Set before torch and the tokenizers are imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Processes that a test starts buffer their output as a user's do; without buffers some mistakes do not show.
os.environ.pop("PYTHONUNBUFFERED", None)

# No deadline: a first call compiles and loads, and machines differ. Derandomised: a check fails for everyone or no one.
settings.register_profile("checks", deadline=None, derandomize=True)
settings.load_profile("checks")
