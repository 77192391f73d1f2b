"""The benchmark of decoding: its engines compute the same, its bars are counted right. Figures are not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import NativeLibraryError
from gptwo.config import GPT2Config, preset
from gptwo.costs import forward_flops, kv_cache_bytes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPT2 = preset("gpt2")
# What the families of engines import.
MODULES = {
    "native": ("gptwo.infer.native_engine",),
    "torch_engine": (),
    "transformers_gpt2": ("transformers",),
    "llama_cpp_gguf": ("llama_cpp", "gguf"),
    "ctranslate2_generator": ("ctranslate2", "transformers"),
    "openvino_genai_llm": ("openvino_genai", "nncf"),
    "onnxruntime_graph": ("onnxruntime", "onnx"),
}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their modules can be imported, and their history goes elsewhere."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that knows bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        import decode_worker

        folder = tmp_path_factory.mktemp("decode") / "nano"
        decode_worker.make("nano", str(folder))
    return folder


# --- engines ------------------------------------------------------------------------------------------------------


def engine_names() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        from decoding.engines import ENGINES

    return list(ENGINES)


def built() -> bool:
    from gptwo.kernels.library import instruction_sets

    try:
        return bool(instruction_sets())
    except NativeLibraryError:
        return False


@pytest.mark.parametrize("engine", engine_names())
def test_an_engine_computes_the_same_and_is_timed(engine: str, model: Path, tmp_path: Path) -> None:
    import decode
    import decode_worker
    from decoding.engines import DISTRIBUTIONS, ENGINES

    family = ENGINES[engine].family
    if family == "native" and not built():
        pytest.skip("needs the native kernels: install gptwo where a C++ compiler is")
    for module in MODULES[family]:
        pytest.importorskip(module, reason=f"needs {module}: pip install {' '.join(DISTRIBUTIONS[family])}")
    place = (engine, str(model), str(tmp_path / "converted"), "1")
    decode_worker.write(*place, str(tmp_path / "out.npz"))
    (gap,) = decode_worker.compare(str(model), str(tmp_path / "out.npz"))
    allowed = decode.TOLERANCES[ENGINES[engine].bits]
    assert (gap["logits"] or 0.0) < allowed.logits
    assert gap["tokens"] is not None
    assert gap["tokens"] < allowed.tokens
    seconds = decode_worker.time(*place, "2x5x3", "1x20x0")
    assert seconds["2x5x3"]["decode_s"] > 0
    assert seconds["1x20x0"]["prefill_s"] > 0


def test_an_engine_that_computes_something_else_is_seen(model: Path, tmp_path: Path) -> None:
    import decode
    import decode_worker

    out = tmp_path / "out.npz"
    decode_worker.write("gptwo torch", str(model), str(tmp_path), "1", str(out))
    with np.load(out) as kept:
        tokens, logits = kept["tokens"], kept["logits"]
    (true,) = decode_worker.compare(str(model), str(out))
    np.savez(out, tokens=tokens, logits=np.roll(logits, 1, axis=1))
    (other_logits,) = decode_worker.compare(str(model), str(out))
    np.savez(out, tokens=(tokens + 1) % 256)
    (other_tokens,) = decode_worker.compare(str(model), str(out))
    strict, loose = decode.TOLERANCES[32], decode.TOLERANCES[4]
    assert true["logits"] is not None
    assert true["logits"] < strict.logits
    assert other_logits["logits"] is not None
    assert other_logits["logits"] > loose.logits
    assert other_tokens["logits"] is None
    assert other_tokens["tokens"] is not None
    assert other_tokens["tokens"] > strict.tokens


def test_engines_that_are_not_here_or_compute_something_else_are_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    import decode

    answers: dict[str, Any] = {
        "llama.cpp F16": RuntimeError("ModuleNotFoundError: No module named 'llama_cpp'"),
        "gptwo torch": {"logits": 1e-6, "tokens": 0.0},
        "CTranslate2 fp32": {"logits": None, "tokens": 0.5},
    }

    def ask(run: Any, what: str, *arguments: Any, engine: str = "") -> Any:
        if what == "compare":
            return [answers[path.stem.replace("-", " ")] for path in arguments[1:]]
        if isinstance(answers[engine], RuntimeError):
            raise answers[engine]
        return {}

    monkeypatch.setattr(decode.Run, "ask", ask)
    run = decode.Run(tmp_path, model, argparse.Namespace(threads=1))
    assert run.usable(list(answers)) == ["gptwo torch"]
    assert run.left_out["llama.cpp F16"].endswith("pip install llama-cpp-python gguf")
    assert "does not compute what gptwo computes" in run.left_out["CTranslate2 fp32"]
    assert capsys.readouterr().out.count("is left out") == 2


def test_a_model_made_to_know_a_file_continues_it(model: Path, tmp_path: Path) -> None:
    from decoding.lookup import write_knowing

    import gptwo

    source = tmp_path / "source.py"
    source.write_text("def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n    return a - b\n" * 3)
    write_knowing(model, source, tmp_path / "knowing")
    knowing = gptwo.load(tmp_path / "knowing", engine="torch", device="cpu")
    tokens = knowing.tokenizer.encode(source.read_text())
    written = knowing.generate(tokens[:20], max_new_tokens=30, temperature=0.0)
    assert written.tokens == tokens[20:50]


# --- bars ---------------------------------------------------------------------------------------------------------


def figures(**speeds: dict[str, float]) -> dict[str, Any]:
    """What a run keeps: speeds by engine (spaces as underscores) and workload, and round ceilings."""
    import decode

    def spread(value: float) -> dict[str, Any]:
        return {"median": value, "values": [value] * 3}

    return {
        "size": "gpt2",
        "workloads": decode.WORKLOADS,
        "engines": {
            name.replace("_", " ").replace("llama cpp", "llama.cpp"): {
                workload: {"tokens_per_s": spread(speed)} for workload, speed in found.items()
            }
            for name, found in speeds.items()
        },
        "ceilings": {"read_bytes_per_s": spread(50e9), "fma_flops_per_s": spread(400e9)},
    }


def rows_of(found: dict[str, Any]) -> dict[str, Any]:
    from decoding.bars import Bars

    return {row.what: row for row in Bars(found, GPT2).rows()}


def test_a_peer_counts_at_the_same_or_more_bits() -> None:
    rows = rows_of(
        figures(
            gptwo_int8={"short": 150.0, "long": 150.0},
            gptwo_bf16={"short": 100.0},
            llama_cpp_F16={"short": 90.0, "long": 99.0},
            llama_cpp_Q4_0={"short": 190.0},
            OpenVINO_int8={"short": 95.0, "long": 60.0},
        )
    )
    int8, bf16 = rows["128 tokens after 32, int8"], rows["128 tokens after 32, bf16"]
    assert int8.value == pytest.approx(150 / 95)
    assert int8.against.startswith("OpenVINO int8")
    assert int8.verdict == "HIT"
    assert bf16.against.startswith("llama.cpp F16")
    assert bf16.verdict == "MISS"
    assert rows["64 tokens after 900, int8"].value == pytest.approx(150 / 99)
    assert rows["64 tokens after 900, int8"].verdict == "MISS"
    assert rows["128 tokens after 32, fp32"].verdict == "not measured"


def test_bytes_of_a_token_are_those_of_the_packed_weights_and_of_the_cache() -> None:
    from decoding.bars import bytes_per_token, weight_bytes

    small = GPT2Config(n_layer=1, n_head=2, n_embd=32, context=64, vocab_size=96)
    blocks, E, others = 12 * 32 * 32, 96 * 32, 13 * 32 + 2 * 32
    assert weight_bytes(small, "fp32") == 4 * (blocks + E + others + 64 * 32)
    assert weight_bytes(small, "int8") == (blocks + E) * 34 / 32 + 4 * (others + 64 * 32)
    # Of three tokens after 10, the keys and values of 11, 12 and 13 positions are read, in int8 with two heads' scales.
    kv = 12 * (kv_cache_bytes(small, batch=1, tokens=1, bytes_per_value=1) + 2 * 2 * 4)
    expected = blocks * 18 / 32 + E * 34 / 32 + 4 * others + kv
    assert bytes_per_token(small, "int4", prompt=10, count=3) == expected


def test_a_share_of_the_bandwidth_is_that_of_its_own_round() -> None:
    from decoding.bars import bytes_per_token

    found = figures(gptwo_fp32={"short": 60.0})
    per_token = bytes_per_token(GPT2, "fp32", prompt=32, count=128)
    speeds = [50.0, 80.0, 60.0]  # memory was twice as quick in the second round, and little was made of it
    found["engines"]["gptwo fp32"]["short"]["tokens_per_s"] = {"median": 60.0, "values": speeds}
    found["ceilings"]["read_bytes_per_s"] = {"median": 40e9, "values": [40e9, 80e9, 40e9]}
    share = rows_of(found)["share of the read bandwidth after 32, fp32"].value
    assert share == pytest.approx(per_token * 50 / 40e9)


def test_shares_of_the_ceilings() -> None:
    from decoding.bars import bytes_per_token

    found = figures(gptwo_fp32={"short": 96.0, "long": 60.0, "prefill-512": 1200.0, "batch-32": 700.0})
    rows = rows_of(found)
    short = rows["share of the read bandwidth after 32, fp32"]
    per_token = bytes_per_token(GPT2, "fp32", prompt=32, count=128)
    assert short.value == pytest.approx(per_token * 96 / 50e9)
    assert short.verdict == "HIT"
    lost = rows["points of it lost after 900, fp32"]
    assert lost.value == pytest.approx(
        short.value - bytes_per_token(GPT2, "fp32", prompt=900, count=64) * 60 / 50e9
    )
    assert lost.verdict == "MISS"
    prefill = forward_flops(GPT2, batch=1, tokens=512, last_only=True) / 512
    assert rows["prefill 512, share of the FMA peak, fp32"].value == pytest.approx(prefill * 1200 / 400e9)
    assert rows["prefill 512, share of the FMA peak, fp32"].verdict == "MISS"
    beside = rows["32 rows, FLOP/s beside prefill's, fp32"]
    assert beside.value == pytest.approx(
        forward_flops(GPT2, batch=1, tokens=1, past=40) * 700 / (prefill * 1200)
    )


def test_less_is_better_for_seconds_and_memory() -> None:
    found = figures()
    found["cold"] = {"fp32": {"first_token_s": {"median": 0.5}, "resident_bytes": {"median": 700e6}}}
    found["lookup"] = {"int8": {"with": {"median": 300.0}, "without": {"median": 190.0}}}
    rows = rows_of(found)
    assert rows["shell to first token, seconds, fp32"].verdict == "HIT"
    memory = rows["resident memory beside weights and KV, fp32"]
    assert memory.value == pytest.approx(700e6 / (124_439_808 * 4 + 32 * 2 * 12 * 768 * 4))
    assert memory.verdict == "MISS"
    assert rows["shell to first token, seconds, int8"].verdict == "not measured"
    assert rows["prompt lookup on a source file, int8"].verdict == "HIT"


# --- the command and the page -------------------------------------------------------------------------------------


def test_the_command_prints_its_bars_and_keeps_them_for_the_page(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import decode
    import performance
    import record

    small = {
        **decode.WORKLOADS,
        "short": (1, 8, 4),
        "long": (1, 30, 4),
    }
    monkeypatch.setattr(decode, "WORKLOADS", small)
    arguments = ["--only", "1", "--rounds", "1", "--threads", "1", "--model", str(model)]
    monkeypatch.setattr(
        sys, "argv", ["decode.py", *arguments, "--work", str(tmp_path / "w"), "--engines", "gptwo torch"]
    )
    decode.main()
    printed = capsys.readouterr().out
    assert printed.count("not measured") == 7
    (text,) = (record.HISTORY / "decode.jsonl").read_text(encoding="utf-8").splitlines()
    line = json.loads(text)
    assert line["engines"]["gptwo torch"]["long"]["tokens_per_s"]["median"] > 0
    assert [row["bar"] for row in line["bars"]] == [1] * 7
    assert performance.tables(record.HISTORY / "decode.jsonl").startswith("Not measured yet"), (
        "not GPT-2 124M"
    )

    line["size"] = "gpt2"
    line["bars"][0].update(value=1.5, verdict="HIT")
    older = {
        **line,
        "bars": [{**row, "value": 0.5, "verdict": "MISS"} for row in line["bars"]],
        "only": [1, 2],
    }
    history = "".join(json.dumps(entry) + "\n" for entry in (older, line))
    (record.HISTORY / "decode.jsonl").write_text(history, encoding="utf-8")
    before = f"# A page\n\n{performance.BEGIN}\nold\n{performance.END}\nafter\n"
    page = performance.page(before, record.HISTORY / "decode.jsonl")
    assert "| 1 | 128 tokens after 32, fp32 | - | no peer | 1.50 | ≥ 1 | HIT |" in page
    assert "MISS" not in page
    assert "old" not in page
    assert page.startswith("# A page\n")
    assert page.endswith("after\n")
    assert performance.page(page, record.HISTORY / "decode.jsonl") == page
    with pytest.raises(ValueError, match="has no"):
        performance.page("# A page without markers", record.HISTORY / "decode.jsonl")


def test_the_page_is_made_of_its_history() -> None:
    import performance

    text = performance.PAGE.read_text(encoding="utf-8")
    assert performance.whole_page(text, BENCHMARKS / "history") == text, (
        "docs/performance.md is stale: run `python benchmarks/performance.py`"
    )
