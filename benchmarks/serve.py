"""What gptwo's server answers beside others, on the same weights, machine and load.

    python benchmarks/serve.py [--rounds 3] [--servers "gptwo fp32,..."] [--clients 1,4,16,64] [--quick]

    1  requests and tokens per second at 1, 4, 16 and 64 clients, beside the best of the others at equal precision
    2  what a prefix of 480 of 512 tokens saves, once it was read

Prompts of 32 to 512 tokens, replies of exactly 64 to 256, greedy, streamed; each client asks, reads, thinks and asks
again (serving/load.py says why). Servers run one at a time, each round each in turn, in a process of its own; the
median over the rounds counts. A server whose greedy answers are not those of gptwo's torch engine in fp32, where these
are sure enough, is not timed. A load ends for a server after --limit seconds: what came by then counts. Client and
server share the machine, so the client's own share of the time is measured too.

One that is not installed is left out, with a line that says how to install it; peers may live in an environment of
their own (--peer-python). Weights are random unless --model gives some; --work keeps them and what peers convert them
to. Each run adds a line to ``benchmarks/history/serve.jsonl``; ``python benchmarks/performance.py`` makes the tables of
docs/performance.md from it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import record
from decode import add_common, print_bars, work_folder
from decoding.bars import Row
from serving import bars, load, prefix
from serving.client import Answer, RequestError, stream
from serving.servers import DISTRIBUTIONS, SERVERS, body, command, free_port, interpreter, running

from gptwo.checkpoint.released_config import read_config
from gptwo.perf.environment import others_share
from gptwo.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent
# Requests in all at a load of so many clients: each asks at least once, few ask several times.
REQUESTS = {1: 4, 4: 8, 16: 24, 64: 64}
QUICK_S, QUICK_REQUESTS = 4.0, 8
CANDIDATES, CANDIDATE_TOKENS = 120, 32
FAILURES = (OSError, EOFError, ValueError, RequestError, RuntimeError)


def environment() -> dict[str, str]:
    """Of every process that is started: gptwo can be imported, and nothing is fetched."""
    path = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "HF_HUB_OFFLINE": "1"}


def ask(what: str, *arguments: Any, python: str = sys.executable) -> Any:
    """A worker's answer. ``RuntimeError`` with the last line of its errors."""
    line = [python, str(HERE / "serve_worker.py"), what, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


class Run:
    """One run of the benchmark: where its models lie, who takes part, and what is asked."""

    def __init__(self, work: Path, model: Path, options: argparse.Namespace) -> None:
        self.work, self.model, self._options = work, model, options
        self.context = read_config(model).context
        self.left_out: dict[str, str] = {}

    def pages(self, seed: int) -> load.Pages:
        """Prompts from the sources of Python's library, by the model's own tokenizer."""
        tokenizer = Tokenizer.load(self.model)
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        return load.Pages(text, tokenizer.encode, tokenizer.decode, seed)

    def telling(self) -> dict[str, list[tuple[str, int, str]]]:
        """By bits: prompts with the one right answer to each."""
        pages, file = self.pages(seed=1), self.work / "candidates.json"
        file.write_text(
            json.dumps([pages.take(CANDIDATE_TOKENS) for _ in range(CANDIDATES)]), encoding="utf-8"
        )
        found: dict[str, list[tuple[str, int, str]]] = ask("telling", self.model, file)
        return found

    def started(self, name: str, port: int) -> Any:
        """The server, answering on ``port`` for as long as the block lasts."""
        python, model = self._python(name), self.model
        if SERVERS[name].converts:
            model = self.work / f"llama.cpp-{SERVERS[name].precision}"
            if not (model / "done").exists():
                ask("convert", self.model, model, SERVERS[name].precision, python=python)
            model /= "model.gguf"
        threads = self._options.threads
        line = command(name, model, port, python=python, threads=threads, context=self.context)
        log = self.work / f"{name.replace(' ', '-')}.log"
        return running(name, line, port, log, {**environment(), "OMP_NUM_THREADS": str(threads)})

    def _python(self, name: str) -> str:
        return sys.executable if SERVERS[name].ours else interpreter(name, self._options.peer_python)

    def leave_out(self, name: str, error: BaseException) -> None:
        packages = DISTRIBUTIONS[SERVERS[name].family]
        reason = f"{error}" or type(error).__name__
        if any(kind in reason for kind in ("ModuleNotFoundError", "ImportError")) and packages:
            reason = f"needs {' and '.join(packages)}: pip install {' '.join(map(repr, packages))}"
        self.left_out[name] = reason
        print(f"{name} is left out: {reason}", flush=True)

    def check(self, name: str, port: int, told: Mapping[str, list[tuple[str, int, str]]]) -> None:
        """``RuntimeError`` where the server does not write what the reference writes. Warms it up, too."""
        for prompt, count, expected in told[str(SERVERS[name].bits)]:
            answer = Answer(sent=0.0, wanted=count)
            asyncio.run(stream(port, body(name, self.model, prompt, count), answer))
            if answer.text != expected:
                raise RuntimeError(f"it does not write what gptwo writes: {answer.text!r}, not {expected!r}")

    def time(
        self,
        name: str,
        asked: Mapping[int, list[list[load.Request]]],
        families: list[prefix.Family],
        told: Mapping[str, list[tuple[str, int, str]]],
    ) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
        """A round of one server: figures by load, and of ours those of the prefix cache."""
        port = free_port()
        body_of = partial(body, name, self.model)
        with self.started(name, port):
            self.check(name, port, told)
            loads = {
                clients: asyncio.run(load.run(port, requests, body_of, self._options.limit))
                for clients, requests in asked.items()
            }
            cached = asyncio.run(prefix.measure(port, families, body_of)) if SERVERS[name].ours else {}
        return loads, cached

    def rounds(self, names: list[str]) -> dict[str, Any]:
        """All servers over all rounds: spreads by server, load and figure."""
        told = self.telling()
        seen: dict[str, dict[int, list[dict[str, float]]]] = {}
        cached: dict[str, list[dict[str, float]]] = {}
        for number in range(self._options.rounds):
            pages = self.pages(seed=2 + number)
            asked = {
                n: load.draw(n, self.requests(n), pages, context=self.context, seed=n)
                for n in self._options.clients
            }
            count = 1 if self._options.quick else prefix.FAMILIES
            families = prefix.families(pages, count, context=self.context)
            for name in [name for name in names if name not in self.left_out]:
                try:
                    loads, found = self.time(name, asked, families, told)
                except FAILURES as error:
                    self.leave_out(name, error)
                    seen.pop(name, None)
                    cached.pop(name, None)
                    continue
                for clients, figures in loads.items():
                    seen.setdefault(name, {}).setdefault(clients, []).append(figures)
                if found:
                    cached.setdefault(name, []).append(found)
                print(f"round {number + 1}: {name} done", file=sys.stderr, flush=True)
        return {
            "servers": {
                name: {str(clients): spreads(figures) for clients, figures in loads.items()}
                for name, loads in seen.items()
            },
            "prefix": {name: spreads(found) for name, found in cached.items()},
        }

    def requests(self, clients: int) -> int:
        """In all, at this load."""
        whole = REQUESTS.get(clients, clients)
        return min(whole, max(QUICK_REQUESTS, clients)) if self._options.quick else whole

    def versions(self) -> dict[str, str]:
        """Of the peers that were timed."""
        found: dict[str, str] = {}
        for name, server in SERVERS.items():
            if name not in self.left_out and not server.ours:
                packages = [package.partition("[")[0] for package in DISTRIBUTIONS[server.family]]
                found.update(ask("versions", *packages, python=self._python(name)))
        return found


def spreads(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Of each figure its spread over the rounds."""
    return {key: record.spread([figures[key] for figures in rounds]) for key in rounds[0]}


def measure(run: Run, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a run, as its line in the history has them."""
    busy = others_share()
    found = run.rounds(names)
    return {
        "size": options.size if options.model is None else str(options.model),
        "quick": options.quick,
        "threads": options.threads,
        "rounds": options.rounds,
        "limit_s": options.limit,
        "loads": options.clients,
        "requests": {str(n): run.requests(n) for n in options.clients},
        "others_share": max(busy, others_share()),
        "peers": run.versions(),
        **found,
        "left_out": run.left_out,
    }


def print_figures(figures: dict[str, Any], rows: list[Row]) -> None:
    """The table of speeds, the bars, and what the client took."""
    head, cells = bars.speeds(figures)
    if cells:
        print(f"\nmedians of {figures['rounds']} rounds, {figures['threads']} threads")
        for row in [head, *cells]:
            print(f"{row[0]:24}" + "".join(f"{cell:>19}" for cell in row[1:]))
        shares = [
            one["client_cpu_share"]["max"] for loads in figures["servers"].values() for one in loads.values()
        ]
        print(f"the client took at most {max(shares):.1%} of one core")
    print_bars(rows, figures)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", default=",".join(SERVERS), help="names, with commas")
    parser.add_argument("--clients", default="1,4,16,64", help="loads, with commas")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of a load, at most")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it runs")
    add_common(parser, rounds=3, peer="llama_cpp.server")
    options = parser.parse_args()
    options.clients = sorted(map(int, options.clients.split(",")))
    if options.quick:
        options.rounds, options.limit = 1, min(options.limit, QUICK_S)
    with work_folder(options.work) as work:
        model = options.model or work / f"{options.size}-serve"
        if not model.exists():
            ask("make", options.size, model)
        figures = measure(Run(work, model, options), options.servers.split(","), options)
    rows = bars.rows(figures)
    print_figures(figures, rows)
    record.append("serve", {**figures, "bars": [row.to_json() for row in rows]})


if __name__ == "__main__":
    main()
