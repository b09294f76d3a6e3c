"""Code of the user's own, named `module:Class` or `module:function`: what of it identifies a stage, and trackers."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from infoaug.estimators.trackers import own
from infoaug.models import own_code
from infoaug.orchestrator.config import ExtractConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.settings import one_line


def identity(name: str, key: str, section: str) -> dict[str, str]:
    """What of a name belongs to the identity of a stage: the digest of its code, if that is of the user's own.

    Args:
        name: as a setting names it.
        key: under which the digest is returned.
        section: of the setting, for messages.

    Raises:
        UsageError: it cannot be imported or read.
    """
    try:
        code = own_code.digest(name) if own_code.is_own(name) else ""
    except (ValueError, OSError) as error:
        raise UsageError(one_line(f"{section}: {error}").rstrip(".")) from None
    return {key: code} if code else {}


def tracker(settings: ExtractConfig) -> str | own.Tracker:
    """The tracker of a config as `track` takes it: a name, or what the user's own code gives.

    A function is taken as it is. A class is built once in a process, with `weights` if it takes them.

    Raises:
        ValueError: it cannot be imported or built, or cannot be called with frames and queries.
    """
    if not own_code.is_own(settings.tracker):
        return settings.tracker
    return _own_tracker(settings.tracker, settings.tracker_weights)


@cache
def _own_tracker(name: str, weights: str | None) -> own.Tracker:
    found: Any = own_code.find(name)
    if isinstance(found, type):
        try:
            found = found(**own.taken(found, {"weights": weights}))
        except (Exception, SystemExit) as error:  # the code may raise anything
            why = own_code.why(error)
            raise ValueError(
                f"{name!r} cannot be built ({why}): correct its __init__, which is given nothing but weights"
            ) from error
    if not _takes_frames_and_queries(found):
        raise ValueError(
            f"{name!r} is no tracker: name a function that is called as track(frames, queries), or a class whose "
            "objects are"
        )
    tracker: own.Tracker = found
    return tracker


def _takes_frames_and_queries(found: Any) -> bool:
    if not callable(found):
        return False
    called: Callable[..., Any] = found
    try:
        inspect.signature(called).bind("frames", "queries", **own.taken(called, dict.fromkeys(own.OPTIONS)))
    except TypeError:
        return False
    except ValueError:  # it is not written in Python
        return True
    return True
