"""A tracker of the user's own: what it is given, and the check of what it returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from infoaug.estimators.trackers.tracks import Tracks, track

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)
QUERIES = np.array([[10, 20], [30.5, 12], [59, 39]], np.float32)


def still(frames: Any, queries: Any) -> Tracks:
    """The points stay where they are."""
    return Tracks(np.repeat(queries[:, None], len(frames), axis=1), np.ones((len(queries), len(frames)), bool))


def changed(**parts: Callable[[Any], Any]) -> Callable[..., Tracks]:
    """A tracker that gives something else as position or visible."""

    def track(frames: Any, queries: Any) -> Tracks:
        right = vars(still(frames, queries))
        return Tracks(**{name: parts.get(name, lambda value: value)(value) for name, value in right.items()})

    return track


def test_a_function_tracks_with_copies_and_with_the_options_that_it_takes() -> None:
    given: dict[str, Any] = {}

    def mine(frames: Any, queries: Any, weights: Any = None, *, device: str = "cpu") -> Tracks:
        given.update(weights=weights, device=device, dtype=queries.dtype)
        frames[:], result = 0, still(frames, queries)
        queries[:] = 0
        return result

    before, points = FRAMES.copy(), QUERIES.copy()
    found = track(FRAMES, QUERIES, method=mine, weights="file.pt", forward_backward=3.0)
    assert given == {"weights": "file.pt", "device": "cpu", "dtype": np.float32}
    assert np.array_equal(FRAMES, before) and np.array_equal(QUERIES, points), "they are used after it"
    assert found.position.dtype == np.float32 and np.array_equal(found.position[:, 3], QUERIES)
    assert found.visible.dtype == bool and found.visible.all()
    track(FRAMES, QUERIES, method=lambda frames, queries, **options: given.update(options) or still(frames, queries))
    assert given["forward_backward"] == 1.5
    assert track(FRAMES, QUERIES[:0], method=mine).position.shape == (0, 5, 2)


def test_a_track_starts_at_its_query_and_is_hidden_outside_the_frame_and_where_it_has_no_position() -> None:
    position = np.repeat(QUERIES[:, None].astype(np.float64), 5, axis=1)
    visible = np.ones((3, 5), bool)
    position[0, 0] += 0.5
    position[1, 2:4], visible[1, 2:4] = np.nan, False
    position[2, 4], visible[0, 0] = (-3, 10), False
    found = track(FRAMES, QUERIES, method=lambda frames, queries: Tracks(position, visible))
    assert np.array_equal(found.position[:, 0], QUERIES) and found.visible[:, 0].all()
    assert np.array_equal(found.position[1], np.repeat(QUERIES[1:2], 5, axis=0)), "the last known one"
    assert found.visible.tolist() == [[True] * 5, [True, True, False, False, True], [True] * 4 + [False]]
    assert found.position[2, 4].tolist() == [-3, 10] and np.isnan(position[1, 2]).all()


def test_tensors_of_the_cpu_are_taken() -> None:
    tensors = changed(position=torch.from_numpy, visible=torch.from_numpy)
    assert isinstance(track(FRAMES, QUERIES, method=tensors).position, np.ndarray)


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        (lambda frames, queries: 1 / 0, r"failed \(ZeroDivisionError: division by zero\)"),
        (lambda frames, queries: exit(3), r"failed \(SystemExit: 3\)"),
        (lambda frames, queries: (1, 2), r"returned a tuple: return infoaug\.\S+\.Tracks\(position, visible\)"),
        (lambda frames, queries: None, "returned a NoneType: return"),
        (
            changed(position=lambda value: value.swapaxes(0, 1)),
            r"as position float32\[5, 3, 2\]: .* f32\[3, 5, 2\], points",
        ),
        (changed(position=lambda value: value.astype(int)), r"as position int64\[3, 5, 2\]: it must be f32\[3, 5, 2\]"),
        (changed(position=lambda value: value[:, :4]), r"as position float32\[3, 4, 2\]"),
        (changed(visible=lambda value: value.T), r"as visible bool\[5, 3\]: it must be bool\[3, 5\], points first"),
        (changed(visible=lambda value: value.astype(float)), r"as visible float64\[3, 5\]: it must be bool\[3, 5\]"),
        (
            changed(visible=lambda value: [[True], [True, False]]),
            "as visible a list that is no NumPy array: convert it",
        ),
        (changed(position=lambda value: np.ma.masked_less(value, 1)), "as position a masked array: fill it"),
        (changed(visible=lambda value: np.ma.array(value, mask=value)), "as visible a masked array: fill it"),
        (
            changed(position=lambda value: torch.from_numpy(value).requires_grad_()),
            "as position a Tensor that is no NumPy array: convert it",
        ),
        (
            changed(position=lambda value: value * np.nan),
            "calls points visible whose positions are not finite: set visible",
        ),
        (
            changed(position=lambda value: value.astype(float) * 1e300),
            "calls points visible whose positions are not finite",
        ),
        (
            changed(position=lambda value: value[..., ::-1]),
            r"starts 28\.3 pixels from its queries: position\[:, 0\] must be",
        ),
        (changed(position=lambda value: value / 100), r"starts \S+ pixels from its queries"),
    ],
)
def test_what_a_tracker_returns_wrongly_is_one_sentence(tracker: Callable[..., Any], message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^the tracker \S+ {'gave ' * message.startswith('as ')}{message}"
    ) as refused:
        track(FRAMES, QUERIES, method=tracker)
    assert "\n" not in str(refused.value)


def test_a_class_in_place_of_its_object_is_refused() -> None:
    class Tracker:
        def __init__(self, weights: str | None = None) -> None: ...

    with pytest.raises(ValueError, match="Tracker is a class: give an object of it"):
        track(np.zeros((2, 8, 8), np.uint8), np.ones((1, 2), np.float32), method=Tracker)
    with pytest.raises(ValueError, match=r"frames must be an array .*, not a list"):
        track([], np.ones((1, 2), np.float32), method=lambda frames, queries: None)
