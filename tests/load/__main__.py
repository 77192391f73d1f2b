"""One attack by hand, at the size that is asked for; prints its figures as JSON.

    python tests/load overload random --seconds 60
    python tests/load aborts random --count 5000
    python tests/load slow random --connections 500
    python tests/load drain random
    python tests/load soak random --seconds 3600
    python tests/load heavy random --seconds 60

The second argument is a checkpoint, or "random" for a small one made on the spot; ``src`` and ``tests`` must be on
PYTHONPATH. Flags behind ``--`` go to the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import attacks

from running_server import RunningServer, running_server, small_model

SLOTS, QUEUE = 8, 8
BEATING = Path(__file__).with_name("beating.py")


def attack(server: RunningServer, arguments: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    match arguments.attack:
        case "overload":
            clients = 20 * (SLOTS + QUEUE)
            return attacks.overload(server, clients=clients, seconds=arguments.seconds)
        case "aborts":
            return attacks.aborts(server, count=arguments.count, at_once=SLOTS + QUEUE)
        case "slow":
            return attacks.slow(server, connections=arguments.connections, seconds=arguments.seconds)
        case "drain":
            return attacks.drain(server, clients=SLOTS, tokens=900)
        case "soak":
            return attacks.soak(server, clients=SLOTS, seconds=arguments.seconds)
        case _:
            return attacks.heavy(server, seconds=arguments.seconds)


def main() -> int:
    given = sys.argv[1:]
    given, flags = (
        (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    )
    parser = argparse.ArgumentParser(
        prog="python tests/load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", choices=["overload", "aborts", "slow", "drain", "soak", "heavy"])
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=500)
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beats = folder / "beats.json"
        os.environ["GPTWO_BEATS"] = str(beats)
        model = small_model(folder / "random") if arguments.model == "random" else Path(arguments.model)
        with running_server(
            model,
            *("--slots", SLOTS, "--queue", QUEUE, *flags),
            log=folder / "log",
            program=[sys.executable, str(BEATING)] if arguments.attack == "heavy" else None,
        ) as server:
            figures = asyncio.run(attack(server, arguments))
        if arguments.attack == "heavy":
            figures |= lateness(json.loads(beats.read_text()), figures)
    print(json.dumps(figures, indent=1))
    return 0


def lateness(beats: list[list[float]], figures: dict[str, Any]) -> dict[str, Any]:
    """Of the beats of the server's loop while the attack went on."""
    late = [by_s for at_s, by_s in beats if figures["began_s"] <= at_s <= figures["ended_s"]]
    return {
        "loop_late_most_ms": 1e3 * max(late, default=0.0),
        "loop_late_over_10_ms": sum(by_s > 0.01 for by_s in late),
        "loop_late_over_50_ms": sum(by_s > 0.05 for by_s in late),
    }


if __name__ == "__main__":
    sys.exit(main())
