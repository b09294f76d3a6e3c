"""Listings of folders and storages, which take seconds to minutes: a command makes each once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_kept: dict[tuple[str, str], Any] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is listed for the length of a command. The next one of the same process may find other files."""
    global _kept
    before = _kept
    _kept = {} if before is None else before
    try:
        yield
    finally:
        _kept = before


def once(what: str, path: str, listed: Callable[[], T]) -> T:
    """What `listed` finds at a path. Within `kept` it is called once for the same `what` and path."""
    if _kept is None:
        return listed()
    if (what, path) not in _kept:
        _kept[what, path] = listed()
    found: T = _kept[what, path]
    return found


def take(what: str, path: str, listed: Callable[[], T]) -> T:
    """As `once`, and no longer kept: the caller alone needs what may be as large as the data has files."""
    found = once(what, path, listed)
    if _kept is not None:
        del _kept[what, path]
    return found
