"""Signals that end a command as Ctrl-C does: SIGTERM of a container or a batch system, SIGHUP of a closed terminal."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_received: list[int] = []  # signals that were raised in this command


class Interrupted(KeyboardInterrupt):
    """A signal ends the command.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(end: KeyboardInterrupt) -> int:
    """What a shell would report: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    # `ray.get` replaces what a handler raises by a KeyboardInterrupt of its own.
    received = _received or [signal.SIGINT]
    return 128 + (end.number if isinstance(end, Interrupted) else received[-1])


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Interrupted` at SIGTERM and SIGHUP. A signal that is ignored already, as by nohup, stays so.

    After SIGHUP the terminal is gone: what would be written there is dropped, where it would be an error.
    """
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            for descriptor in terminals:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        _received.append(number)
        raise Interrupted(number)

    _received.clear()
    with _handled(ENDING, interrupt):
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Keep the handler of SIGTERM over `ray.init`, which replaces it by one that exits."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else signal.SIG_DFL
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        raise Interrupted(signal.SIGTERM) from error
    finally:
        if before is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def held() -> Iterator[None]:
    """Let a block finish that cleans up: a signal takes effect at its end, a second Ctrl-C at once.

    If an error is on its way already, the signal has no further effect: the process is ending.
    """
    noted: list[int] = []
    ending = sys.exc_info()[0] is not None

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and noted:
            raise KeyboardInterrupt
        noted.append(number)

    with _handled((signal.SIGINT, *ENDING), note):
        yield
    if noted and not ending:
        signal.raise_signal(noted[0])


@contextmanager
def _handled(numbers: tuple[int, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals that are not ignored; only the main thread may."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
