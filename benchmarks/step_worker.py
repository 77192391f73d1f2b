"""What ``benchmarks/step.py`` runs in processes of their own: an engine's steps, its comparison with ours, the ceiling.

    python benchmarks/step_worker.py run_engine|compare|ceiling ENGINE SIZE [SEQUENCES LENGTH]

Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any


def timed_steps(tokens: int) -> int:
    """Steps of a round: short ones more often."""
    return 5 if tokens <= 1024 else 1


def build(engine: str, size: str) -> tuple[Any, Callable[..., Any]]:
    """The engine's model, and its mean loss as a function of tokens and targets, B×T each."""
    import torch

    from gptwo.config import preset
    from gptwo.model import build_model

    config = replace(preset(size), dropout=0.0)
    torch.manual_seed(0)
    if engine == "gptwo":
        ours = build_model(config, seed=0, device="cpu").train()
        return ours, ours.loss
    if engine.startswith("plain"):
        from plain_gpt2 import PlainGPT2

        model: Any = PlainGPT2(config).train()
        loss: Callable[..., Any] = model
    else:
        import transformers

        settings = transformers.GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.context, n_embd=config.n_embd,
            n_layer=config.n_layer, n_head=config.n_head, use_cache=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(settings).train()

        def loss(tokens: Any, targets: Any) -> Any:  # its own would leave out one token of each row
            return torch.nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), targets.flatten())

    return model, torch.compile(loss) if engine.endswith("compiled") else loss


def batch(size: str, sequences: int, length: int) -> tuple[Any, Any]:
    """Random tokens and targets."""
    import torch

    from gptwo.config import preset

    drawn = torch.randint(preset(size).vocab_size, (2, sequences, length))
    return drawn[0], drawn[1]


def run_engine(engine: str, size: str, sequences: int, length: int) -> dict[str, Any]:
    """Seconds of each timed step, and the peak memory of this process in bytes."""
    import torch

    from gptwo.base.memory import keep_freed_memory
    from gptwo.train.step import optimizer_step

    if engine == "gptwo":
        keep_freed_memory()  # as `gptwo train` does
    model, loss = build(engine, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def ours(tokens: Any, targets: Any) -> None:
        optimizer_step(
            model, lambda x, y: model.loss(x, y, reduction="sum"), optimizer, [(tokens, targets)],
            predicted_tokens=targets.numel(), lr_factor=1.0, grad_clip=1.0,
        )  # fmt: skip

    def theirs(tokens: Any, targets: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    seconds = []
    for _ in range(1 + timed_steps(sequences * length)):
        tokens, targets = batch(size, sequences, length)
        began = time.perf_counter()
        (ours if engine == "gptwo" else theirs)(tokens, targets)
        seconds.append(time.perf_counter() - began)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds[1:], "peak_bytes": peak, "threads": torch.get_num_threads()}


def compare(engine: str, size: str) -> dict[str, Any]:
    """How far loss and gradients are from ours on the same weights, both relative."""
    import torch

    model, loss = build(engine, size)
    ours, _ = build("gptwo", size)
    pairs = list(zip(ours.named_parameters(), model.named_parameters(), strict=True))
    stored_in_out = [".c_" in name and name.endswith("weight") for _, (name, _) in pairs]
    with torch.no_grad():
        for ((_, from_), (_, to)), turned in zip(pairs, stored_in_out, strict=True):
            to.copy_(from_.T if turned else from_)
    tokens, targets = batch(size, 2, 33)
    expected, actual = loss(tokens, targets), ours.loss(tokens, targets)
    expected.backward()
    actual.backward()
    gap = max(
        float((mine.grad - (other.grad.T if turned else other.grad)).abs().max() / other.grad.abs().max())
        for ((_, mine), (_, other)), turned in zip(pairs, stored_in_out, strict=True)
    )
    return {"loss": abs(float(actual.detach() / expected.detach()) - 1), "gradients": gap}


def ceiling(engine: str, size: str, sequences: int, length: int) -> dict[str, float]:
    """Seconds of one step's products: of the linear layers and the head by MKL and by the faster one, of attention."""
    import torch

    from gptwo.config import preset
    from gptwo.model import products

    def fastest(*ways: Callable[[], object]) -> float:
        best = float("inf")
        for way in ways:
            way()
            for _ in range(5):
                began = time.perf_counter()
                way()
                best = min(best, time.perf_counter() - began)
        return best

    config = preset(size)
    D, F, V, L, H = config.n_embd, config.mlp_width, config.vocab_size, config.n_layer, config.n_head
    N = sequences * length
    found = {"mkl_s": 0.0, "best_s": 0.0}
    with torch.no_grad():
        for inputs, outputs, times in ((D, 3 * D, L), (D, D, L), (D, F, L), (F, D, L), (D, V, 1)):
            # All rows of the head at once would be gigabytes; its speed is that of 1,024.
            rows = min(N, 1024) if outputs == V else N
            x, w, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
            dx, dw = torch.empty_like(x), torch.empty_like(w)
            mkl = (
                lambda x=x, w=w, y=y: torch.mm(x, w.t(), out=y),
                lambda w=w, y=y, dx=dx: torch.mm(y, w, out=dx),
                lambda x=x, y=y, dw=dw: torch.mm(y.t(), x, out=dw),
            )
            onednn = (
                lambda x=x, w=w: products.linear(x, w, None),
                lambda w=w, y=y: products.input_gradient(y, w),
            )
            slow = [fastest(way) for way in mkl]
            found["mkl_s"] += times * N / rows * sum(slow)
            found["best_s"] += (
                times
                * N
                / rows
                * (sum(min(a, fastest(b)) for a, b in zip(slow, onednn, strict=False)) + slow[2])
            )
        q, k = torch.randn(2, sequences * H, length, D // H)
        scores = torch.empty(sequences * H, length, length)
        mixed = torch.empty_like(q)
        # Six of these: two forward, four backward; of each the causal half.
        square = fastest(lambda: torch.bmm(q, k.mT, out=scores)) + fastest(
            lambda: torch.bmm(scores, k, out=mixed)
        )
        found["attention_s"] = 3 * L * square * (length + 1) / (2 * length)
    return found


if __name__ == "__main__":
    name, engine, size, *shape = sys.argv[1:]
    work: dict[str, Callable[..., Any]] = {"run_engine": run_engine, "compare": compare, "ceiling": ceiling}
    print(json.dumps(work[name](engine, size, *map(int, shape))))
