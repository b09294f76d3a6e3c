"""Signals that end a command."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from infoaug.orchestrator.runtime import interruption
from infoaug.orchestrator.runtime.interruption import Interrupted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's own handlers within a test, and those from before after it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_is_raised_like_ctrl_c_and_has_the_exit_code_of_a_shell(name: str, code: int) -> None:
    with interruption.raised(), pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(signal.Signals[name])
    assert interruption.exit_code(caught.value) == code
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_is_ignored_from_the_start_stays_ignored_and_does_not_shield_from_the_others() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a job in the background of a script
    with interruption.raised():
        signal.raise_signal(signal.SIGHUP)
        with interruption.held():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_what_cleans_up_ends_before_a_signal_takes_effect() -> None:
    done = []
    with interruption.raised(), pytest.raises(Interrupted, match="SIGTERM"), interruption.held():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        done.append("cleaned up")
    assert done


def test_a_second_ctrl_c_does_not_wait_for_what_cleans_up() -> None:
    with interruption.raised(), pytest.raises(KeyboardInterrupt), interruption.held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it goes on")


def test_a_second_signal_changes_nothing_while_the_first_one_ends_the_process() -> None:
    with interruption.raised(), pytest.raises(Interrupted, match="SIGTERM"):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            with interruption.held():
                signal.raise_signal(signal.SIGHUP)


def test_a_terminal_that_was_closed_is_written_to_no_more() -> None:
    code = (
        "import signal, sys, time\n"
        "from infoaug.orchestrator.runtime import interruption\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "with interruption.raised():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(600)\n"
        "    except KeyboardInterrupt as end:\n"
        "        print('interrupted', file=sys.stderr, flush=True)\n"
        "        sys.exit(interruption.exit_code(end))\n"
    )
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 129


def test_the_handler_is_kept_over_a_start_of_ray_that_replaces_it_and_over_one_that_it_ends() -> None:
    def start() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

    with interruption.raised():
        with interruption.kept():
            start()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), interruption.kept():
            start()
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_exit_code_is_the_signal_s_where_ray_raises_its_own_interruption(number: signal.Signals) -> None:
    with interruption.raised():
        with contextlib.suppress(interruption.Interrupted):  # as in `ray.get`
            signal.raise_signal(number)
        assert interruption.exit_code(KeyboardInterrupt()) == 128 + number
    with interruption.raised():
        assert interruption.exit_code(KeyboardInterrupt()) == 130, "Ctrl-C of the next command of this process"
