"""What the server counts and times, for Prometheus: vLLM's metrics and meanings under ``gptwo:``.

A request there is a text here: n = 3 counts three. The names, in ``/metrics``, each with the label model_name:

num_requests_running, num_requests_waiting       texts with a slot, and in the queue
kv_cache_tokens                                  the room of the KV memory
kv_cache_usage_perc                              share of the KV memory that running texts hold, 0 to 1
prefix_cache_queries, prefix_cache_hits          prompt tokens looked up, and found, in the prefix cache
prompt_tokens, generation_tokens                 read and written, of texts that have ended
num_preemptions                                  texts that lost their memory to others and were read again
request_success                                  texts by finished_reason: stop, length, abort, error
time_to_first_token_seconds                      from the request to its first token
inter_token_latency_seconds                      between two tokens of a text
e2e_request_latency_seconds                      from the request to its last token: queue, prefill and decode together
request_queue_time_seconds, request_prefill_time_seconds, request_decode_time_seconds
request_prompt_tokens, request_generation_tokens of a finished text

and of the server itself http_requests (by route and status), connections, connections_dropped (by reason).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client import Metric

    from gptwo.serve.writer import WriterStats
    from gptwo.serve.writing import TextFacts

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. vLLM's buckets, with a few more at the long end of a request, where a CPU is.
_FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
)
_BETWEEN_TOKENS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
)
_REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

_LABEL = "model_name"


class Metrics:
    """A registry of its own, so that two servers in a process count each for itself. Safe from any thread.

    It is the writer's ``Observer``, and asks for the gauges and counts of ``watch`` only for an ``exposition``.
    """

    def __init__(self, model_name: str = "gptwo") -> None:
        self._name = model_name
        self._registry = CollectorRegistry()
        self._success = self._counter("request_success", "Texts that have ended.", "finished_reason")
        self._requests = self._counter("http_requests", "Answers over HTTP.", "route", "status")
        self.connections = Gauge(
            "gptwo:connections", "Open connections.", (_LABEL,), registry=self._registry
        ).labels(model_name)
        self._dropped = self._counter("connections_dropped", "Connections that the server ended.", "reason")
        self._read = self._counter("prompt_tokens", "Prompt tokens of texts that have ended.").labels(
            model_name
        )
        self._written = self._counter("generation_tokens", "Tokens written in texts that have ended.").labels(
            model_name
        )
        self._first_token = self._histogram("time_to_first_token_seconds", _FIRST_TOKEN)
        self._between_tokens = self._histogram("inter_token_latency_seconds", _BETWEEN_TOKENS)
        self._end_to_end = self._histogram("e2e_request_latency_seconds", _REQUEST)
        self._queued = self._histogram("request_queue_time_seconds", _REQUEST)
        self._prefill = self._histogram("request_prefill_time_seconds", _REQUEST)
        self._decode = self._histogram("request_decode_time_seconds", _REQUEST)
        self._prompt_tokens = self._histogram("request_prompt_tokens", _TOKENS)
        self._generated_tokens = self._histogram("request_generation_tokens", _TOKENS)
        for reason in ("stop", "length", "abort", "error"):
            # A rate needs a count that was 0 before it was 1.
            self._success.labels(model_name, reason)
        ProcessCollector(registry=self._registry)

    def watch(self, stats: Callable[[], WriterStats]) -> None:
        """From now on an ``exposition`` asks these, too."""
        self._registry.register(_Watched(self._name, stats))

    def on_text(self, facts: TextFacts) -> None:
        """A text has ended. Of one that was not finished, no whole duration says anything: its tokens' alone count."""
        self._success.labels(self._name, facts.finish_reason).inc()
        self._read.inc(facts.prompt_tokens)
        self._written.inc(facts.generated_tokens)
        if facts.first_token_s is not None:
            self._first_token.observe(facts.first_token_s)
        for gap_s in facts.token_gaps_s:
            self._between_tokens.observe(gap_s)
        if facts.finish_reason in ("stop", "length"):
            self._end_to_end.observe(facts.end_to_end_s)
            self._queued.observe(facts.queue_s)
            self._prefill.observe(facts.prefill_s)
            self._decode.observe(facts.decode_s)
            self._prompt_tokens.observe(facts.prompt_tokens)
            self._generated_tokens.observe(facts.generated_tokens)

    def on_request(self, route: str, status: int) -> None:
        """A request was answered; ``route`` is a pattern of ours, never what a client asked for."""
        self._requests.labels(self._name, route, str(status)).inc()

    def on_drop(self, reason: str) -> None:
        """A connection was ended by the server: ``connections.Drop``."""
        self._dropped.labels(self._name, reason).inc()

    def exposition(self) -> tuple[bytes, str]:
        """All of it in Prometheus' text format, and the content type of that."""
        return generate_latest(self._registry), _CONTENT_TYPE

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"gptwo:{name}", meaning, (_LABEL, *labels), registry=self._registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        meaning = name.replace("_", " ").capitalize() + "."
        return Histogram(
            f"gptwo:{name}", meaning, (_LABEL,), registry=self._registry, buckets=buckets
        ).labels(self._name)


class _Watched(Collector):
    """The writer's own gauges and counts, read when they are asked for."""

    def __init__(self, name: str, stats: Callable[[], WriterStats]) -> None:
        self._name = name
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, meaning, value in (
            ("num_requests_running", "Texts that have a slot.", stats.running),
            ("num_requests_waiting", "Texts that wait for one.", stats.waiting),
            ("kv_cache_usage_perc", "Share of the KV memory that running texts hold, 0 to 1.", stats.kv_use),
            ("kv_cache_tokens", "Tokens that the KV memory has room for.", stats.kv_tokens),
        ):
            gauge = GaugeMetricFamily(f"gptwo:{name}", meaning, labels=(_LABEL,))
            gauge.add_metric((self._name,), value)
            yield gauge
        for name, meaning, value in (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found there.", stats.prefix_hits),
            ("num_preemptions", "Texts that gave up their memory and were read again.", stats.preemptions),
        ):
            counter = CounterMetricFamily(f"gptwo:{name}", meaning, labels=(_LABEL,))
            counter.add_metric((self._name,), value)
            yield counter
