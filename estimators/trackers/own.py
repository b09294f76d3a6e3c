"""A tracker of the user's own: its call, and the check of what it returns."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infoaug.estimators.trackers.base import Bytes, Floats, Tracks, inside

Tracker = Callable[..., Tracks]

OPTIONS = ("forward_backward", "weights")  # what a tracker may be given beside frames and queries

_FARTHEST = 2.0  # a track may start this far from its query, pixels: some trackers work on reduced frames


def track(
    tracker: Tracker, frames: Bytes, queries: Floats, *, forward_backward: float, weights: str | Path | None
) -> Tracks:
    """Track points f32[N, 2] of the first frame through u8[T, H, W(, 3)] by `tracker(frames, queries)`.

    It is also given `forward_backward` and `weights`, if it has parameters of these names; see `trackers.tracks.track`.

    Returns:
        Its tracks, starting at the queries. A point is not visible outside the frame, and keeps its last position where
        it is not visible and its position is not finite.

    Raises:
        ValueError: it fails, or does not return `Tracks` of the right shapes and types, or its tracks start elsewhere,
            or a visible position is not finite.
    """
    name = name_of(tracker)
    if isinstance(tracker, type):
        raise ValueError(f"{name} is a class: give an object of it, which is called with frames and queries")
    options = taken(tracker, dict(zip(OPTIONS, (forward_backward, weights), strict=True)))
    try:
        found: Any = tracker(frames.copy(), queries.copy(), **options)
    except (Exception, SystemExit) as error:  # the code may raise anything
        why = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise ValueError(f"the tracker {name} failed ({why})") from error
    if not isinstance(found, Tracks):
        raise ValueError(
            f"the tracker {name} returned a {type(found).__name__}: return "
            "infoaug.estimators.trackers.tracks.Tracks(position, visible)"
        )
    count, length = len(queries), len(frames)
    position = _array(found.position, (count, length, 2), "floating", f"the tracker {name} gave as position")
    visible = _array(found.visible, (count, length), "bool", f"the tracker {name} gave as visible")
    with np.errstate(over="ignore"):  # too large a number becomes infinite
        position, visible = position.astype(np.float32), visible.copy()
    finite = np.isfinite(position).all(axis=2)
    if (visible & ~finite).any():
        raise ValueError(
            f"the tracker {name} calls points visible whose positions are not finite: set visible to False there"
        )
    start = np.hypot(*(position[:, 0] - queries)[finite[:, 0]].T).max(initial=0)
    if start > _FARTHEST:
        raise ValueError(
            f"the tracker {name} starts {start:.3g} pixels from its queries: position[:, 0] must be the queries, "
            "(x, y) in pixels of the first frame"
        )
    position[:, 0], visible[:, 0], finite[:, 0] = queries, True, True
    last = np.maximum.accumulate(np.where(finite, np.arange(length), 0), axis=1)
    position = np.take_along_axis(position, last[..., None], axis=1)
    visible &= inside(position.reshape(-1, 2), frames.shape[1:3]).reshape(count, length)
    return Tracks(position, visible)


def taken(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a function or a class has parameters for."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it is not written in Python
        return {}
    if any(each.kind == each.VAR_KEYWORD for each in parameters):
        return dict(options)
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return {key: value for key, value in options.items() if key in named}


def name_of(tracker: Tracker) -> str:
    """What a tracker is called in messages: `module:name`."""
    kind = tracker if hasattr(tracker, "__qualname__") else type(tracker)
    return f"{kind.__module__}:{getattr(kind, '__qualname__', '')}"


def _array(values: Any, shape: tuple[int, ...], kind: str, what: str) -> np.ndarray[Any, Any]:
    """Values as an array of a shape and a kind of numbers; ValueError for others."""
    if isinstance(values, np.ma.MaskedArray):  # its mask would be lost
        raise ValueError(f"{what} a masked array: fill it, with NaN or False where a point is not visible")
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # such as a tensor of a GPU, or one that needs gradients
        raise ValueError(f"{what} a {type(values).__name__} that is no NumPy array: convert it") from None
    right = found.dtype == np.bool_ if kind == "bool" else np.issubdtype(found.dtype, np.floating)
    if found.shape != shape or not right:
        wanted = f"{'bool' if kind == 'bool' else 'f32'}{list(shape)}"
        raise ValueError(f"{what} {found.dtype}{list(found.shape)}: it must be {wanted}, points first, then frames")
    return found
