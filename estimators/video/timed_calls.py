"""Calls that may never come back, as from a network disk that is away: each gets so much time, and no more."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

T = TypeVar("T")
Work = Callable[[], Any]


class TimedCalls:
    """One thread that makes calls, one after the other, for somebody who waits only so long for each.

    A call that takes longer cannot be ended: it is left behind with its thread, which ends with the process, and what
    it works on must not be touched any more. Every later call is refused.

    Attributes:
        seconds: for each call.
        lost: whether one did not come back in time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.lost = seconds, False
        self._calls: SimpleQueue[Work | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: Thread | None = None

    def call(self, work: Callable[[], T], times: float = 1) -> T:
        """What `work` returns or raises. Raises TimeoutError if it takes longer than `times` the usual seconds."""
        if self.lost:
            raise TimeoutError("an earlier call has not come back")
        if self._thread is None:
            self._thread = Thread(target=self._serve, daemon=True)
            self._thread.start()
        self._calls.put(work)
        try:
            answer, error = self._answers.get(timeout=self.seconds * times)
        except Empty:
            self.lost = True
            raise TimeoutError(f"no answer in {self.seconds * times:g} s") from None
        if error is not None:
            raise error
        return cast(T, answer)

    def end(self) -> None:
        """Let the thread end; it is not waited for."""
        self._calls.put(None)
        self._thread = None

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            try:
                self._answers.put((work(), None))
            except BaseException as error:
                self._answers.put((None, error))
