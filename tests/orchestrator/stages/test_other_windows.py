"""Twins of other windows: whose they are, and that all patches that could be twins are drawn alike."""

import numpy as np
import pytest

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.stages.other_windows import drawn

# Rows 0–2 and 3–4 are windows of clip a, 5–7 of clip b; 1 and 6 could be nobody's twin, 2 and 7 have none.
CLIPS = ["a", "a", "b"]
PAIRED = [np.array(w, bool) for w in ([1, 0, 0], [1, 1], [1, 0, 0])]
ELIGIBLE = [np.array(w, bool) for w in ([1, 0, 1], [1, 1], [1, 0, 1])]


def draws(policy: str, count: int = 400) -> np.ndarray:
    """int[count, 8]"""
    return np.array([np.concatenate(drawn(policy, CLIPS, PAIRED, ELIGIBLE, seed)) for seed in range(count)])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("same-clip", {0: {2, 3, 4}, 3: {0, 2, 4}, 4: {0, 2, 3}, 5: {7}}),
        ("other-clip", {0: {5, 7}, 3: {5, 7}, 4: {5, 7}, 5: {0, 2, 3, 4}}),
    ],
)
def test_twins_are_drawn_uniformly_from_patches_that_could_be_one(policy: str, expected: dict[int, set[int]]) -> None:
    found = draws(policy)
    assert (found[:, [1, 2, 6, 7]] == -1).all()
    for patch, twins in expected.items():
        values, counts = np.unique(found[:, patch], return_counts=True)
        assert set(values) == twins
        assert counts.min() > 0.7 * len(found) / len(twins)


def test_the_same_draw_is_the_same_and_windows_keep_their_sizes() -> None:
    one, other = (drawn("other-clip", CLIPS, PAIRED, ELIGIBLE, 3) for _ in range(2))
    assert [len(window) for window in one] == [3, 2, 3]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_there_is_no_other_clip_without_a_patch_that_could_be_a_twin() -> None:
    eligible = [*ELIGIBLE[:2], np.zeros(3, bool)]
    with pytest.raises(StageError, match="at least two clips"):
        drawn("other-clip", CLIPS, [*PAIRED[:2], np.zeros(3, bool)], eligible, 0)
