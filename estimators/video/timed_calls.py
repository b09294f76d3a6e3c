"""Calls with a time limit, for work that may block for ever, such as reading from a disconnected network disk."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

T = TypeVar("T")
Work = Callable[[], Any]


class TimedCalls:
    """Makes calls one after the other on a worker thread, each with a time limit.

    Python cannot stop a call that blocks. Its thread is abandoned and ends with the process, so what the call works on
    must not be touched any more. Every later call is refused.

    Attributes:
        seconds: the time limit of a call.
        lost: whether a call has exceeded its limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.lost = seconds, False
        self._calls: SimpleQueue[Work | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: Thread | None = None

    def call(self, work: Callable[[], T], times: float = 1) -> T:
        """Make a call and wait for its result.

        Args:
            work: the function to call; what it raises is raised here.
            times: multiplies the time limit of this call.

        Raises:
            TimeoutError: this call, or an earlier one, exceeded its limit.
        """
        if self.lost:
            raise TimeoutError("an earlier call has not come back")
        if self._thread is None:
            # A daemon, so that an abandoned call does not keep the process alive.
            self._thread = Thread(target=self._serve, daemon=True)
            self._thread.start()
        self._calls.put(work)
        try:
            result, error = self._results.get(timeout=self.seconds * times)
        except Empty:
            self.lost = True
            raise TimeoutError(f"no answer in {self.seconds * times:g} s") from None
        if error is not None:
            raise error
        return cast(T, result)

    def end(self) -> None:
        """Tell the thread to end after its current call; return at once."""
        self._calls.put(None)
        self._thread = None

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            try:
                self._results.put((work(), None))
            except BaseException as error:
                self._results.put((None, error))
