"""Textures keep what they promise: labels are balanced and readable, and drawing is exact and reproducible."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from infoaug.orchestrator.synthetic.textures import FAMILIES, background, labelled_images, opaque, paste, sprite

FINGERPRINT = """
import hashlib
from infoaug.orchestrator.synthetic.textures import labelled_images
print(hashlib.sha256(labelled_images(7, 20)[0].tobytes()).hexdigest())
"""


# ---- painting


@pytest.mark.parametrize("family", range(len(FAMILIES)), ids=FAMILIES)
def test_a_sprite_of_every_family_is_opaque_and_has_structure(family: int) -> None:
    layer = sprite(np.random.default_rng(family), family, 40)
    assert layer.shape == (40, 40, 4)
    assert layer.dtype == np.float32
    assert layer.min() >= 0
    assert layer.max() <= 255
    assert (layer[..., 3] == 1).all()
    assert layer[..., :3].std(axis=(0, 1)).max() > 20


def test_a_background_has_corners_everywhere() -> None:
    ground = background(np.random.default_rng(0), 96, 128)
    cells = ground.reshape(12, 8, 16, 8, 3).std(axis=(1, 3)).mean(axis=-1)
    assert ground.shape == (96, 128, 3)
    assert ground.dtype == np.uint8
    assert cells.min() > 3


def test_a_layer_is_pasted_at_whole_pixels_exactly_and_beyond_the_edge_not_at_all() -> None:
    image = np.full((20, 30, 3), 10, np.uint8)
    layer = opaque(np.full((6, 8, 3), 200))
    paste(image, layer, np.array([[1.0, 0, 26], [0, 1.0, -2]]))
    expected = np.full((20, 30, 3), 10, np.uint8)
    expected[:4, 26:] = 200
    assert np.array_equal(image, expected)
    paste(image, layer, np.array([[1.0, 0, 40], [0, 1.0, 0]]))
    assert np.array_equal(image, expected)


def test_a_layer_half_a_pixel_on_covers_its_edge_by_half() -> None:
    image = np.zeros((9, 12, 3), np.uint8)
    paste(image, opaque(np.full((3, 4, 3), 200)), np.array([[1.0, 0, 4.5], [0, 1.0, 3]]))
    assert image[4, :, 0].tolist() == [0, 0, 0, 0, 100, 200, 200, 200, 100, 0, 0, 0]


# ---- labelled images


def test_the_same_seed_gives_the_same_images_in_another_process(in_another_process: Callable[[str], str]) -> None:
    here = hashlib.sha256(labelled_images(7, 20)[0].tobytes()).hexdigest()
    assert in_another_process(FINGERPRINT) == here


def test_labelled_images_are_balanced_and_reproducible() -> None:
    images, labels = labelled_images(3, 10 * len(FAMILIES) + 3, image_size=24)
    again, same = labelled_images(3, 10 * len(FAMILIES) + 3, image_size=24)
    other, _ = labelled_images(4, 10 * len(FAMILIES) + 3, image_size=24)
    assert images.shape == (len(labels), 24, 24, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.ptp(np.bincount(labels, minlength=len(FAMILIES))) <= 1
    assert np.array_equal(images, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(images, other)
    assert np.any(np.diff(labels) < 0)


def test_labels_can_be_told_from_the_images() -> None:
    images, labels = labelled_images(0, 1200)
    # The spectrum, in rings and with each ring's angles sorted: blind to phase, orientation and most of the colour.
    grey = images.mean(axis=-1) - images.mean(axis=(1, 2, 3))[:, None, None]
    spectrum = np.abs(np.fft.fft2(grey / grey.std(axis=(1, 2), keepdims=True)))
    frequency = np.fft.fftfreq(32) * 32
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    rings = [np.sort(spectrum[:, (radius >= r) & (radius < r + 1)], axis=1)[:, ::-2][:, :8] for r in range(2, 14)]
    feature = np.concatenate(rings, axis=1)
    distance = np.linalg.norm(feature[900:, None] - feature[None, :900], axis=-1)
    accuracy = np.mean(labels[:900][distance.argmin(axis=1)] == labels[900:])
    assert accuracy > 3 / len(FAMILIES)


# ---- bad arguments


@pytest.mark.parametrize(("argument", "value"), [("seed", -1), ("count", 0), ("image_size", 8)])
def test_a_bad_argument_of_the_labelled_images_is_named(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=argument):
        labelled_images(**{"seed": 0, "count": 10, argument: value})
