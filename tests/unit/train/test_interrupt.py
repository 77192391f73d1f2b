from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from gptwo.train.distributed import World
from gptwo.train.interrupt import StopRequest

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_a_wish(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in NUMBERS}
    with StopRequest() as stop:
        assert stop.signal_name is None
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name
        assert [signal.getsignal(each) for each in NUMBERS] == [signal.SIG_DFL] * 2, (
            "a second one ends at once"
        )
    assert {each: signal.getsignal(each) for each in NUMBERS} == before


def test_handlers_are_put_back_after_an_error() -> None:
    before = {each: signal.getsignal(each) for each in NUMBERS}
    with pytest.raises(ZeroDivisionError), StopRequest():
        _ = 1 / 0
    assert {each: signal.getsignal(each) for each in NUMBERS} == before


def test_another_thread_may_train_without_being_asked_to_stop() -> None:
    seen: list[str | None] = []

    def run() -> None:
        with StopRequest() as stop:
            seen.append(stop.signal_name)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals: run on Linux or macOS")
@pytest.mark.parametrize("second", NUMBERS)
@pytest.mark.parametrize("first", NUMBERS)
def test_a_second_signal_ends_the_process(first: signal.Signals, second: signal.Signals) -> None:
    script = (
        "import time\nfrom gptwo.train.interrupt import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while stop.signal_name is None:\n        time.sleep(0.01)\n"
        "    print(stop.signal_name, flush=True)\n"
        "    while True:\n        time.sleep(0.01)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{first.name}\n"
        process.send_signal(second)
        assert process.wait() == -second


def test_a_signal_while_the_ranks_agree_is_not_lost() -> None:
    class Slow(World):
        def largest(self, number: int) -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            return number

    with StopRequest() as stop:
        stop.agreed(Slow())
        assert stop.signal_name == "SIGTERM"


def test_a_signal_ends_at_once_what_may_be_left_undone() -> None:
    done: list[str] = []
    with StopRequest() as stop:
        with stop.ending():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("went on")
        assert stop.signal_name == "SIGINT"
    with StopRequest() as stop, stop.ending(allowed=False):
        os.kill(os.getpid(), signal.SIGINT)
        done.append("not allowed")
    assert done == ["not allowed"]
