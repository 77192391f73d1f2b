"""The bars of serving, and the tables of docs/performance.md: figures of a run in, rows out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.bars import Row

from serving.servers import SERVERS

SIZE = "gpt2"
AHEAD = 1.2
SAVED = 0.9
RATES = {"requests_per_s": "requests", "tokens_per_s": "tokens"}


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """1: throughput beside the best of the others, for each load and precision. 2: what a cached prefix saves."""
    ours = [name for name, server in SERVERS.items() if server.ours and name in figures["servers"]]
    found = []
    for name in ours:
        for clients in figures["loads"]:
            found += [_beside_the_best(figures, name, clients, rate) for rate in RATES]
    for name in ours:
        prefix = figures["prefix"].get(name)
        value = prefix["saved_share"]["median"] if prefix else None
        times = f"{_ms(prefix, 'cold_s')} cold, {_ms(prefix, 'warm_s')} warm" if prefix else "-"
        cached = f"{prefix['cached_share']['median']:.0%} of it cached" if prefix else "-"
        what = f"share of a cached prefix's reading saved, {SERVERS[name].precision}"
        found.append(Row(bar=2, what=what, figure=times, against=cached, value=value, target=SAVED))
    return found


def _beside_the_best(figures: Mapping[str, Any], name: str, clients: int, rate: str) -> Row:
    """Of the others those whose weights have at least as many bits."""

    def speed(server: str) -> float | None:
        load = figures["servers"].get(server, {}).get(str(clients))
        return load[rate]["median"] if load else None

    peers = {
        peer: found
        for peer, server in SERVERS.items()
        if not server.ours and server.bits >= SERVERS[name].bits and (found := speed(peer)) is not None
    }
    best = max(peers, key=lambda peer: peers[peer]) if peers else None
    own = speed(name)
    noun = "client" if clients == 1 else "clients"
    return Row(
        bar=1,
        what=f"{RATES[rate]}/s, {clients} {noun}, {SERVERS[name].precision}",
        figure=_number(own),
        against=f"{best}: {_number(peers[best])}" if best else "no peer",
        value=own / peers[best] if own is not None and best else None,
        target=AHEAD,
    )


def newest(history: Path) -> dict[str, Any] | None:
    """The newest whole run of GPT-2 124M."""
    if not history.exists():
        return None
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line["size"] == SIZE and not line["quick"]), None)


def speeds(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The head and the cells of the table of every server and load."""
    head = ["server", "clients", "requests/s", "tokens/s", "first token, p50", "p95", "each further token"]
    cells = []
    for name, loads in figures["servers"].items():
        for clients, load in loads.items():
            waiting = load["waiting_share"]["median"]
            cells.append(
                [
                    *(name, clients, _number(load["requests_per_s"]["median"])),
                    _number(load["tokens_per_s"]["median"]),
                    _waited(load["first_token_p50_s"]["median"], waiting > 0.5),
                    _waited(load["first_token_p95_s"]["median"], waiting > 0.05),
                    f"{load['token_s']['median'] * 1e3:.1f} ms",
                ]
            )
    return head, cells


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ms(prefix: Mapping[str, Any], key: str) -> str:
    return f"{prefix[key]['median'] * 1e3:.0f} ms"


def _waited(seconds: float, at_least: bool) -> str:
    return f"{'over ' if at_least else ''}{seconds:.2f} s"
