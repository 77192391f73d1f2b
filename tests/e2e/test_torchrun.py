"""``torchrun -m gptwo train`` as a user runs it: one voice, signals, errors, a rank that dies, two machines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from tests.command import prepared

import gptwo
from gptwo.checkpoint.runs import checkpoint_path, list_checkpoints, newest_whole
from gptwo.train.metrics import read_metrics

TIMEOUT_S = 300
SMALL = """
    --n-layer 1 --n-head 2 --n-embd 16 --context 16 --batch-tokens 64 --micro-batch 1 --dropout 0 --lr 1e-3
    --warmup-steps 1 --eval-every 1000 --log-every 1 --sample-tokens 0 --device cpu
""".split()  # noqa: SIM905 - as one types them


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"))


@contextmanager
def torchrun(
    *arguments: object,
    log: Path,
    ranks: int = 2,
    options: Sequence[object] = ("--standalone",),
    inside: Sequence[str] = (),
    folder: Path | None = None,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """``torchrun --nproc-per-node RANKS OPTIONS -m gptwo train ARGUMENTS``, what it says in ``log``; killed at the end.

    ``inside`` goes before the command, which runs in ``folder``.
    """
    line = [*inside, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    line += [*map(str, options), "-m", "gptwo", "train", *SMALL, *map(str, arguments)]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gptwo.__file__).parents[1]), **environment}
    with log.open("wb") as file:
        launched = subprocess.Popen(line, stdout=file, stderr=file, cwd=folder, env={**os.environ, **own})
        try:
            yield launched
            launched.wait(TIMEOUT_S)
        finally:
            if launched.poll() is None:
                for process in psutil.Process(launched.pid).children(recursive=True):
                    process.kill()
                launched.kill()
                launched.wait()


def rank_processes(launched: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The ranks that it runs now, in their order."""
    ranks = {
        int(number): process
        for process in psutil.Process(launched.pid).children(recursive=True)
        if (number := process.environ().get("RANK"))
    }
    return [ranks[number] for number in sorted(ranks)]


def wait_until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def last_saved(run: Path) -> int:
    return int(list_checkpoints(run)[-1].name.removeprefix("step-"))


def assert_whole_after_a_restart(run: Path, said: str, *, saved: int, steps: int) -> None:
    """The run went on from ``saved`` or later, and its log has every step once."""
    assert saved < steps, "it was killed too late to prove anything"
    (resumed,) = re.findall(r"resumed after step (\d+)", said)
    assert int(resumed) >= saved, "it lost a step that was saved"
    logged = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
    assert logged == list(range(1, steps + 1))
    assert newest_whole(run) == checkpoint_path(run, steps)


def test_a_killed_rank_is_started_again_and_the_run_goes_on_from_its_last_save(
    data: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = ("--data", data, "--out", run, "--steps", 400, "--save-every", 10)
    with torchrun(*arguments, log=log, options=("--standalone", "--max-restarts", 1)) as launched:
        wait_until(lambda: len(list_checkpoints(run)) >= 2)
        rank_processes(launched)[1].kill()
        saved = last_saved(run)
    said = log.read_text(encoding="utf-8")
    assert launched.returncode == 0, said
    assert_whole_after_a_restart(run, said, saved=saved, steps=400)
    assert said.count("write with it") == 1, "one rank speaks"
    assert said.count("RankError: rank 0 of 2 has lost another rank") == 1


def test_a_signal_to_one_rank_stops_all_at_one_step(data: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    with torchrun("--data", data, "--out", run, "--steps", 100_000, "--save-every", 10, log=log) as launched:
        wait_until(lambda: list_checkpoints(run))
        rank_processes(launched)[1].send_signal(signal.SIGTERM)
    said = log.read_text(encoding="utf-8")
    assert launched.returncode == 0, said
    (stopped,) = re.findall(r"SIGTERM: saved step (\d+); go on with: gptwo train --out", said)
    assert newest_whole(run) == checkpoint_path(run, int(stopped))
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == int(stopped)


@pytest.fixture
def two_machines() -> Iterator[list[tuple[str, str, str]]]:
    """(network namespace, interface, address) of each of two, joined by a cable: they share nothing but the disk."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces needs root and the command ip (iproute2)")
    machines = [(f"gptwo{os.getpid()}-{n}", f"gptwo{n}", f"10.213.7.{n}") for n in (1, 2)]
    (first, cable, _), (second, end, _) = machines
    commands = [f"netns add {first}", f"netns add {second}"]
    commands += [f"link add {cable} netns {first} type veth peer name {end} netns {second}"]
    for name, interface, address in machines:
        commands += [f"-n {name} addr add {address}/24 dev {interface}"]
        commands += [f"-n {name} link set {each} up" for each in ("lo", interface)]
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this system allows no `ip {command}`: {done.stderr.strip()}")
        yield machines
    finally:
        for name, _, _ in machines:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_machines_and_a_rank_killed_on_the_one_without_the_run(
    data: Path, tmp_path: Path, two_machines: list[tuple[str, str, str]]
) -> None:
    """The run folder is relative to a folder of each machine, so that only rank 0's machine has one."""
    launches = []
    with ExitStack() as stack:
        for number, (name, interface, address) in enumerate(two_machines):
            folder = tmp_path / str(number)
            folder.mkdir()
            rendezvous = f"--nnodes 2 --max-restarts 1 --rdzv-id t --rdzv-backend c10d --local-addr {address}"
            host = f"--rdzv-endpoint {two_machines[0][2]}:29400 --rdzv-conf is_host={int(number == 0)}"
            launched = stack.enter_context(
                torchrun(
                    *("--data", data, "--out", "run", "--steps", 200, "--save-every", 10),
                    log=folder / "log",
                    ranks=1,
                    options=(*rendezvous.split(), *host.split()),
                    inside=("ip", "netns", "exec", name),
                    folder=folder,
                    GLOO_SOCKET_IFNAME=interface,
                )
            )
            launches.append((launched, folder))
        wait_until(lambda: any(len(list_checkpoints(folder / "run")) >= 2 for _, folder in launches))
        launches.sort(key=lambda launch: not (launch[1] / "run").exists())
        (first, with_run), (second, without) = launches
        rank_processes(second)[0].kill()
        saved = last_saved(with_run / "run")
    said = (with_run / "log").read_text(encoding="utf-8")
    assert (first.returncode, second.returncode) == (0, 0), said + (without / "log").read_text(
        encoding="utf-8"
    )
    assert_whole_after_a_restart(with_run / "run", said, saved=saved, steps=200)
    assert not (without / "run").exists()
