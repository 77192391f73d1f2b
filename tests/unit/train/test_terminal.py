from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from gptwo.config import GPT2Config, TrainConfig
from gptwo.data import PrepareProgress
from gptwo.data.terminal import prepare_bar
from gptwo.train.evaluate import Evaluation
from gptwo.train.observer import RunStart, StepReport
from gptwo.train.terminal import TerminalObserver

EVALUATION = Evaluation(nats_per_token=1.25, nats_per_byte=0.625, tokens=100, bytes=200)
SAMPLE = "\nclass [bold]Fox[/bold]:\n    quick = '[/]'"


def run_of(observer: TerminalObserver, *, steps: int, first_step: int = 0) -> None:
    """What the loop tells an observer, a report a step, saving and evaluating at the end of each quarter."""
    observer.started(
        RunStart(
            config=TrainConfig(data="d", out="o", steps=steps, dtype="fp32", micro_batch=2),
            model=GPT2Config(n_layer=1, n_head=2, n_embd=4, context=8, vocab_size=9),
            parameters=12_345,
            trained_parameters=12_345,
            train_tokens=67_890,
            device="cpu",
            first_step=first_step,
        )
    )
    for step in range(first_step + 1, steps + 1):
        observer.stepped(
            StepReport(
                step=step,
                loss=2.0,
                loss_per_byte=1.0,
                gradient_norm=0.52,
                lr=0.1,
                tokens_per_s=1234.5,
                matmul_share=0.5,
                data_wait=0.003,
                memory_bytes=300 * 2**20,
                seconds_left=65.0 * (steps - step),
            )
        )
        if step % (steps // 4) == 0:
            observer.saved(step, Path("o/checkpoints/[step]"))
            observer.evaluated(step, EVALUATION, SAMPLE)
    observer.close()


def shown(*, terminal: bool, steps: int, first_step: int = 0, show_samples: bool = True) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    run_of(TerminalObserver(console, show_samples=show_samples), steps=steps, first_step=first_step)
    return file.getvalue()


def test_elsewhere_it_prints_lines_and_no_control_characters() -> None:
    text = shown(terminal=False, steps=100)
    assert "\x1b" not in text
    assert "\r" not in text
    first, *rest = text.splitlines()
    assert first == (
        "12,345 parameters (L=1 H=2 D=4 C=8 V=9) on cpu, fp32, not compiled; 100 steps of 4,096 tokens in "
        "micro-batches of 2, 67,890 tokens of text"
    )
    steps = [line for line in rest if "tokens/s" in line]
    machine = "gradient 0.52  50% of peak  data wait 0.3%  300 MiB"
    assert steps[0] == "step 1/100  loss 2.000 (1.000 per byte)  1,234 tokens/s  1 h 47 min left  " + machine
    assert steps[-1] == "step 100/100  loss 2.000 (1.000 per byte)  1,234 tokens/s  0 s left  " + machine
    assert len(steps) == 21, "about every twentieth of the run"
    assert "step 25  saved o/checkpoints/[step]" in rest
    assert "step 25  validation loss 1.2500 nats per token, 0.6250 per byte" in rest
    assert not any(line.startswith("step 100  saved") for line in rest), (
        "the last one is the command's result"
    )


def test_samples_are_shown_as_they_are() -> None:
    text = shown(terminal=False, steps=4)
    assert text.count("sample at step") == 4
    assert "class [bold]Fox[/bold]:" in text
    assert "quick = '[/]'" in text
    assert "sample" not in shown(terminal=False, steps=4, show_samples=False)


def test_a_resumed_run_says_so() -> None:
    text = shown(terminal=False, steps=100, first_step=50)
    assert text.splitlines()[0].endswith("67,890 tokens of text, resumed after step 50")
    assert "step 51/100" in text


def test_a_terminal_shows_a_bar_and_is_left_clean() -> None:
    text = shown(terminal=True, steps=40)
    assert "training" in text
    assert "loss 2.000" in text
    assert "/40 steps" in text
    assert "step 40  validation loss 1.2500" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor comes back"
    assert "step 10/40  loss" not in text, "no lines where there is a bar"


def test_a_run_that_fails_leaves_the_terminal_clean() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None, legacy_windows=False)
    observer = TerminalObserver(console)
    observer.close()
    observer.close()
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h")


def test_a_warning_is_one_line() -> None:
    file = io.StringIO()
    TerminalObserver(Console(file=file, width=20)).warned(
        "loss.png could not be drawn: [/] is no place for it"
    )
    assert file.getvalue() == "warning: loss.png could not be drawn: [/] is no place for it\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_preparing_shows_its_stages_on_a_terminal_only(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    with prepare_bar(console) as progress:
        for stage in ("reading", "tokenizer", "writing"):
            progress(
                PrepareProgress(
                    stage=stage,  # type: ignore[arg-type]
                    bytes_done=5,
                    bytes_total=None if stage == "reading" else 10,
                    documents=1,
                )
            )
    text = file.getvalue()
    if terminal:
        assert "writing tokens" in text
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0
    else:
        assert text.strip() == ""
