"""Progress for the user, on the standard error stream: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from infoaug.orchestrator.masking import without_secrets

console = Console(stderr=True, highlight=False)
SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


def say(text: str) -> None:
    """Print one line, which may have rich's markup, and add it to the log."""
    text = without_secrets(text)
    console.print(text, soft_wrap=True)
    _log.debug("%s", Text.from_markup(text).plain)


def parts(count: int, size: int, what: str) -> Iterator[slice]:
    """Slices of at most `size` of `count` things; prints a line for each slice if there are several."""
    for start in range(0, count, size):
        if count > size:
            say(f"{what} {start + 1:,} to {min(start + size, count):,} of {count:,}")
        yield slice(start, min(start + size, count))


def waiting(what: str) -> Callable[[], None]:
    """A function to call while there is nothing else to say: it prints a line every few seconds."""
    start = last = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            say(f"{what}, {now - start:.0f} s")

    return tick


def show(table: Table) -> None:
    """Print a result to the standard output stream."""
    Console().print(table)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass items through, and show how many of `total` are done and how long the rest will take."""
    if not total:
        yield from items
        return
    if not console.is_terminal:
        yield from _lines(items, total, what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def rate(what: str, unit: str, begun: float = 0.0) -> Iterator[Callable[[int, float], None]]:
    """Show the progress of work whose amount is known by its share only: items, items a second, and the time left.

    Args:
        what: the work.
        unit: of its items, in the plural.
        begun: share of the work that an earlier command has done, 0–1.

    Yields:
        A function to call with the number of further items, and the share that is done now, 0–1.
    """
    start = last = time.monotonic()
    done = 0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1 - begun, rate="")

        def add(count: int, share: float) -> None:
            nonlocal done, last
            done, now = done + count, time.monotonic()
            took, gained = max(now - start, 1e-6), share - begun
            text = f"{done:,} {unit}  {done / took:,.0f} {unit}/s"
            bar.update(task, completed=gained, rate=text)
            if not console.is_terminal and (now - last >= SECONDS_BETWEEN_LINES or share >= 1):
                last = now
                left = f"  {took * (1 - share) / gained:,.0f} s left" if gained > 0 else ""
                say(f"{what} {100 * share:.0f} %  {text}{left}")

        yield add


def _lines(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last = now
            say(f"{what} {done}/{total}, {now - start:.0f} s")
