"""What is counted, read as Prometheus reads it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tiny_service import answer, request, running

from gptwo.serve.metrics import Metrics
from gptwo.serve.writer import WriterStats
from gptwo.serve.writing import TextFacts


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample as ``name{label=value,…}``, model_name left out."""
    text = metrics.exposition()[0].decode()
    return {
        sample.name.removeprefix("gptwo:")
        + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items()) if k != "model_name"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def facts(**changed: Any) -> TextFacts:
    return TextFacts(
        **{
            "finish_reason": "stop",
            "prompt_tokens": 7,
            "cached_tokens": 4,
            "generated_tokens": 3,
            "queue_s": 0.2,
            "prefill_s": 0.3,
            "decode_s": 0.5,
            "first_token_s": 0.5,
            "end_to_end_s": 1.0,
            "token_gaps_s": [0.2, 0.3],
            **changed,
        }
    )


HISTOGRAMS = {
    "time_to_first_token_seconds": (1, 0.5),
    "inter_token_latency_seconds": (2, 0.5),
    "e2e_request_latency_seconds": (1, 1.0),
    "request_queue_time_seconds": (1, 0.2),
    "request_prefill_time_seconds": (1, 0.3),
    "request_decode_time_seconds": (1, 0.5),
    "request_prompt_tokens": (1, 7),
    "request_generation_tokens": (1, 3),
}


def test_a_text_that_was_finished() -> None:
    metrics = Metrics("tiny")
    assert samples(metrics)["request_success_total{finished_reason=stop}"] == 0
    metrics.on_text(facts())
    found = samples(metrics)
    assert found["request_success_total{finished_reason=stop}"] == 1
    assert found["request_success_total{finished_reason=length}"] == 0
    assert found["prompt_tokens_total"] == 7
    assert found["generation_tokens_total"] == 3
    for name, (count, total) in HISTOGRAMS.items():
        assert found[f"{name}_count"] == count, name
        assert found[f"{name}_sum"] == pytest.approx(total), name


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_one_that_was_not_counts_its_tokens_alone(reason: str) -> None:
    metrics = Metrics("tiny")
    metrics.on_text(facts(finish_reason=reason))
    metrics.on_text(
        facts(finish_reason=reason, first_token_s=None, token_gaps_s=[], generated_tokens=0, decode_s=0.0)
    )
    found = samples(metrics)
    assert found[f"request_success_total{{finished_reason={reason}}}"] == 2
    assert found["time_to_first_token_seconds_count"] == 1
    assert found["inter_token_latency_seconds_count"] == 2
    assert found["e2e_request_latency_seconds_count"] == 0
    assert found["generation_tokens_total"] == 3


def test_the_writer_is_asked_at_each_reading() -> None:
    metrics = Metrics("tiny")
    stats = WriterStats(
        running=3, waiting=5, kv_use=0.25, kv_tokens=4096, prefix_queries=100, prefix_hits=60, preemptions=2
    )
    metrics.watch(lambda: stats)
    found = samples(metrics)
    expected = {
        "num_requests_running": 3,
        "num_requests_waiting": 5,
        "kv_cache_usage_perc": 0.25,
        "kv_cache_tokens": 4096,
        "prefix_cache_queries_total": 100,
        "prefix_cache_hits_total": 60,
        "num_preemptions_total": 2,
    }
    assert {name: found[name] for name in expected} == expected
    stats = stats._replace(running=0)
    assert samples(metrics)["num_requests_running"] == 0


def test_every_sample_names_the_model_and_every_name_is_ours() -> None:
    text = Metrics('odd "name"\n').exposition()[0].decode()
    ours = [family for family in text_string_to_metric_families(text) if family.name.startswith("gptwo:")]
    assert len(ours) > 10
    for family in ours:
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["model_name"] == 'odd "name"\n'
    others = {f.name for f in text_string_to_metric_families(text)} - {f.name for f in ours}
    assert all(name.startswith("process_") for name in others)


def test_two_servers_count_each_for_itself() -> None:
    one, other = Metrics("one"), Metrics("other")
    one.on_text(facts())
    assert samples(other)["prompt_tokens_total"] == 0


def test_threads_lose_no_count() -> None:
    metrics = Metrics("tiny")
    threads = [
        threading.Thread(target=lambda: [metrics.on_text(facts()) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)["request_success_total{finished_reason=stop}"] == 800


def test_the_server_counts_connections_and_answers_by_routes_of_ours() -> None:
    with running() as server:
        with server.connection() as client:
            for path in ("/a", "/b", "/c"):
                client.sendall(request("POST", path, b""))
                answer(client)
            found = samples(server.metrics)
        assert found["connections"] == 1
        assert found["http_requests_total{route=other}{status=200}"] == 3
        assert not [name for name in found if "/a" in name]
