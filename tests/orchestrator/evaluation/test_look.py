"""What of features is shown: rows drawn evenly, their neighbours, frames with components, all as small arrays."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.models.backbones import create_backbone
from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator.evaluation import look
from infoaug.orchestrator.evaluation.datasets import Dataset, Labelled
from infoaug.orchestrator.evaluation.look import component_colours

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}


def labelled(count: int, classes: int, side: int = 8, seed: int = 0) -> tuple[Labelled, np.ndarray]:
    """Images whose grey is ten times their class, and features that are a direction of the class, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    images = np.broadcast_to((10 * labels).astype(np.uint8)[:, None, None, None], (count, 3, side, side))
    features = np.eye(classes, 32)[labels] + 0.05 * rng.normal(size=(count, 32))
    return Labelled(torch.from_numpy(images.copy()), torch.from_numpy(labels)), features.astype(np.float32)


# ---- neighbours and map of labelled images


def test_neighbours_of_test_images_are_training_images_with_their_labels() -> None:
    (train, seen), (test, tested) = labelled(120, 12), labelled(90, 12, seed=1)
    found = look.of_images(Dataset(train, test, [f"c{n}" for n in range(12)], []), seen, tested)
    assert found["tiles"].shape == (6, 6, 8, 8, 3) and found["similarity"].shape == (6, 5)
    assert (found["tiles"][..., 0, 0, 0] == 10 * found["tile_labels"]).all(), "a picture is that of its label"
    assert (found["tile_labels"] == found["tile_labels"][:, :1]).all(), "features that are the class find the class"
    assert found["tile_labels"][:, 0].tolist() == [0, 2, 4, 7, 9, 11], "queries are spread over the classes"
    assert len(found["map"]) == len(found["map_labels"]) and len(set(found["map_labels"])) == look.CLASSES
    assert found["classes"].tolist()[11] == "c11"


def test_what_is_shown_of_two_backbones_is_of_the_same_images() -> None:
    (train, seen), (test, tested) = labelled(60, 3), labelled(60, 3, seed=1)
    data = Dataset(train, test, ["a", "b", "c"], [])
    one, other = look.of_images(data, seen, tested), look.of_images(data, seen[:, ::-1].copy(), -tested)
    assert (one["tiles"][:, 0] == other["tiles"][:, 0]).all() and (one["map_labels"] == other["map_labels"]).all()
    again = look.of_images(data, seen, tested)
    assert all(np.array_equal(again[name], array) for name, array in one.items())


def test_large_images_are_shown_small_and_few_training_images_give_fewer_neighbours() -> None:
    (train, seen), (test, tested) = labelled(2, 2, side=100), labelled(3, 2, side=100)
    found = look.of_images(Dataset(train, test, ["a", "b"], []), seen, tested)
    assert found["tiles"].shape == (3, 3, look.TILE, look.TILE, 3) and found["map"].shape == (3, 2)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 12))
def test_rows_are_drawn_evenly_over_classes(labels: list[int], count: int) -> None:
    of = np.array(labels, np.int64)
    rows = look.spread(of, count)
    assert len(set(rows.tolist())) == len(rows)
    drawn, there = Counter(of[rows].tolist()), Counter(labels)
    assert len(drawn) == min(count, len(there))
    most = max(drawn.values())
    assert all(n >= most - 1 or n == there[label] for label, n in drawn.items())
    assert len(rows) <= count and (len(rows) == count or len(rows) == len(labels))


# ---- patches


def test_neighbours_of_patches_are_of_other_clips() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 4)).astype(np.float32)
    groups = np.repeat(np.arange(4), 10)
    images = np.broadcast_to(groups.astype(np.uint8)[:, None, None, None], (40, 6, 6, 3)).copy()
    found = look.of_patches(images, features, groups, [f"clip {g}" for g in groups])
    shown = found["patches"][:, :, 0, 0, 0]
    assert (shown[:, 1:] != shown[:, :1]).all() and set(shown[:, 0]) == {0, 1, 2, 3}
    assert (found["patch_names"] == np.char.add("clip ", shown.astype(str))).all()


def test_a_clip_with_few_others_has_fewer_neighbours() -> None:
    features = np.eye(4, dtype=np.float32)
    found = look.of_patches(np.zeros((4, 6, 6, 3), np.uint8), features, np.array([0, 0, 0, 1]), ["a", "a", "a", "b"])
    assert np.isfinite(found["patch_similarity"]).sum(axis=1).tolist() in ([1, 3, 1, 1], [3, 1, 1, 1])


# ---- frames


def test_frames_are_shown_small_with_a_colour_a_cell() -> None:
    torch.manual_seed(0)
    dense = DenseFeatures(create_backbone("resnet18", 32, **SMALL))
    rng = np.random.default_rng(0)
    frames = {"a": rng.integers(256, size=(40, 2 * look.LONGER_SIDE, 3)).astype(np.uint8)}
    frames |= {"b": rng.integers(256, size=(17, 30, 3)).astype(np.uint8)}
    found = look.of_frames(frames, dense)
    assert found["frame_0"].shape == (20, look.LONGER_SIDE, 3) and found["components_0"].shape == (3, 48, 3)
    assert (found["frame_1"] == frames["b"]).all() and found["components_1"].shape == (3, 4, 3)
    assert found["frame_names"].tolist() == ["a", "b"]


def test_masks_shrink_with_their_frames_and_keep_their_values() -> None:
    mask = np.zeros((100, 2 * look.LONGER_SIDE), np.uint8)
    mask[:, : look.LONGER_SIDE] = 2
    frames = {n: np.zeros((*mask.shape, 3), np.uint8) for n in (0, 2)}
    found = look.of_masks("dog", frames, [0 * mask, 0 * mask, mask])
    assert found["mask_names"].tolist() == ["dog, frame 0", "dog, frame 2"]
    assert found["mask_1"].shape == found["masked_1"].shape[:2] == (50, look.LONGER_SIDE)
    assert set(np.unique(found["mask_1"])) == {0, 2} and not found["mask_0"].any()


# ---- components


def regions(seed: int, height: int = 6, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Features of two regions, with noise, and where the one is."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((height, width), bool)
    inside[1:4, 2:6] = True
    kinds = np.random.default_rng(0).normal(size=(2, 16))
    return (kinds[inside.astype(int)] + 0.1 * rng.normal(size=(height, width, 16))).astype(np.float32), inside


def test_two_regions_have_two_colours_which_are_the_same_in_all_frames() -> None:
    (one, inside), (two, also) = regions(1), regions(2, 8, 9)
    colours = component_colours([one, two])
    assert [colour.shape for colour in colours] == [(6, 9, 3), (8, 9, 3)]
    assert all(colour.min() >= 0 and colour.max() <= 1 for colour in colours)
    red = [colour[..., 0] for colour in colours]
    high = red[0][inside].mean() > 0.5
    for values, of in zip(red, (inside, also), strict=True):
        assert ((values > 0.5) == (of if high else ~of)).all()
        assert abs(values[of].mean() - values[~of].mean()) > 0.8


def test_the_components_are_those_of_numpy_and_the_same_each_time() -> None:
    cells = np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32) * np.array(
        [9, 5, 3, 1, 1, 1, 1, 1], np.float32
    )
    colours = component_colours([cells.reshape(10, 20, 8)])[0].reshape(-1, 3)
    centred = cells - cells.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    for n in range(3):
        assert abs(np.corrcoef(colours[:, n], centred @ axes[n])[0, 1]) > 0.99
    assert np.array_equal(colours, component_colours([cells.reshape(10, 20, 8)])[0].reshape(-1, 3))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 4, 2), (1, 1, 5), (2, 2, 8)])
def test_features_that_vary_in_fewer_directions_leave_the_other_colours_grey(shape: tuple[int, int, int]) -> None:
    constant = component_colours([np.ones(shape, np.float32)])[0]
    assert constant.shape == (*shape[:2], 3) and (constant == 0.5).all()
    varying = np.zeros(shape, np.float32)
    varying[0, 0, 0] = 1
    assert (component_colours([varying])[0][..., 2] == 0.5).all()
