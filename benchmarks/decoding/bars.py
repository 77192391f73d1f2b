"""The bars of decoding: figures of one run in, one row for each bar out. A pure function."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from decoding.engines import ENGINES
from gptwo.config import GPT2Config
from gptwo.costs import forward_flops, kv_cache_bytes, parameter_count

# Bytes of a weight as the native engine keeps it: a group of 32 has its scale in 2 more bytes.
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 34 / 32, "int4": 18 / 32}

# Of a number of a key or value as the native engine keeps it beside such weights.
KV_VALUE_BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 1}
# A cold start has room for so many: the prompt and a token, in whole blocks.
COLD_TOKENS = 32
DTYPES = tuple(BYTES_PER_WEIGHT)
SHARE_OF_BANDWIDTH = {"fp32": 0.95, "bf16": 0.85, "int8": 0.80, "int4": 0.55}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A bar. ``value`` is held against ``target``; None where something it needs was not measured."""

    bar: int
    what: str
    figure: str
    against: str
    value: float | None
    target: float
    at_most: bool = False

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "HIT" if (self.value <= self.target if self.at_most else self.value >= self.target) else "MISS"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def weight_bytes(config: GPT2Config, dtype: str) -> float:
    """Bytes of all weights as the native engine keeps them: matrices in ``dtype``, int4's E in int8, others in fp32."""
    D, F = config.n_embd, config.mlp_width
    matrices, E = config.n_layer * (4 * D * D + 2 * D * F), config.vocab_size * D
    E_bytes = E * BYTES_PER_WEIGHT["int8" if dtype == "int4" else dtype]
    return matrices * BYTES_PER_WEIGHT[dtype] + E_bytes + 4 * (parameter_count(config) - matrices - E)


def kv_bytes(config: GPT2Config, dtype: str) -> int:
    """Bytes of a token's keys and values beside weights of ``dtype``; in int8 each has a scale in 4 more."""
    scales = 4 * 2 * config.n_layer * config.n_head if KV_VALUE_BYTES[dtype] == 1 else 0
    return kv_cache_bytes(config, batch=1, tokens=1, bytes_per_value=KV_VALUE_BYTES[dtype]) + scales


def bytes_per_token(config: GPT2Config, dtype: str, *, prompt: int, count: int) -> float:
    """What must be read to decode a token, on average over ``count`` after ``prompt``: weights, and keys and values.

    Of P it is one row, which is not counted.
    """
    weights = weight_bytes(config, dtype) - 4 * config.context * config.n_embd
    positions = prompt + (count + 1) / 2
    return weights + positions * kv_bytes(config, dtype)


class Bars:
    """The bars of one run: ``figures`` are what ``benchmarks/decode.py`` keeps as a line of its history."""

    def __init__(self, figures: Mapping[str, Any], config: GPT2Config) -> None:
        self._figures = figures
        self._config = config

    def rows(self) -> list[Row]:
        """All bars that the issue names, in its order."""
        return [
            *self._decode(), *self._bandwidth(), *self._prefill(), *self._batch(), *self._cold(), *self._lookup(),
        ]  # fmt: skip

    def speed(self, engine: str, workload: str) -> float | None:
        """Tokens per second, or None where it was not measured."""
        found = self._figures["engines"].get(engine, {}).get(workload)
        return None if found is None else float(found["tokens_per_s"]["median"])

    def fastest_peer(self, workload: str, bits: int) -> str | None:
        """The fastest of the others whose weights have at least so many bits."""
        speeds = {
            name: speed
            for name, engine in ENGINES.items()
            if not engine.ours and engine.bits >= bits and (speed := self.speed(name, workload)) is not None
        }
        return max(speeds, key=lambda name: speeds[name]) if speeds else None

    def _ratio(
        self, bar: int, what: str, dtype: str, workload: str, target: float, *, peer: str | None = None
    ) -> Row:
        """Tokens per second of ours beside a peer's: the one named, or the fastest with as many bits."""
        ours = f"gptwo {dtype}"
        other = peer or self.fastest_peer(workload, ENGINES[ours].bits)
        speed, peer_speed = self.speed(ours, workload), self.speed(other, workload) if other else None
        return Row(
            bar=bar,
            what=f"{what}, {dtype}",
            figure=_tokens_per_s(speed),
            against=f"{other}: {_tokens_per_s(peer_speed)}" if other else "no peer",
            value=None if speed is None or peer_speed is None else speed / peer_speed,
            target=target,
        )

    def _decode(self) -> list[Row]:
        short = {"fp32": 1.0, "bf16": 1.2, "int8": 1.5, "int4": 1.4}
        long = {"fp32": 1.2, "int8": 1.6, "int4": 2.0}
        return [
            *(self._ratio(1, "128 tokens after 32", dtype, "short", x) for dtype, x in short.items()),
            *(self._ratio(1, "64 tokens after 900", dtype, "long", x) for dtype, x in long.items()),
        ]

    def share_of_bandwidth(self, dtype: str, workload: str) -> float | None:
        """The median over the rounds of bytes that must be read x tokens per second / the bandwidth of that round.

        Of medians it could be anything: a virtual machine's bandwidth doubles and halves from one round to the next.
        """
        found = self._figures["engines"].get(f"gptwo {dtype}", {}).get(workload)
        bandwidth = self._figures.get("ceilings", {}).get("read_bytes_per_s")
        if found is None or bandwidth is None:
            return None
        _, prompt, count = self._figures["workloads"][workload]
        per_token = bytes_per_token(self._config, dtype, prompt=prompt, count=count)
        rounds = zip(found["tokens_per_s"]["values"], bandwidth["values"], strict=True)
        return statistics.median(per_token * speed / ceiling for speed, ceiling in rounds)

    def _bandwidth(self) -> list[Row]:
        ceiling = _rate(self._figures.get("ceilings", {}).get("read_bytes_per_s"), "GB/s read")
        rows = []
        for dtype, target in SHARE_OF_BANDWIDTH.items():
            short, long = (self.share_of_bandwidth(dtype, workload) for workload in ("short", "long"))
            rows.append(
                Row(
                    bar=2, what=f"share of the read bandwidth after 32, {dtype}", figure=_percent(short),
                    against=ceiling, value=short, target=target,
                )
            )  # fmt: skip
            rows.append(
                Row(
                    bar=2, what=f"points of it lost after 900, {dtype}", figure=_percent(long),
                    against=f"{_percent(short)} after 32", target=0.10, at_most=True,
                    value=None if short is None or long is None else short - long,
                )
            )  # fmt: skip
        return rows

    def _prefill(self) -> list[Row]:
        rows = []
        peak = self._figures.get("ceilings", {}).get("fma_flops_per_s")
        for workload in ("prefill-512", "prefill-1023"):
            length = self._figures["workloads"].get(workload, (1, 0, 0))[1]
            name = f"prefill {length}"
            rows.append(self._ratio(3, name, "fp32", workload, 1.1))
            rows.append(self._ratio(3, name, "int8", workload, 1.1, peer="CTranslate2 int8"))
            speed = self.speed("gptwo fp32", workload)
            share = None
            if speed is not None and peak is not None:
                flops = forward_flops(self._config, batch=1, tokens=length, last_only=True)
                share = flops / length * speed / peak["median"]
            rows.append(
                Row(
                    bar=3, what=f"{name}, share of the FMA peak, fp32", figure=_percent(share),
                    against=_rate(peak, "GFLOP/s"), value=share, target=0.75,
                )
            )  # fmt: skip
        return rows

    def _batch(self) -> list[Row]:
        rows = [
            self._ratio(4, "8 rows, 64 tokens after 32", "int8", "batch-8", 1.5),
            self._ratio(4, "8 rows, 64 tokens after 32", "fp32", "batch-8", 1.5, peer="CTranslate2 fp32"),
        ]
        for dtype in ("fp32", "int8"):
            decode, prefill = self._flops_per_s(dtype, "batch-32"), self._flops_per_s(dtype, "prefill-512")
            rows.append(
                Row(
                    bar=4, what=f"32 rows, FLOP/s beside prefill's, {dtype}",
                    figure=_tokens_per_s(self.speed(f"gptwo {dtype}", "batch-32")),
                    against=f"prefill 512: {_tokens_per_s(self.speed(f'gptwo {dtype}', 'prefill-512'))}",
                    value=None if decode is None or prefill is None else decode / prefill, target=0.8,
                )
            )  # fmt: skip
        return rows

    def _flops_per_s(self, dtype: str, workload: str) -> float | None:
        # Decoding runs the head for every token, a prefill for the last alone: tokens of both are not alike.
        speed = self.speed(f"gptwo {dtype}", workload)
        if speed is None:
            return None
        _, prompt, count = self._figures["workloads"][workload]
        if count:
            return speed * forward_flops(self._config, batch=1, tokens=1, past=prompt + count // 2)
        return speed * forward_flops(self._config, batch=1, tokens=prompt, last_only=True) / prompt

    def _cold(self) -> list[Row]:
        rows = []
        for dtype in DTYPES:
            found = self._figures.get("cold", {}).get(dtype)
            seconds = found["first_token_s"]["median"] if found else None
            resident = found["resident_bytes"]["median"] if found else None
            needed = weight_bytes(self._config, dtype) + COLD_TOKENS * kv_bytes(self._config, dtype)
            rows.append(
                Row(
                    bar=5, what=f"shell to first token, seconds, {dtype}", against="a warm disk cache",
                    figure="-" if seconds is None else f"{seconds:.2f} s", value=seconds, target=0.6, at_most=True,
                )
            )  # fmt: skip
            rows.append(
                Row(
                    bar=5, what=f"resident memory beside weights and KV, {dtype}",
                    figure="-" if resident is None else f"{resident / 1e6:.0f} MB",
                    against=f"{needed / 1e6:.0f} MB", value=None if resident is None else resident / needed,
                    target=1.15, at_most=True,
                )
            )  # fmt: skip
        return rows

    def _lookup(self) -> list[Row]:
        rows = []
        for dtype in ("fp32", "int8"):
            found = self._figures.get("lookup", {}).get(dtype)
            with_, without = (found["with"]["median"], found["without"]["median"]) if found else (None, None)
            rows.append(
                Row(
                    bar=6, what=f"prompt lookup on a source file, {dtype}", figure=_tokens_per_s(with_),
                    against=f"without: {_tokens_per_s(without)}",
                    value=with_ / without if with_ and without else None, target=1.5,
                )
            )  # fmt: skip
        return rows


def _tokens_per_s(value: float | None) -> str:
    return "-" if value is None else f"{value:,.{0 if value >= 100 else 1}f} tok/s"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _rate(found: Mapping[str, float] | None, unit: str) -> str:
    return "-" if found is None else f"{found['median'] / 1e9:,.1f} {unit}"
