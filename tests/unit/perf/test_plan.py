"""Plans against cases worked by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gptwo.base.errors import ConfigError, ContextLengthError, DeviceError
from gptwo.config import PRESETS
from gptwo.costs import forward_flops, training_flops
from gptwo.infer.formats import Formats
from gptwo.perf import target as target_module
from gptwo.perf.generation_plan import kv_token_bytes, model_memory, plan_generation
from gptwo.perf.machines import CUDA_RESERVE
from gptwo.perf.plan import TrainingPlan, largest_that_fits, plan_training
from gptwo.perf.plan_text import generation_lines, took_line, training_lines, training_summary
from gptwo.perf.predict import predict_forward, predict_training_step
from gptwo.perf.target import Target, find_target
from gptwo.serve.kv_budget import kv_budget
from gptwo.serve.settings import ServeSettings
from gptwo.train.observer import Took

GPT2 = PRESETS["gpt2"]
A100 = find_target("a100")
STEP = 1024 * 64


def planned(target: Target = A100, **changes: Any) -> TrainingPlan:
    return plan_training(GPT2, target, **{"batch_tokens": STEP, "steps": 100, "micro_batch": 16, **changes})


def test_a_training_run_by_hand() -> None:
    plan = planned(price_per_hour=2.0)
    assert (plan.parameters, plan.weight_bytes) == (124_439_808, 497_759_232)
    assert (plan.dtype, plan.tokens, plan.ceilings) == ("bf16", 6_553_600, "datasheet")
    # Three times the forward pass of 64 sequences.
    assert plan.flops_per_step == training_flops(GPT2, batch=64, tokens=1024)
    assert plan.flops == 100 * plan.flops_per_step
    step = predict_training_step(
        GPT2, A100.ceilings(training=True), sequences=64, micro_batch=16, dtype="bf16", optimizer="adamw"
    )
    assert plan.seconds_per_step == step.seconds
    # No device does more than its ceiling, nor a plan for it less than half of that.
    least = plan.flops_per_step / (312e12 * 0.72)
    assert least < step.seconds < 2 * least
    assert plan.seconds == pytest.approx(100 * step.seconds)
    assert plan.tokens_per_s == pytest.approx(STEP / step.seconds)
    assert plan.cost == pytest.approx(2.0 * 100 * step.seconds / 3600)
    assert plan.memory["weights"] == 4 * 124_439_808
    assert plan.memory["optimizer"] == 8 * 124_439_808
    assert plan.peak_memory_bytes == sum(plan.memory.values())
    assert plan.free_memory_bytes == 80 << 30
    assert plan.fits
    assert plan.expected_loss is not None


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    def peak(micro_batch: int) -> int:
        return planned(micro_batch=micro_batch).peak_memory_bytes

    small = dataclasses.replace(A100, memory_bytes=(peak(5) + peak(6)) // 2)
    plan = planned(small)
    assert plan.largest_micro_batch == 5
    assert not plan.fits, "16 at a time were asked for"
    # What gptwo train would take by itself keeps room, and cuts the 64 evenly.
    assert planned(small, micro_batch=None).micro_batch <= 5
    assert planned(dataclasses.replace(A100, memory_bytes=1 << 20)).largest_micro_batch == 0
    # Of a step's 64 sequences all fit, and more would.
    assert (planned().largest_micro_batch or 0) > 64
    large = dataclasses.replace(A100, memory_bytes=peak(64))
    assert planned(large).largest_micro_batch == 64
    # A step has no more at a time than it has.
    assert planned(micro_batch=1000).micro_batch == 64
    unknown = planned(dataclasses.replace(A100, memory_bytes=None))
    assert (unknown.largest_micro_batch, unknown.fits) == (None, None)


def test_the_search_for_it() -> None:
    tried: list[int] = []

    def memory(at_once: int) -> dict[str, int]:
        tried.append(at_once)
        return {"all": 10 * at_once}

    assert [largest_that_fits(memory, most=64, there=there) for there in (9, 10, 129, 640, 10**6)] == [
        0,
        1,
        12,
        64,
        64,
    ]
    assert len(tried) < 40


def test_checkpointing_takes_less_memory_and_more_time() -> None:
    plain, checkpointed = planned(), planned(checkpoint_activations=True)
    assert checkpointed.memory["activations"] < plain.memory["activations"] / 2
    assert checkpointed.seconds_per_step
    assert plain.seconds_per_step
    assert 1.1 < checkpointed.seconds_per_step / plain.seconds_per_step < 1.4
    # Each says what the other would take.
    assert plain.activations == checkpointed.activations
    for name, plan in (("kept", plain), ("checkpointed", checkpointed)):
        assert plan.activations[name].peak_memory_bytes == plan.peak_memory_bytes
        assert plan.activations[name].seconds_per_step == plan.seconds_per_step
    assert " with --checkpoint-activations, which takes " in training_lines(plain)[2]
    assert " without --checkpoint-activations, which takes " in training_lines(checkpointed)[2]


def test_bf16_that_is_not_in_hardware_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^NVIDIA T4 16 GB trains in bf16 by emulation alone"):
        planned(find_target("t4"), dtype="bf16")
    assert planned(find_target("t4")).dtype == "fp32"


def test_several_devices_share_the_step_and_talk() -> None:
    one, eight = planned(micro_batch=8), planned(micro_batch=8, ranks=8, price_per_hour=1.0)
    assert eight.communication is not None
    assert eight.communication.bytes_per_step == 2 * 7 * 4 * 124_439_808 // 8
    assert one.seconds_per_step
    assert eight.seconds_per_step
    assert 5 < one.seconds_per_step / eight.seconds_per_step <= 8
    assert eight.cost == pytest.approx(8 * eight.seconds_per_step * 100 / 3600)
    # Without a link there is no time; FSDP keeps an eighth of the parameters on each.
    unlinked = planned(dataclasses.replace(A100, link_bytes_per_s=None), ranks=8)
    assert (unlinked.seconds, unlinked.cost) == (None, None)
    assert "give --link" in training_summary(unlinked)
    sharded = planned(micro_batch=8, ranks=8, parallel="fsdp")
    assert sharded.memory["weights"] == 4 * 124_439_808 // 8
    assert sharded.peak_memory_bytes < eight.peak_memory_bytes


def test_adapters_train_little_and_their_time_is_not_known() -> None:
    plan = planned(adapters=1_000_000)
    assert (plan.memory["optimizer"], plan.memory["gradients"]) == (8_000_000, 4_000_000)
    assert (plan.trained_parameters, plan.parameters) == (1_000_000, 124_439_808)
    assert plan.seconds_per_step is None
    assert training_summary(plan).endswith("; time not known: of adapters the memory alone is planned")


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_tokens=1000 is not a multiple of the context of 1024"):
        planned(batch_tokens=1000)
    with pytest.raises(ConfigError, match=r"is 1 sequences, and there are 2 devices; expected 2048 or more"):
        planned(batch_tokens=1024, ranks=2)


def generated(target: Target, **changes: Any) -> Any:
    given = {
        "engine": "native",
        "formats": Formats("fp32", "fp32"),
        "prompt_tokens": 32,
        "new_tokens": 128,
        "slots": 8,
    }
    return plan_generation(GPT2, target, **{**given, **changes})


def test_writing_by_hand() -> None:
    pi = find_target("raspberry-pi-5", memory_bytes=8 << 30)
    plan = generated(pi, price_per_hour=1.0)
    ceilings = pi.ceilings(training=False)
    assert ceilings is not None
    # 12 layers · 2 · 768 values of 4 bytes for each of 8 · 1,024 tokens.
    assert plan.memory["kv"] == 8 * 1024 * 12 * 2 * 768 * 4
    assert plan.memory["weights"] == pytest.approx(497_759_232, rel=1e-3), "and what fills up panels"
    alone = predict_forward(GPT2, ceilings, kind="decode", past=32 + 64)
    assert plan.tokens_per_s == 1 / alone.seconds
    # Every token reads all weights: 17.1 GB/s · 0.81 over 498 MB and some keys and values.
    assert plan.tokens_per_s == pytest.approx(17.1e9 * 0.81 / 500e6, rel=0.05)
    assert plan.tokens_per_s < plan.tokens_per_s_all_slots < 8 * plan.tokens_per_s
    assert plan.seconds == pytest.approx(plan.prefill_seconds + 127 / plan.tokens_per_s)
    assert plan.cost == pytest.approx(plan.seconds / 3600)
    assert plan.flops == forward_flops(GPT2, batch=1, tokens=32, last_only=True) + sum(
        forward_flops(GPT2, batch=1, tokens=1, past=past) for past in range(32, 159)
    )
    assert plan.fits


def test_the_largest_number_of_slots_fits_and_one_more_does_not() -> None:
    def peak(slots: int) -> int:
        return int(generated(A100, engine="torch", slots=slots).peak_memory_bytes)

    small = dataclasses.replace(A100, memory_bytes=(peak(9) + peak(10)) // 2)
    plan = generated(small, engine="torch", slots=2)
    assert plan.kv_bytes_per_slot == 1024 * 12 * 2 * 768 * 4
    # A fifth of what the model leaves stays free.
    assert plan.largest_slots == 7
    assert "; 7 would fit" in "".join(generation_lines(plan))
    unknown = dataclasses.replace(A100, memory_bytes=None)
    assert generated(unknown, engine="torch").largest_slots is None
    full = generated(dataclasses.replace(A100, memory_bytes=1 << 20), engine="torch")
    assert (full.largest_slots, full.fits) == (0, False)


def test_a_server_takes_as_many_slots_as_the_plan_says_and_no_more() -> None:
    free = 2_000_000_000
    pi = find_target("raspberry-pi-5", memory_bytes=free)
    slots = generated(pi).largest_slots

    def served(slots: int) -> int:
        formats = Formats("fp32", "fp32")
        settings = ServeSettings(slots=slots, kv_tokens=slots * 1024)
        return kv_budget(
            settings,
            context=1024,
            bytes_per_token=kv_token_bytes(GPT2, engine="native", formats=formats),
            model_bytes=model_memory(GPT2, engine="native", formats=formats, slots=slots),
            free_bytes=free,
            paged=True,
        ).slots

    assert 1 < slots < 64
    assert served(slots) == slots
    with pytest.raises(ConfigError, match="expected at most"):
        served(slots + 1)


def test_a_gpu_that_is_not_here_has_cuda_in_its_memory() -> None:
    assert planned().memory["process"] == CUDA_RESERVE == 512 << 20
    assert generated(A100, engine="torch").memory["process"] == CUDA_RESERVE
    assert generated(find_target("raspberry-pi-5")).memory["process"] == 0
    here = Target(device="cuda:0", title="a GPU", memory_bytes=1 << 34, has_bf16=True)
    assert planned(here).memory["process"] == 0, "the context is there when free memory is looked at"


def test_fewer_bits_are_fewer_bytes_and_more_tokens() -> None:
    pi = find_target("raspberry-pi-5")
    fp32, int8 = generated(pi), generated(pi, formats=Formats("int8", "int8"))
    assert int8.memory["weights"] < 0.28 * fp32.memory["weights"]
    assert int8.memory["kv"] < 0.3 * fp32.memory["kv"]
    assert int8.tokens_per_s > 3 * fp32.tokens_per_s
    # torch's wider and narrower kinds.
    sizes = [
        generated(A100, engine="torch", formats=Formats(name, name)).memory
        for name in ("fp64", "fp32", "fp16")
    ]
    assert [round(each["weights"] / sizes[2]["weights"]) for each in sizes] == [4, 2, 1]
    assert [each["kv"] // sizes[2]["kv"] for each in sizes] == [4, 2, 1]


def test_a_dtype_whose_speed_nobody_knows_has_no_times() -> None:
    t4 = find_target("t4")
    fp64 = generated(t4, engine="torch", formats=Formats("fp64", "fp64"))
    assert (fp64.ceilings, fp64.tokens_per_s, fp64.seconds) == ("datasheet", None, None)
    assert fp64.memory["weights"] == pytest.approx(2 * 497_759_232, rel=1e-3)
    assert "time            not known in fp64" in generation_lines(fp64)
    assert generated(t4, engine="torch", formats=Formats("fp16", "fp16")).tokens_per_s
    with pytest.raises(ConfigError, match=r"^NVIDIA T4 16 GB has bf16 by emulation alone.*fp16$"):
        generated(t4, engine="torch", formats=Formats("bf16", "bf16"))


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ContextLengthError, match="1000 tokens and 25 more are more than the model's context"):
        generated(A100, prompt_tokens=1000, new_tokens=25)


def test_a_device_that_is_here_has_no_times_until_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def nothing_cached(device: str, threads: int | None, *, measure: bool, **others: Any) -> None:
        asked.append(measure)

    monkeypatch.setattr(target_module, "cached_ceilings", nothing_cached)
    here = find_target("cpu")
    assert asked == [False]
    assert here.memory_bytes
    assert here.memory_bytes > 0
    plan = plan_training(GPT2, here, batch_tokens=1024, steps=1, micro_batch=1)
    assert (plan.dtype, plan.seconds, plan.ceilings) == ("fp32", None, None)
    assert plan.peak_memory_bytes > 12 * 124_439_808
    assert "measures this machine, once" in training_summary(plan)
    assert "measures this machine, once" in "\n".join(training_lines(plan))
    assert generated(here).tokens_per_s is None


def test_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="raspberry-pi-5"):
        find_target("tpu")


def test_the_words() -> None:
    plan = planned(ranks=2, price_per_hour=3.0)
    text = "\n".join(training_lines(plan))
    for said in (
        "124,439,808 parameters",
        "498 MB",
        "100 steps of 65,536 tokens on 2 devices",
        "rough guide",
    ):
        assert said in text
    assert "it does not fit" not in text
    assert "it does not fit" in "\n".join(
        training_lines(planned(dataclasses.replace(A100, memory_bytes=10**9)))
    )
    took = Took(steps=100, seconds=90.0, seconds_per_step=0.9, tokens_per_s=72_817.0, peak_memory_bytes=10**9)
    exact = dataclasses.replace(plan, peak_memory_bytes=8 * 10**8, seconds_per_step=1.0)
    assert took_line(exact, took) == (
        "took: 1 GB of memory at most (+25%), 900 ms a step (-10%), 72,817 tokens/s, 1 min 30 s in 100 steps"
    )
    # A plan that is far off says when its speeds were measured.
    slower = dataclasses.replace(exact, seconds_per_step=0.7, measured_at="2026-11-30T09:12:00+00:00")
    assert took_line(slower, took).endswith(
        " in 100 steps; the plan has the speeds of 2026-11-30T09:12:00+00:00, when this machine was slower or faster "
        "or had other work: `gptwo plan MODEL --measure` measures them again"
    )
    assert "the speeds of" not in took_line(dataclasses.replace(slower, seconds_per_step=0.8), took)
    assert "the speeds of" not in took_line(dataclasses.replace(slower, measured_at=None), took)
    assert "8 side by side  " in "\n".join(generation_lines(generated(A100, engine="torch")))
    assert "\n1,000 side by side " in "\n".join(generation_lines(generated(A100, engine="torch", slots=1000)))
