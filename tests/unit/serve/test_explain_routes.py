"""Every route under /explain over a real model: its numbers are those that ``gptwo.explain`` gives in Python."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import CONFIG, PROMPT, STEPS, array, explained, load, looked_at, serve, write_run
from served import Client

import gptwo
from gptwo import Explanation
from gptwo.base.lock import FolderLock
from gptwo.costs import cost_table
from gptwo.explanation import whatif
from gptwo.explanation.pooling import pooled
from gptwo.explanation.sampling import draw_in_stages
from gptwo.explanation.whatif import continuation, heat_map
from gptwo.infer.api import LanguageModel
from gptwo.infer.policy import SamplingPolicy
from gptwo.perf.ceilings import Ceilings
from gptwo.serve.schemas.explain import PromptReply, TrainingReply
from tolerance import Tolerance

SAME = Tolerance(atol=1e-9, rtol=1e-9, why="the same float32 numbers, written as JSON")
ANOTHER_SUM = Tolerance(
    atol=2e-5, rtol=2e-5, why="fp32; one row of a product is summed in another order than all"
)
T = len(PROMPT)
OTHER = PROMPT[::-1]


@pytest.fixture(scope="module")
def found(model: LanguageModel) -> Explanation:
    """What Python gives."""
    return gptwo.explain(model, PROMPT)


def text(token: int) -> str:
    return "" if token == 256 else bytes([token]).decode("utf-8", "replace")


def test_the_model(during: Any, model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        reply = (await client.get("/explain/model")).json
        table = cost_table(CONFIG)
        assert reply["parameters"] == table.parameters
        assert [row["name"] for row in reply["rows"]] == [row.name for row in table.rows]
        assert [row["parameters"] for row in reply["rows"]] == [row.parameters for row in table.rows]
        assert reply["config"] == asdict(CONFIG)
        assert (reply["name"], reply["description"]) == ("random", model.description)
        assert (reply["checkpoint"], reply["checkpoints"], reply["live"]) == (STEPS[-1], list(STEPS), False)
        assert (reply["context"], reply["special"]) == (CONFIG.context, {"eot": 256})
        assert reply["tolerance"] == 1e-4
        assert reply["reference"]["loaded"] is False
        await explained(client)
        assert (await client.get("/explain/model")).json["reference"]["loaded"] is True

    during(body)


def test_a_prompt(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        reply = await client.post("/explain/prompt", {"prompt": PROMPT})
        PromptReply.model_validate_json(reply.body, strict=True)
        answer = reply.json
        assert [token["id"] for token in answer["tokens"]] == list(PROMPT.encode())
        assert answer["tokens"][0] == {"id": ord("T"), "text": "T", "bytes": "54"}
        assert answer["surprisal"][0] is None
        SAME.assert_close(answer["surprisal"][1:], found.surprisal[1:], "surprisal")
        SAME.assert_close(answer["entropy"], found.entropy, "entropy")
        assert [[one["id"] for one in place] for place in answer["top"]] == found.top.ids[:, :5].tolist()
        p = np.exp(found.top.logits[:, :5].astype(float) - found.top.log_sum_exp[:, None])
        SAME.assert_close([[one["p"] for one in place] for place in answer["top"]], p, "p")
        assert answer["badge"]["ok"] is True
        assert 0 <= answer["badge"]["largest"] <= answer["badge"]["tolerance"] == 1e-4
        assert answer["badge"]["positions"] == T
        assert answer["checkpoint"] == STEPS[-1]
        again = await explained(client)
        assert again == answer, "the same question has the same answer, and the model does not run"
        by_ids = await client.post("/explain/prompt", {"tokens": list(PROMPT.encode())})
        assert by_ids.json["id"] == answer["id"]

    during(body)


def test_an_empty_prompt_is_the_end_of_text(during: Any) -> None:
    async def body(client: Client) -> None:
        answer = await explained(client, prompt="")
        assert answer["tokens"] == [{"id": 256, "text": "<|endoftext|>", "bytes": b"<|endoftext|>".hex()}]
        assert answer["surprisal"] == [None]

    during(body)


def test_parts_are_switched_off_and_patched(during: Any, model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        plain = await explained(client)
        asked: dict[str, Any] = {
            "ablate": [
                {"layer": 0, "head": 1},
                {"layer": 1, "mlp": True, "with": "mean"},
                {"layer": 1, "head": 2, "with": "zero"},
            ]
        }
        expected = gptwo.explain(model, PROMPT, ablate=[(0, 1), (1, "mlp", "mean"), (1, 2)])
        off = await explained(client, **asked)
        SAME.assert_close(off["surprisal"][1:], expected.surprisal[1:], "surprisal")
        assert off["id"] != plain["id"]
        assert off["badge"]["ok"] is off["badge"]["largest"] is None
        asked["patch"] = {"prompt": OTHER, "places": [{"layer": 0, "head": 0}, {"layer": 0, "mlp": True}]}
        expected = gptwo.explain(
            model,
            PROMPT,
            ablate=[(0, 1), (1, "mlp", "mean"), (1, 2)],
            patch=(OTHER, [(0, 0), (0, "mlp")]),
        )
        both = await explained(client, **asked)
        SAME.assert_close(both["surprisal"][1:], expected.surprisal[1:], "surprisal")
        reply = await client.get(f"/explain/prompt/{both['id']}/tensor?name=blocks.0.heads")
        assert np.array_equal(array(reply), expected["blocks.0.heads"])

    during(body)


def test_another_checkpoint(during: Any, run: Path) -> None:
    async def body(client: Client) -> None:
        early = await explained(client, checkpoint=STEPS[0])
        expected = gptwo.explain(load(run / "checkpoints" / f"step-{STEPS[0]:08d}", engine="torch"), PROMPT)
        SAME.assert_close(early["surprisal"][1:], expected.surprisal[1:], "surprisal")
        assert early["checkpoint"] == STEPS[0]
        assert early["badge"]["ok"] is True
        served = await explained(client, checkpoint=STEPS[1])
        assert served["id"] == (await explained(client))["id"], "that one is served"
        reply = await client.post("/explain/prompt", {"prompt": PROMPT, "checkpoint": 15})
        assert (reply.status, reply.error["code"]) == (404, "no_checkpoint")
        assert reply.error["message"] == "the run has no checkpoint 15; expected one of 10, 20"

    during(body)


def test_every_tensor_is_that_of_python(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        made = (await explained(client))["id"]
        for name, expected in found.items():
            reply = await client.get(f"/explain/prompt/{made}/tensor?name={name}")
            assert np.array_equal(array(reply), expected), name
            least, most = (float(x) for x in reply.headers["x-range"].split(","))
            assert (least, most) == (expected.min(), expected.max()), name

    during(body)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("name=blocks.1.attention&head=2", (2,)),
        ("name=blocks.1.attention&head=2&rows=3:9", (2, slice(3, 9))),
        ("name=blocks.1.attention&rows=3:9&columns=:4", (slice(None), slice(3, 9), slice(4))),
        ("name=embedding&rows=30:&columns=20:99", (slice(30, None), slice(20, None))),
        ("name=embedding&rows=:", ()),
        ("name=logits&rows=5:6", (slice(5, 6),)),
        ("name=logits&rows=5:7&columns=250:", (slice(5, 7), slice(250, None))),
    ],
)
def test_a_part_of_a_tensor(during: Any, found: Explanation, asked: str, index: Any) -> None:
    async def body(client: Client) -> None:
        reply = await looked_at(client, f"tensor?{asked}")
        name = asked.partition("&")[0].removeprefix("name=")
        ANOTHER_SUM.assert_close(array(reply), found[name][index], asked)

    during(body)


def test_a_large_tensor_is_made_smaller(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        whole = found.tensor("blocks.0.q")
        reply = await looked_at(client, "tensor?name=blocks.0.q&size=4")
        assert np.array_equal(array(reply), pooled(whole, 4, how="mean"))
        least, most = (float(x) for x in reply.headers["x-range"].split(","))
        assert (least, most) == (whole.min(), whole.max()), "of the whole"

    during(body)


def test_all_heads_small(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        reply = await looked_at(client, "attention")
        small = array(reply)
        assert small.dtype == np.uint8
        assert np.array_equal(small, found.thumbnails)
        assert small.shape == (CONFIG.n_layer, CONFIG.n_head, T, T)
        assert reply.headers["x-range"] == "0,1"
        smaller = array(await looked_at(client, "attention?size=7"))
        assert smaller.shape == (CONFIG.n_layer, CONFIG.n_head, 7, 7)
        weights = found.tensor("blocks.1.attention")
        assert np.abs(smaller[1] - 255 * pooled(weights, 7, how="max").numpy()).max() <= 1

    during(body)


def test_a_heads_weights_in_tiles(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        weights = found["blocks.1.attention"][2]
        exact = array(await looked_at(client, "attention/1/2?format=float32"))
        assert np.array_equal(exact, weights)
        coarse = array(await looked_at(client, "attention/1/2"))
        assert coarse.dtype == np.uint8
        assert np.array_equal(coarse, np.round(weights * 255))
        part = array(await looked_at(client, "attention/1/2?rows=8:20&columns=:11&format=float32"))
        assert np.array_equal(part, weights[8:20, :11])
        small = array(await looked_at(client, "attention/1/2?rows=8:20&columns=:11&size=5&format=float32"))
        assert np.array_equal(small, pooled(found.tensor("blocks.1.attention")[2, 8:20, :11], 5, how="max"))

    during(body)


def test_an_entry_is_worked(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        for name, head, row, column in (
            ("embedding", None, 3, 5), ("blocks.0.attention_norm", None, 3, 5), ("blocks.1.q", 2, 30, 7),
            ("blocks.1.scores", 0, 9, 4), ("blocks.1.attention", 1, 9, 4), ("blocks.1.attention", 1, 4, 9),
            ("blocks.0.mlp_up", None, 0, 95), ("blocks.0.mlp_gelu", None, 0, 95), ("logits", None, 30, 256),
        ):  # fmt: skip
            at = f"name={name}&row={row}&column={column}" + ("" if head is None else f"&head={head}")
            reply = (await looked_at(client, f"worked?{at}")).json
            index = (row, column) if head is None else (head, row, column)
            expected = found.worked(name, index)
            assert (reply["name"], reply["index"], reply["kind"]) == (name, list(index), expected.kind)
            assert (reply["axis"], reply["count"]) == (expected.axis, len(expected.a))
            ANOTHER_SUM.assert_close(reply["value"], found[name][index], name)
            SAME.assert_close(reply["result"], expected.result, name)
            assert reply["parts"] == expected.parts
            if expected.kind == "dot":
                products = [term["a"] * term["b"] for term in reply["terms"]]
                SAME.assert_close([term["product"] for term in reply["terms"]], products, name)
                assert [term["a"] for term in reply["terms"]] == [
                    expected.a[t["label"]] for t in reply["terms"]
                ]
                total = sum(products) + reply["rest"] + reply["parts"].get("bias", 0.0)
                SAME.assert_close(total / reply["parts"].get("divisor", 1.0), reply["result"], name)
            else:
                assert reply["terms"] == []

    during(body)


def test_the_most_probable_tokens(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        z = found.logits[6].astype(float)
        for k in (1, 20, 1000):
            reply = (await looked_at(client, f"next?position=6&k={k}")).json
            order = np.argsort(-z, kind="stable")[:k]
            assert [one["id"] for one in reply["top"]] == order.tolist()
            assert [one["text"] for one in reply["top"][:3]] == [text(i) for i in order[:3]]
            ANOTHER_SUM.assert_close([one["logit"] for one in reply["top"]], z[order], "logits")
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            ANOTHER_SUM.assert_close([one["p"] for one in reply["top"]], p[order], "p")
        SAME.assert_close(reply["entropy"], found.entropy[6], "entropy")
        SAME.assert_close(reply["logsumexp"], found.top.log_sum_exp[6], "log Σ exp z")

    during(body)


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        ({}, SamplingPolicy()),
        ({"temperature": 0.0}, SamplingPolicy(temperature=0.0)),
        (
            {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "seed": 9, "step": 4},
            SamplingPolicy(temperature=0.7, top_k=40, top_p=0.9, min_p=0.1),
        ),
        ({"top_k": 0, "top_p": 0.0, "min_p": 0.0}, SamplingPolicy()),
        ({"top_k": -1, "top_p": 1.0}, SamplingPolicy(top_p=1.0)),
    ],
)
def test_sampling_stage_by_stage(during: Any, found: Explanation, asked: dict[str, Any], policy: Any) -> None:
    async def body(client: Client) -> None:
        made = (await explained(client))["id"]
        reply = (await client.post(f"/explain/prompt/{made}/sampling", {"position": 11, **asked})).json
        expected = draw_in_stages(
            found.logits_at(11), found.tokens[:12], policy,
            prompt_tokens=12, seed=asked.get("seed", 0), step=asked.get("step", 0),
        )  # fmt: skip
        drawn = {key: reply["drawn"][key] for key in ("id", "u", "low", "high")}
        assert drawn == {"id": expected.token, "u": expected.u, "low": expected.low, "high": expected.high}
        names = [(stage["name"], stage["kept"]) for stage in reply["stages"]]
        assert names == [(stage.name, stage.kept) for stage in expected.stages]
        for got, stage in zip(reply["stages"], expected.stages, strict=True):
            ids = [one["id"] for one in got["top"]]
            most = min(20, stage.kept)
            assert len(ids[:20]) == most or stage.probabilities[stage.logits.argsort()[-20]] == 0
            stands = found.tokens[12:13].tolist()
            assert len(ids) == len(set(ids))
            assert set(ids[20:]) <= {expected.token, *stands}
            assert expected.token in ids
            SAME.assert_close([one["value"] for one in got["top"]], stage.logits[ids], stage.name)
            SAME.assert_close([one["p"] for one in got["top"]], stage.probabilities[ids], stage.name)

    during(body)


def test_the_lens(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        reply = (await looked_at(client, "lens")).json
        expected = found.lens()
        assert (reply["layers"], reply["positions"]) == (CONFIG.n_layer + 1, [0, T])
        ids = [[place["id"] for place in layer] for layer in reply["top"]]
        assert ids == expected.ids[:, :, 0].tolist()
        p = [[place["p"] for place in layer] for layer in reply["top"]]
        ANOTHER_SUM.assert_close(p, expected.probabilities[:, :, 0], "p")
        reply = (await looked_at(client, "lens?positions=4:6&k=3")).json
        ids = [[[one["id"] for one in place] for place in layer] for layer in reply["top"]]
        assert ids == found.lens(k=3, positions=slice(4, 6)).ids.tolist()

    during(body)


def test_contributions_and_norms(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        reply = (await looked_at(client, "contributions?position=30&token=101")).json
        expected = found.contributions(30, 101)
        for name in ("heads", "mlps", "token", "position", "biases", "total", "logit"):
            SAME.assert_close(reply[name], getattr(expected, name), name)
        SAME.assert_close(reply["embedding"], expected.token + expected.position, "embedding")
        reply = (await looked_at(client, "norms")).json
        for name in ("residual", "attention", "mlp"):
            SAME.assert_close(reply[name], getattr(found.norms(), name), name)

    during(body)


@pytest.mark.parametrize("asked", [{}, {"position": 4, "token": 77}])
def test_every_head_patched_alone(during: Any, model: LanguageModel, found: Explanation, asked: Any) -> None:
    async def body(client: Client) -> None:
        reply = await client.post("/explain/heatmap", {"prompt": PROMPT, "other": OTHER, **asked})
        other = gptwo.explain(model, OTHER)
        position = asked.get("position", T - 1)
        token = asked.get("token", int(found.top.ids[position, 0]))
        assert (reply.json["position"], reply.json["token"]["id"]) == (position, token)
        SAME.assert_close(reply.json["grid"], heat_map(found, other, position=position, token=token), "grid")

    during(body)


def test_what_is_written_then(during: Any, model: LanguageModel, found: Explanation) -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": PROMPT, "max_tokens": 9, "ablate": [{"layer": 0, "mlp": True}]}
        asked["patch"] = {"tokens": list(OTHER.encode()), "places": [{"layer": 1, "head": 0}]}
        reply = (await client.post("/explain/continue", asked)).json
        before = continuation(found.reference, found.tokens, max_new_tokens=9, eot_id=256)
        changed = gptwo.explain(model, PROMPT, ablate=[(0, "mlp")], patch=(OTHER, [(1, 0)])).changes
        after = continuation(found.reference, found.tokens, max_new_tokens=9, eot_id=256, changes=changed)
        for name, ids in (("before", before), ("after", after)):
            assert [token["id"] for token in reply[name]["tokens"]] == ids
            assert reply[name]["text"] == model.tokenizer.decode(ids)
        assert before != after

    during(body)


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ("continue", {"max_tokens": 40, "ablate": [{"layer": 0, "head": 1}]}),
        ("heatmap", {"other": OTHER}),
    ],
)
def test_what_takes_many_passes_ends_when_its_client_leaves_and_lets_the_next_one_in(
    route: str, asked: dict[str, Any], during: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the heat map one head at a time.
    monkeypatch.setattr(whatif, "_VALUES_AT_ONCE", 1)
    passes = 0
    begun, go_on = threading.Event(), threading.Event()
    real = whatif.run_block

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        begun.set()
        assert go_on.wait(60)
        return real(*given, **named)

    monkeypatch.setattr(whatif, "run_block", counted)

    async def body(client: Client) -> None:
        connection, running = client.connect(
            f"/explain/{route}", json.dumps({"prompt": PROMPT, **asked}).encode()
        )
        await asyncio.to_thread(begun.wait, 60)
        next_one = asyncio.create_task(client.post("/explain/prompt", {"prompt": "another"}))
        connection.close()
        await asyncio.sleep(0.1)
        assert not next_one.done(), "the thread still runs"
        go_on.set()
        assert (await next_one).status == 200
        await running
        assert passes == 1, "of 160 for 2 texts of 40 tokens, and of 3 for the heads of the first of 2 layers"

    during(body)


CEILINGS = Ceilings.from_json({
    "device": "cpu", "name": "a processor", "threads": 1, "matmul_flops_per_s": {"fp32": 1e11, "int8": 2e11},
    "model_matmul_flops_per_s": {"mlp.up": {"fp32": 1e11}}, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 3e10,
    "dispatch_s": 1e-6, "launch_s": 1e-6, "transfers": None, "measured_at": "",
})  # fmt: skip


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_where_the_time_goes(engine: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.perf.ceilings.cached_ceilings", lambda *given, **named: CEILINGS)

    async def body(client: Client) -> None:
        reply = await client.post("/explain/time", {"prompt": PROMPT, "decode_tokens": 3})
        assert reply.status == 200, reply.body
        found = reply.json
        assert len(found["timeline"]) == 3
        assert found["first_token_us"] > 0
        assert found["ceilings"]["flops_per_s"] == 1e11
        for part in ("prefill", "decode"):
            table = found[part]
            if engine == "torch" and part == "decode":
                assert table is None
                continue
            assert table["rows"][0]["name"] == "embedding"
            parameters = {row["name"]: row["parameters"] for row in table["rows"]}
            # E is counted where it is looked up, and again where it makes the logits.
            counted = sum(parameters.values()) - parameters["head"]
            assert counted == cost_table(CONFIG).parameters
            assert table["sum_us"] == pytest.approx(sum(row["us"] for row in table["rows"]))
            assert table["forward_us"] > 0
            apart = abs(table["sum_us"] / table["forward_us"] - 1)
            assert table["agrees"] == (apart <= 0.05)
            assert {row["bound_by"] for row in table["rows"]} <= {"compute", "bandwidth", "overhead"}
            assert all(row["floor_us"] >= 0 and row["us"] >= 0 for row in table["rows"])

    serve(load(run, engine=engine), body)


def test_ceilings_are_measured_once_in_a_servers_life(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And quickly: a plan's would take half a minute."""
    asked: list[dict[str, Any]] = []

    def ask(request: dict[str, Any]) -> Any:
        asked.append(request)
        return CEILINGS.to_json()

    def nothing_kept(*_: Any, measure: bool) -> None:
        assert not measure

    monkeypatch.setattr("gptwo.perf.ceilings.cached_ceilings", nothing_kept)
    monkeypatch.setattr("gptwo.perf.process.ask", ask)

    async def body(client: Client) -> None:
        for prompt in ("ab", "abc"):
            reply = await client.post("/explain/time", {"prompt": prompt, "decode_tokens": 1})
            assert reply.status == 200, reply.body

    serve(load(run, engine="native"), body)
    (request,) = asked
    assert (request["what"], request["device"], request["quick"]) == ("ceilings", "cpu", True)


def test_the_log_of_a_run(during: Any, run: Path) -> None:
    (run / "metrics.jsonl").write_text(
        '{"step": 10, "loss": 3.5}\n{"step": 20, "loss": 3.25, "val_loss": 3.4}\n', encoding="utf-8"
    )

    async def body(client: Client) -> None:
        reply = await client.get("/explain/training")
        TrainingReply.model_validate_json(reply.body, strict=True)
        assert [record["step"] for record in reply.json["records"]] == [10, 20]
        assert (reply.json["checkpoints"], reply.json["live"]) == (list(STEPS), False)
        later = (await client.get("/explain/training?after=10")).json["records"]
        assert later == [{"step": 20, "loss": 3.25, "val_loss": 3.4}]

    during(body)


def test_the_log_of_a_run_that_trains(model: LanguageModel, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    log = run / "metrics.jsonl"
    log.write_text('{"step": 10, "loss": 3.5}\n{"step": 20, "loss": 3.25}\n', encoding="utf-8")
    lock = FolderLock(run)

    async def body(client: Client) -> None:
        assert (await client.get("/explain/model")).json["live"] is True
        reply = (await client.get("/explain/training")).json
        assert (reply["live"], reply["checkpoints"]) == (True, list(STEPS))
        with log.open("a", encoding="utf-8") as file:
            file.write('{"step": 30, "loss": 3.0}\n')
        checkpoints = run / "checkpoints"
        shutil.copytree(checkpoints / "step-00000020", checkpoints / "step-00000030")
        more = (await client.get("/explain/training?after=20")).json
        assert more["records"] == [{"step": 30, "loss": 3.0}]
        assert (more["live"], more["checkpoints"]) == (True, [*STEPS, 30])
        assert (await explained(client, checkpoint=30))["checkpoint"] == 30
        lock.release()
        assert (await client.get("/explain/training?after=30")).json["live"] is False

    try:
        serve(load(run), body)
    finally:
        lock.release()


def test_explanations_take_turns_and_all_are_answered(during: Any, found: Explanation) -> None:
    async def body(client: Client) -> None:
        prompts = [PROMPT[:n] for n in range(1, 9)]
        asked = [client.post("/explain/prompt", {"prompt": prompt}) for prompt in prompts]
        replies = await asyncio.gather(*asked)
        assert {reply.status for reply in replies} == {200}
        for prompt, reply in zip(prompts, replies, strict=True):
            assert len(reply.json["tokens"]) == len(prompt)
            ANOTHER_SUM.assert_close(reply.json["entropy"], found.entropy[: len(prompt)], "entropy")

    during(body)
