"""What /explain refuses, each in one line with a 4xx; and what it keeps to."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from explained import CONFIG, PROMPT, explained, load, serve, write_run
from served import Client

from gptwo.serve.explaining import explaining as room
from gptwo.serve.explaining import pictures

T = len(PROMPT)


BODIES: list[tuple[str, Any, int, str]] = [
    ("prompt", {}, 400, "expected either a prompt or tokens, got neither"),
    ("prompt", {"prompt": "x", "tokens": [1]}, 400, "expected either a prompt or tokens, got both"),
    ("prompt", {"tokens": []}, 400, "at least 1 of them"),
    ("prompt", {"tokens": [257]}, 400, "257"),
    ("prompt", {"tokens": [-1]}, 400, "tokens[0]=-1"),
    ("prompt", {"tokens": ["a"]}, 400, "tokens[0]="),
    ("prompt", {"prompt": 5}, 400, "prompt=5 is not possible; expected string"),
    ("prompt", {"prompt": "x" * 81}, 400, "maximum context length is 80 tokens"),
    ("prompt", {"tokens": [1] * 81}, 400, "maximum context length is 80 tokens"),
    ("prompt", [], 400, "expected"),
    ("prompt", {"prompt": "x", "checkpoint": -1}, 400, "checkpoint=-1 is not possible; expected at least 0"),
    ("prompt", {"prompt": "x", "checkpoint": 5}, 404, "the run has no checkpoint 5; expected one of 10, 20"),
    ("prompt", {"prompt": "x", "checkpoint": 10**30}, 400, "checkpoint="),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 2, "head": 0}]}, 400, "layer=2 is not possible; expected 0 to 1"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0, "head": 3}]}, 400, "head=3 is not possible; expected 0 to 2"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0}]}, 400, "either a head or mlp: true"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0, "head": 0, "mlp": True}]}, 400, "either a head or mlp: true"),
    ("prompt", {"prompt": "x", "ablate": [{"head": 0}]}, 400, "ablate[0].layer is missing"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0, "head": 0, "with": "half"}]}, 400, "expected 'zero' or 'mean'"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0, "head": 0}] * 4097}, 400, "at most 4096 of them"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 0, "mlp": True}] * 2}, 400,
     "layer 0, its mlp is changed twice; expected once"),
    ("prompt", {"prompt": "x", "ablate": [{"layer": 1, "head": 2}],
                "patch": {"prompt": "y", "places": [{"layer": 1, "head": 2}]}}, 400,
     "layer 1, head 2 is changed twice"),
    ("prompt", {"prompt": "x", "patch": {"prompt": "ab", "places": [{"layer": 0, "head": 0}]}}, 400,
     "the second prompt has 2 tokens; expected 1"),
    ("prompt", {"prompt": "x", "patch": {"prompt": "y", "places": []}}, 400, "at least 1 of them"),
    ("prompt", {"prompt": "x", "patch": {"places": [{"layer": 0, "head": 0}]}}, 400, "either a prompt or tokens"),
    ("prompt", {"prompt": "x", "patch": {"prompt": "y", "places": [{"layer": 0}]}}, 400, "either a head or mlp"),
    ("heatmap", {"prompt": "ab"}, 400, "other is missing"),
    ("heatmap", {"prompt": "ab", "other": "abc"}, 400, "the second prompt has 3 tokens; expected 2"),
    ("heatmap", {"prompt": "ab", "other": []}, 400, "other"),
    ("heatmap", {"prompt": "ab", "other": "cd", "position": 2}, 400, "position=2 is not possible; expected 0 to 1"),
    ("heatmap", {"prompt": "ab", "other": "cd", "token": 257}, 400, "token=257 is not possible; expected 0 to 256"),
    ("continue", {"prompt": "ab", "max_tokens": 0}, 400, "max_tokens=0 is not possible; expected at least 1"),
    ("continue", {"prompt": "ab", "max_tokens": 101}, 400, "max_tokens=101 is not possible; expected at most 100"),
    ("continue", {"prompt": "ab", "ablate": [{"layer": 9, "mlp": True}]}, 400, "layer=9"),
    ("time", {"prompt": "ab", "decode_tokens": 0}, 400, "decode_tokens=0 is not possible"),
    ("time", {"prompt": "ab", "decode_tokens": 65}, 400, "decode_tokens=65 is not possible; expected at most 64"),
]  # fmt: skip


def test_bodies_that_cannot_be(during: Any) -> None:
    async def body(client: Client) -> None:
        for route, asked, status, message in BODIES:
            reply = await client.post(f"/explain/{route}", asked)
            assert reply.status == status, (asked, reply.body)
            assert message in reply.error["message"], (asked, reply.error)

    during(body)


LOOKS: list[tuple[str, int, str]] = [
    ("tensor", 400, "name is missing"),
    ("tensor?name=blocks.7.q", 400, "there is no tensor 'blocks.7.q'; expected one like"),
    ("tensor?name=" + "x" * 101, 400, "name="),
    ("tensor?name=embedding&head=0", 400, "this tensor has no heads; leave head out"),
    ("tensor?name=logits&head=0", 400, "this tensor has no heads; leave head out"),
    ("tensor?name=blocks.0.q&head=3", 400, "head=3 is not possible; expected 0 to 2"),
    ("tensor?name=blocks.0.q&head=-1", 400, "head="),
    ("tensor?name=blocks.0.q&rows=5", 400, "rows=\"5\" is not possible; expected a range such as 0:64"),
    ("tensor?name=blocks.0.q&rows=5:5", 400, "rows=5:5 has none of 31; expected as 0:31"),
    ("tensor?name=blocks.0.q&rows=99:", 400, "rows=99: has none of 31"),
    ("tensor?name=blocks.0.q&columns=9:8", 400, "columns=9:8 has none of 8"),
    ("tensor?name=logits&rows=31:", 400, "rows=31: has none of 31"),
    ("tensor?name=blocks.0.q&size=0", 400, "size="),
    ("attention?size=65", 400, "size=\"65\" is not possible; expected at most 64"),
    ("attention/2/0", 400, "layer=2 is not possible; expected 0 to 1"),
    ("attention/0/3", 400, "head=3 is not possible; expected 0 to 2"),
    ("attention/x/0", 404, "there is no layer \"x\"; expected a number"),
    ("attention/0/9999999999", 404, "there is no head \"9999999999\"; expected a number"),
    ("attention/0/%C2%B2", 404, "expected a number"),
    ("attention/0/0?format=png", 400, "format=\"png\" is not possible; expected 'uint8' or 'float32'"),
    ("attention/0/0?rows=a:b", 400, "expected a range such as 0:64"),
    ("worked?name=embedding&row=0", 400, "column is missing"),
    ("worked?name=embedding&row=31&column=0", 400, "has the shape (31, 24) and no entry (31, 0)"),
    ("worked?name=blocks.0.q&row=0&column=0", 400, "has the shape (3, 31, 8) and no entry (0, 0)"),
    ("worked?name=embedding&row=0&column=0&head=0", 400, "no entry (0, 0, 0)"),
    ("next", 400, "position is missing"),
    ("next?position=31", 400, "position=31 is not possible; expected 0 to 30"),
    ("next?position=0&k=0", 400, "k="),
    ("next?position=0&k=1001", 400, "k="),
    ("lens?positions=9:9", 400, "positions=9:9 are 0; expected 1 to 128 of 31"),
    ("lens?positions=31:", 400, "are 0; expected 1 to 128 of 31"),
    ("lens?k=21", 400, "k="),
    ("contributions?position=0&token=257", 400, "token=257 is not possible; expected 0 to 256"),
    ("contributions?position=31&token=0", 400, "position=31 is not possible"),
    ("contributions?position=one&token=0", 400, "position=\"one\" is not possible"),
    ("nothing", 404, "there is no such route"),
]  # fmt: skip


def test_looks_that_cannot_be(during: Any) -> None:
    async def body(client: Client) -> None:
        made = (await explained(client))["id"]
        for rest, status, message in LOOKS:
            reply = await client.get(f"/explain/prompt/{made}/{rest}")
            assert reply.status == status, (rest, reply.body)
            assert message in reply.error["message"], (rest, reply.error)
        for asked, message in (
            ({}, "position is missing; it is required"),
            ({"position": T}, "position=31 is not possible; expected 0 to 30"),
            ({"position": 0, "temperature": -1}, "temperature=-1 is not possible; expected at least 0"),
            ({"position": 0, "top_p": 1.5}, "top_p=1.5 is not possible; expected at most 1"),
            ({"position": 0, "seed": -1}, "seed=-1 is not possible; expected at least 0"),
            ({"position": 0, "top_k": -2}, "top_k=-2 is not possible; expected at least -1"),
        ):
            reply = await client.post(f"/explain/prompt/{made}/sampling", asked)
            assert (reply.status, reply.error["message"]) == (400, message), asked

    during(body)


def test_an_explanation_that_is_not_kept(during: Any) -> None:
    async def body(client: Client) -> None:
        for rest in ("tensor?name=embedding", "attention", "attention/0/0", "worked?name=embedding&row=0&column=0",
                     "next?position=0", "lens", "contributions?position=0&token=0", "norms"):  # fmt: skip
            reply = await client.get(f"/explain/prompt/0123456789abcdef/{rest}")
            assert (reply.status, reply.error["code"]) == (404, "explanation_gone"), rest
        reply = await client.post("/explain/prompt/0123456789abcdef/sampling", {"position": 0})
        assert (reply.status, reply.error["code"]) == (404, "explanation_gone")
        reply = await client.post("/explain/prompt", content=None, headers={"content-type": "text/plain"})
        assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")

    during(body)


def test_the_ones_used_last_are_kept_within_the_bytes(during: Any) -> None:
    async def body(client: Client) -> None:
        async def is_kept(made: str) -> bool:
            return (await client.get(f"/explain/prompt/{made}/norms")).status == 200

        first, second = [(await explained(client, prompt=prompt))["id"] for prompt in ("one", "two")]
        assert await is_kept(first)
        each = client.serving.explaining.kept.get(first).explanation.nbytes  # type: ignore[union-attr]
        client.serving.explaining.kept._most_bytes = 2 * each  # type: ignore[union-attr]
        third = (await explained(client, prompt="six"))["id"]
        assert [await is_kept(made) for made in (first, second, third)] == [True, False, True]
        longest = (await explained(client, tokens=[1] * CONFIG.context))["id"]
        assert [await is_kept(made) for made in (first, third, longest)] == [False, False, True]

    during(body)


def test_more_than_an_answer_holds_is_asked_for_in_parts(
    during: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_VALUES", 1000)

    async def body(client: Client) -> None:
        made = (await explained(client))["id"]
        for asked in ("blocks.0.attention", "logits", "logits&rows=0:4"):
            reply = await client.get(f"/explain/prompt/{made}/tensor?name={asked}")
            assert (reply.status, reply.error["code"]) == (400, "request_too_large"), asked
            assert "expected at most 1,000; give a head, rows, columns or a size" in reply.error["message"]
        for asked in ("blocks.0.attention&head=0", "logits&rows=0:3", "blocks.0.attention&size=16"):
            reply = await client.get(f"/explain/prompt/{made}/tensor?name={asked}")
            assert reply.status == 200, asked

    during(body)


def test_a_queue_that_is_full(during: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, begun = threading.Event(), threading.Event()
    explain = room.Explaining.explain

    def waits(*given: Any, **named: Any) -> Any:
        begun.set()
        assert free.wait(30)
        return explain(*given, **named)

    monkeypatch.setattr(room.Explaining, "explain", waits)

    async def body(client: Client) -> None:
        tasks = [asyncio.create_task(client.post("/explain/prompt", {"prompt": str(i)})) for i in range(3)]
        await asyncio.to_thread(begun.wait, 30)
        refused = await client.post("/explain/prompt", {"prompt": "more"})
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        assert refused.error["message"].startswith(
            "3 explanations are being made or wait, and the server takes 2"
        )
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/explain/model")).status == 200, "what runs no model is answered"
        free.set()
        assert [reply.status for reply in await asyncio.gather(*tasks)] == [200, 200, 200]
        assert (await client.post("/explain/prompt", {"prompt": "more"})).status == 200

    during(body, explain_queue=2)


def test_memory_that_is_not_there(during: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory_bytes", lambda: 1000)

    async def body(client: Client) -> None:
        reply = await client.post("/explain/prompt", {"prompt": PROMPT})
        assert (reply.status, reply.error["code"]) == (503, "no_memory")
        assert "0 MB are free; ask for less" in reply.error["message"]

    during(body)


def test_a_server_that_does_not_explain(during: Any) -> None:
    async def body(client: Client) -> None:
        document = (await client.get("/openapi.json")).json
        for path, operations in document["paths"].items():
            if path.startswith("/explain/"):
                target = path.format(explanation="x", layer=0, head=0)
                reply = await (client.get(target) if "get" in operations else client.post(target, {}))
                assert (reply.status, reply.error["code"]) == (404, "no_explanations"), path
        assert (await client.complete(prompt="x", max_tokens=1)).status == 200

    during(body, explains=False)


def test_a_model_of_no_run_has_no_checkpoints(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run") / "checkpoints" / "step-00000010"
    folder.rename(tmp_path / "alone")

    async def body(client: Client) -> None:
        reply = (await client.get("/explain/model")).json
        assert (reply["checkpoint"], reply["checkpoints"], reply["live"]) == (None, None, False)
        log = (await client.get("/explain/training")).json
        assert log == {"records": [], "checkpoints": None, "live": False}
        refused = await client.post("/explain/prompt", {"prompt": "x", "checkpoint": 10})
        assert (refused.status, refused.error["code"]) == (404, "no_checkpoint")
        assert refused.error["message"] == "the model is no run and has no checkpoints"
        assert (await explained(client))["checkpoint"] is None

    serve(load(tmp_path / "alone"), body)
