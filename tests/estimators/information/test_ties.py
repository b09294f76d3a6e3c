"""Ties are found, and broken by noise that is seeded and too small to matter."""

import numpy as np
import pytest

from infoaug.estimators.information.ties import NOISE, break_ties, is_constant, tied


def seen(x: np.ndarray) -> np.ndarray:
    return np.ones(x.shape[:2], bool)


def test_the_share_of_tied_values_is_counted_coordinate_by_coordinate() -> None:
    x = np.array(
        [[[1.0, 0], [2, 1], [1, 2], [3, 3]], [[5.0, 5], [5, 5], [5, 5], [5, 5]], [[1.0, 5], [2, 6], [3, 7], [4, 8]]]
    )
    assert tied(x, seen(x)).tolist() == [0.25, 1.0, 0.0]
    visible = seen(x)
    visible[0, 0] = False
    assert tied(x, visible)[0] == 0.0, "a hidden sample ties with nothing"
    assert tied(np.zeros((0, 4, 2)), np.zeros((0, 4), bool)).shape == (0,)


def test_only_tied_trajectories_get_noise_in_proportion_to_their_own_motion() -> None:
    rng = np.random.default_rng(0)
    x = np.stack(
        [rng.normal(size=(50, 2)), np.round(rng.normal(size=(50, 2))), 1e4 * np.round(rng.normal(size=(50, 2)))]
    )
    broken = break_ties(x, seen(x))
    assert np.array_equal(broken[0], x[0])
    assert (tied(broken, seen(x)) == 0).all()
    for i in (1, 2):
        size = np.abs(broken[i] - x[i]).max() / np.sqrt(x[i].var(0).sum())
        assert 0.4 * NOISE < size <= 0.5 * NOISE


def test_the_noise_is_the_same_every_time_and_another_with_another_seed() -> None:
    x = np.round(np.random.default_rng(0).normal(size=(2, 30, 2)))
    assert np.array_equal(break_ties(x, seen(x), 3), break_ties(x, seen(x), 3))
    assert not np.array_equal(break_ties(x, seen(x), 3), break_ties(x, seen(x), 4))


def test_a_trajectory_that_stands_still_or_is_never_seen_stays_as_it_is() -> None:
    x = np.zeros((2, 10, 2))
    x[1, :5] = 3.0
    visible = seen(x)
    visible[1] = False
    assert np.array_equal(break_ties(x, visible), x)
    assert is_constant(x, visible).tolist() == [True, True]
    assert is_constant(x, seen(x)).tolist() == [True, False]


@pytest.mark.parametrize("hidden", [np.nan, np.inf])
def test_hidden_samples_may_hold_anything(hidden: float) -> None:
    x = np.round(np.random.default_rng(1).normal(size=(1, 20, 2)))
    visible = seen(x)
    visible[0, 3] = False
    expected = break_ties(x, visible)
    x[0, 3] = hidden
    assert np.array_equal(break_ties(x, visible)[visible], expected[visible])
    assert not is_constant(x, visible)[0]
