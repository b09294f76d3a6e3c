"""Changes of the light that patches share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.information.lighting import without_lighting

quick = settings(derandomize=True, max_examples=50)


@quick
@given(st.integers(0, 2**32 - 1))
def test_the_light_is_taken_out_of_all_patches_and_what_one_does_alone_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.uniform(0.1, 0.9, (9, 1, 3)), 20, axis=1)
    own[4, 10:] *= 0.5
    light = rng.uniform(0.5, 1.5, (1, 20, 3))
    found = without_lighting(own * light, np.ones((9, 20), bool))
    # Up to a gain a channel that is the same in all frames: nobody knows how bright the light was at first.
    ratio = found / own
    assert ratio == pytest.approx(np.broadcast_to(ratio[:1, :1], ratio.shape))


def test_what_is_not_visible_has_no_say_in_the_light() -> None:
    colour = np.full((5, 6, 3), 0.5)
    colour[:4, 3] = 0.1
    visible = np.ones((5, 6), bool)
    visible[:4, 3] = False
    assert without_lighting(colour, visible)[4] == pytest.approx(colour[4])


def test_black_patches_and_frames_without_any_keep_their_colours() -> None:
    dark = np.full((3, 4, 3), 0.01)
    assert np.array_equal(without_lighting(dark, np.ones((3, 4), bool)), dark)
    assert np.array_equal(without_lighting(dark, np.zeros((3, 4), bool)), dark)


def banded(patches: int = 240, frames: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own colours of patches, their rows, and the gain of bands that run through the rows."""
    rng = np.random.default_rng(0)
    own = np.repeat(rng.uniform(0.1, 0.9, (patches, 1, 3)), frames, axis=1)
    rows = rng.uniform(0, 384, (patches, 1)) + rng.normal(0, 5, (1, frames))
    return own, rows, 1 + 0.08 * np.sin(2 * np.pi * (rows / 300 + 0.171 * np.arange(frames)))


def scatter(colour: np.ndarray) -> np.ndarray:
    """Standard deviation over time relative to the mean, of each patch."""
    return (colour.std(axis=1) / colour.mean(axis=1)).max(axis=1)


def test_bands_of_flicker_are_taken_out_and_what_a_few_patches_do_stays() -> None:
    own, rows, gain = banded()
    own[:12, 12:] *= 0.5
    colour, shown = own * gain[..., None], np.ones(rows.shape, bool)
    assert np.median(scatter(without_lighting(colour, shown))) > 0.03, "one gain a frame leaves the bands"
    found = without_lighting(colour, shown, rows)
    assert np.quantile(scatter(found[12:]), 0.95) < 0.005
    assert (found[:12, 12:].mean(1) / found[:12, :12].mean(1)) == pytest.approx(0.5, abs=0.02)


def test_without_bands_the_rows_change_nothing() -> None:
    own, rows, _ = banded()
    noisy = own * np.random.default_rng(1).normal(1, 0.02, own.shape)
    shown = np.ones(rows.shape, bool)
    assert np.array_equal(without_lighting(noisy, shown, rows), without_lighting(noisy, shown))


def test_patches_that_are_few_or_all_in_one_row_have_one_gain() -> None:
    own, rows, gain = banded(12)
    colour, shown = own * gain[..., None], np.ones(rows.shape, bool)
    assert np.array_equal(without_lighting(colour, shown, rows), without_lighting(colour, shown))
    level = np.zeros((240, 24))
    assert np.isfinite(without_lighting(banded()[0], np.ones(level.shape, bool), level)).all()
