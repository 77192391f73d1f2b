"""One client in a process of its own, which others do not hold up: asks again and again, prints what came and when.

    python tests/load/single_client.py HOST PORT SECONDS

JSON on standard output: [status, milliseconds] of each answer.
"""

from __future__ import annotations

import http.client
import json
import sys
import time

ASKED = json.dumps({"prompt": "The sea keeps " * 8, "max_tokens": 16, "ignore_eos": True})


def main(host: str, port: str, seconds: str) -> None:
    answers: list[tuple[int, float]] = []
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    until = time.perf_counter() + float(seconds)
    while time.perf_counter() < until:
        began = time.perf_counter()
        connection.request("POST", "/v1/completions", ASKED, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        answers.append((response.status, 1e3 * (time.perf_counter() - began)))
        if response.status != 200:
            time.sleep(0.05)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
