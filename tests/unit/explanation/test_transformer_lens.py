"""Every tensor, the lens, contributions, ablation and patching as TransformerLens has them, on the same random weights.

It has its own transformer and reads everything by hooks; here nothing is hooked and nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explained_models import reference, some_tokens
from lens_models import lens_model

import gptwo
from gptwo.config import GPT2Config
from gptwo.explanation.edits import Edit, Place
from gptwo.explanation.explain import given
from gptwo.explanation.explanation import Explanation, trace
from gptwo.explanation.whatif import continuation, heat_map
from gptwo.infer.engines import ENGINES
from model_cases import SMALL
from random_checkpoint import write_random_checkpoint
from tolerance import FLOAT64, Tolerance

FLOAT32 = Tolerance(atol=2e-4, rtol=2e-5, why="fp32 over 3 layers, logits near 30; sums in another order")

SINGLE = Tolerance(atol=1e-5, rtol=1e-6, why="its patching keeps what it measures in float32")

NAMES = {
    "input": "hook_resid_pre",
    "attention_norm": "ln1.hook_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "attention": "attn.hook_pattern",
    "heads": "attn.hook_z",
    "attention_output": "hook_attn_out",
    "middle": "hook_resid_mid",
    "mlp_norm": "ln2.hook_out",
    "mlp_up": "mlp.hook_pre",
    "mlp_gelu": "mlp.hook_post",
    "mlp_output": "hook_mlp_out",
    "output": "hook_resid_post",
}
"""Not the scores: of its own transformer hook_attn_scores is the pattern, which follows from them."""
BY_POSITION_FIRST = ("q", "k", "v", "heads")
"""B×T×H×K there."""


def assert_all_equal(found: Explanation, logits: torch.Tensor, cache: Any, tolerance: Tolerance) -> None:
    for i in range(found.config.n_layer):
        for ours, theirs in NAMES.items():
            expected = cache[f"blocks.{i}.{theirs}"][0]
            expected = expected.transpose(0, 1) if ours in BY_POSITION_FIRST else expected
            tolerance.assert_close(found[f"blocks.{i}.{ours}"], expected, f"blocks.{i}.{ours}")
        results = cache.stack_head_results(layer=i + 1)[-found.config.n_head :, 0]
        tolerance.assert_close(found[f"blocks.{i}.head_outputs"], results, f"blocks.{i}.head_outputs")
    embedding = cache["hook_embed"][0] + cache["hook_pos_embed"][0]
    tolerance.assert_close(found["embedding"], embedding, "embedding")
    tolerance.assert_close(found["final_norm"], cache["ln_final.hook_out"][0], "final_norm")
    tolerance.assert_close(found["logits"], logits[0], "logits")


def run(model: Any, tokens: np.ndarray, hooks: list[tuple[str, Callable[..., Any]]] = []) -> Any:  # noqa: B006
    """Its logits and cache, with hooks."""
    with model.hooks(fwd_hooks=hooks):
        return model.run_with_cache(torch.from_numpy(tokens)[None])


@pytest.mark.parametrize("T", [1, 2, 65])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=["fp64", "fp32"]
)
def test_every_tensor(dtype: torch.dtype, tolerance: Tolerance, T: int) -> None:
    ours, tokens = reference(dtype=dtype), some_tokens(T)
    assert_all_equal(trace(ours, tokens), *run(lens_model(ours), tokens), tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_every_shape_of_model(name: str) -> None:
    ours, tokens = reference(SMALL[name]), some_tokens(11, SMALL[name])
    assert_all_equal(trace(ours, tokens), *run(lens_model(ours), tokens), FLOAT64)


@pytest.mark.parametrize("engine", ENGINES)
def test_explain_of_a_folder(engine: str, tmp_path: Path) -> None:
    """What a user calls, in the float32 that both engines run."""
    config = GPT2Config(n_layer=3, n_head=4, n_embd=32, context=64, vocab_size=101)
    folder = write_random_checkpoint(tmp_path / "model", config, dtype=torch.float32)
    model = gptwo.load(folder, device="cpu", dtype="fp32", engine=engine)
    tokens = some_tokens(24, config)
    found = gptwo.explain(model, tokens.tolist())
    assert_all_equal(found, *run(lens_model(found.reference), tokens), FLOAT32)


def test_logit_lens() -> None:
    ours, tokens = reference(), some_tokens(17)
    found = trace(ours, tokens).lens(k=5)
    _, cache = run(lens_model(ours), tokens)
    # Before every block, and after the last.
    stack = cache.accumulated_resid(layer=-1)[:, 0]
    logits = cache.model.unembed(cache.apply_ln_to_stack(stack[:, None], recompute_ln=True))[:, 0]
    top = logits.log_softmax(dim=-1).topk(5, dim=-1)
    assert np.array_equal(found.ids, top.indices)
    FLOAT64.assert_close(found.probabilities, top.values.exp(), "probabilities")


@pytest.mark.parametrize(("position", "token"), [(0, 7), (16, 100), (9, 0)])
def test_direct_contributions_to_a_logit(position: int, token: int) -> None:
    ours, tokens = reference(), some_tokens(17)
    found = trace(ours, tokens).contributions(position, token)
    model = lens_model(ours)
    logits, cache = run(model, tokens)
    # Without folding, γ of the last layer norm is still beside the column of W_U.
    direction = ours.parameters["final_norm.weight"] * model.tokens_to_residual_directions(token)

    for what, ours_, stack in (
        ("heads", found.heads.ravel(), cache.stack_head_results()),
        ("mlps", found.mlps, cache.stack_activation("mlp_out")),
        ("token", [found.token], cache["hook_embed"][None]),
        ("position", [found.position], cache["hook_pos_embed"][None]),
    ):
        direct = cache.apply_ln_to_stack(stack)[:, 0, position] @ direction
        FLOAT64.assert_close(ours_, direct, what)
    FLOAT64.assert_close(found.logit, logits[0, position, token], "logit")
    FLOAT64.assert_close(found.total, logits[0, position, token], "total")


def test_norms() -> None:
    ours, tokens = reference(), some_tokens(17)
    found = trace(ours, tokens).norms()
    _, cache = run(lens_model(ours), tokens)
    stack = cache.accumulated_resid(layer=-1)[:, 0]
    FLOAT64.assert_close(found.residual, stack.norm(dim=-1), "residual")
    for ours_, theirs in ((found.attention, "attn_out"), (found.mlp, "mlp_out")):
        FLOAT64.assert_close(ours_, cache.stack_activation(theirs)[:, 0].norm(dim=-1), theirs)


def ablation(edit: Edit) -> tuple[str, Callable[..., Any]]:
    """The hook that does what the edit says."""

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        part = value if edit.part == "mlp" else value[:, :, edit.part]
        part[:] = 0 if edit.to == "zero" else part.mean(dim=1, keepdim=True)
        return value

    return f"blocks.{edit.layer}.{'hook_mlp_out' if edit.part == 'mlp' else 'attn.hook_z'}", hook


@pytest.mark.parametrize("to", ["zero", "mean"])
@pytest.mark.parametrize(
    "places",
    [[(1, 2)], [(0, "mlp")], [(2, 0), (2, 1), (2, 2)], [(0, 1), (1, "mlp"), (1, 0), (2, "mlp")]],
    ids=["a head", "an MLP", "a layer's heads", "several"],
)
def test_ablation(places: list[Any], to: Any) -> None:
    ours, tokens = reference(), some_tokens(17)
    edits = [Edit(*place, to) for place in places]
    changed = trace(ours, tokens, {Place(*edit[:2]): edit.to for edit in edits})
    model = lens_model(ours)
    assert_all_equal(changed, *run(model, tokens, [ablation(edit) for edit in edits]), FLOAT64)
    untouched, _ = run(model, tokens)
    assert np.abs(changed.logits - untouched[0].numpy()).max() > 1e-3, "the change changes something"


@pytest.mark.parametrize(
    "places",
    [[(0, 1)], [(1, "mlp")], [(0, 0), (2, 2), (0, "mlp"), (1, 1)]],
    ids=["a head", "an MLP", "several"],
)
def test_patching(places: list[Any]) -> None:
    ours, tokens, others = reference(), some_tokens(17), some_tokens(17, seed=5)
    wanted = [Place(*place) for place in places]
    patched = trace(ours, tokens, given(trace(ours, others), wanted))
    model = lens_model(ours)
    _, other = run(model, others)

    def patch(place: Place) -> tuple[str, Callable[..., Any]]:
        name = f"blocks.{place.layer}.{'hook_mlp_out' if place.part == 'mlp' else 'attn.hook_z'}"

        def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value = value.clone()
            part = (slice(None),) if place.part == "mlp" else (slice(None), slice(None), place.part)
            value[part] = other[name][part]
            return value

        return name, hook

    assert_all_equal(patched, *run(model, tokens, [patch(place) for place in wanted]), FLOAT64)


def test_every_head_patched_alone() -> None:
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    ours, tokens, others = reference(), some_tokens(17), some_tokens(17, seed=5)
    position, token = 11, 42
    grid = heat_map(trace(ours, tokens), trace(ours, others), position=position, token=token)
    model = lens_model(ours)
    logits, _ = run(model, tokens)
    _, other = run(model, others)
    expected = get_act_patch_attn_head_out_all_pos(
        model,
        torch.from_numpy(tokens)[None],
        other,
        lambda patched: patched[0, position, token] - logits[0, position, token],
    )
    SINGLE.assert_close(grid, expected, "the change of the logit")


@pytest.mark.parametrize("edits", [[], [Edit(1, 0), Edit(2, "mlp", "mean")]], ids=["as it is", "changed"])
def test_what_is_written_then(edits: list[Edit]) -> None:
    ours, tokens = reference(), some_tokens(8)
    changes = {Place(*edit[:2]): edit.to for edit in edits}
    written = continuation(ours, tokens, max_new_tokens=12, changes=changes)
    model, text = lens_model(ours), tokens
    for _ in range(12):
        logits, _ = run(model, text, [ablation(edit) for edit in edits])
        text = np.append(text, int(logits[0, -1].argmax()))
    assert written == text[8:].tolist()
