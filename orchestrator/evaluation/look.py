"""What features see, as small arrays: neighbours of some images, a map of them, which classes a probe confuses, and
principal components of dense features.

They are computed where the features are, and drawn later, see `reporting.look`. What is drawn at random is the same
every time. A choice among rows of a data set is the same for all backbones, so that their pictures can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator.evaluation.datasets import Dataset
from infoaug.orchestrator.evaluation.neighbours import ordered, search, unit
from infoaug.orchestrator.evaluation.rows import Rows
from infoaug.orchestrator.evaluation.t_sne import t_sne

QUERIES, NEIGHBOURS = 6, 5  # rows of a grid, and images in them beside the query
TILE = 64  # pixels, the most of an image in a grid
POINTS, CLASSES = 500, 10  # the most in a map: more colours cannot be told apart
LONGER_SIDE = 384  # pixels, the most of a frame; its dense features would take too long else
MOST_FITTED = 100_000  # cells that principal components are fitted to
KEPT = (1, 99)  # percentiles of a component that become 0 and 1

Float = NDArray[np.float32]
Image = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]


def of_images(data: Dataset, train: Float, test: Float) -> Arrays:
    """Test images with their nearest training images by cosine similarity, and a map of the test images.

    Args:
        data: labelled images.
        train: features f32[N, D] of its training images.
        test: features f32[M, D] of its test images.

    Returns:
        `tiles` u8[Q, 1 + K, s, s, 3], RGB, the query first; `tile_labels` int64[Q, 1 + K]; `similarity` f32[Q, K];
        `map` f32[m, 2]; `map_labels` int64[m]; `classes`, their names.
    """
    labels = data.test.labels.numpy()
    queries = spread(labels, QUERIES)
    queries = queries[np.argsort(labels[queries], kind="stable")]
    count = min(NEIGHBOURS, len(train))
    found = search(unit(torch.from_numpy(test[queries])), Rows(train).blocks(), count)
    similarity, rows = ordered(*found, count)
    pictures = [
        [_tile(data.test.images[own]), *(_tile(data.train.images[row]) for row in near)]
        for own, near in zip(queries, rows, strict=True)
    ]
    called = np.concatenate([labels[queries, None], data.train.labels.numpy()[rows]], axis=1)
    distinct = np.unique(labels)
    shown = np.flatnonzero(np.isin(labels, _evenly(distinct, CLASSES)))
    shown = shown[spread(labels[shown], POINTS)]
    points = t_sne(unit(torch.from_numpy(test[shown]))).numpy()
    return {
        "tiles": np.array(pictures, np.uint8), "tile_labels": called, "similarity": similarity,
        "map": points, "map_labels": labels[shown], "classes": np.array(data.names, np.str_),
    }  # fmt: skip


def of_classes(names: Sequence[str], true: NDArray[np.int64], found: NDArray[np.int64]) -> Arrays:
    """How often a classifier takes one class for another.

    Args:
        names: of the K classes.
        true: int64[N], the classes of the images.
        found: int64[N], those that the classifier finds in them.

    Returns:
        `confusion` int64[n, 3]: class, found class and number of images, of the n ≤ N pairs that have any, in order;
        `classes`, their names.
    """
    pairs, counts = np.unique(true * len(names) + found, return_counts=True)
    confusion = np.stack([*np.divmod(pairs, len(names)), counts], axis=1).astype(np.int64)
    return {"confusion": confusion, "classes": np.array(names, np.str_)}


def of_patches(images: Image, features: Float, groups: NDArray[np.int64], names: Sequence[str]) -> Arrays:
    """Patches with their nearest neighbours among those of other groups.

    Args:
        images: u8[N, S, S, 3] RGB.
        features: f32[N, D].
        groups: int64[N], the clip or the window of each.
        names: of each.

    Returns:
        `patches` u8[Q, 1 + K, s, s, 3], the query first; `patch_names` of the same; `patch_similarity` f32[Q, K], −∞
        where there are fewer neighbours.
    """
    queries = spread(groups, QUERIES)
    vectors, of = unit(torch.from_numpy(features)), torch.from_numpy(groups)
    count = min(NEIGHBOURS, len(images))
    similarity, rows = ordered(*search(vectors[queries], [(0, vectors)], count, (of[queries], of)), count)
    shown = np.concatenate([queries[:, None], rows], axis=1)  # where there is no neighbour any picture, which none sees
    tiles = [[_tile(torch.from_numpy(images[row]).permute(2, 0, 1)) for row in line] for line in shown]
    called = [[names[row] for row in line] for line in shown]
    return {
        "patches": np.array(tiles, np.uint8),
        "patch_names": np.array(called, np.str_),
        "patch_similarity": similarity,
    }


def of_frames(frames: Mapping[str, Image], dense: DenseFeatures) -> Arrays:
    """Frames and the principal components of their dense features, which are computed together.

    Args:
        frames: u8[H, W, 3] RGB, by name.
        dense: gives the features.

    Returns:
        `frame_names`; of frame i `frame_i` u8[H, W, 3], not above `LONGER_SIDE`, and `components_i` u8[h, w, 3].
    """
    small = [shrunk(frame) for frame in frames.values()]
    maps = [dense(torch.from_numpy(frame).permute(2, 0, 1)[None])[0].permute(1, 2, 0).cpu().numpy() for frame in small]
    found: Arrays = {"frame_names": np.array([*frames], np.str_)}
    for i, (frame, colours) in enumerate(zip(small, component_colours(maps), strict=True)):
        found |= {f"frame_{i}": frame, f"components_{i}": (255 * colours).round().astype(np.uint8)}
    return found


def of_masks(name: str, frames: Mapping[int, Image], masks: Sequence[NDArray[np.uint8]]) -> Arrays:
    """Some frames of a sequence with their propagated masks.

    Args:
        name: of the sequence.
        frames: u8[H, W, 3] RGB, by number.
        masks: u8[H, W] of all frames of the sequence, 0 or the number of the object.

    Returns:
        `mask_names`; of frame i `masked_i` u8[H, W, 3], not above `LONGER_SIDE`, and `mask_i` u8[H, W] of its size.
    """
    found: Arrays = {"mask_names": np.array([f"{name}, frame {number}" for number in frames], np.str_)}
    for i, (number, frame) in enumerate(frames.items()):
        small = shrunk(frame)
        mask = cv2.resize(masks[number], small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        found |= {f"masked_{i}": small, f"mask_{i}": np.asarray(mask, np.uint8)}
    return found


def spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` rows int64[n], drawn evenly over the values of `labels` int64[N], in random order.

    If there are more values than rows, those that are used are spread evenly over all values.
    """
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(labels, _evenly(np.unique(labels), count))))
    by_value = drawn[np.argsort(labels[drawn], kind="stable")]
    _, begin, sizes = np.unique(labels[by_value], return_index=True, return_counts=True)
    turn = np.arange(len(by_value)) - np.repeat(begin, sizes)  # the how-manieth of its value
    return by_value[np.argsort(turn, kind="stable")][:count]


def shrunk(frame: Image) -> Image:
    """A frame u8[H, W, 3] whose longer side is at most `LONGER_SIDE`."""
    scale = LONGER_SIDE / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = tuple(max(1, round(side * scale)) for side in frame.shape[1::-1])
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _evenly(values: NDArray[Any], count: int) -> NDArray[Any]:
    """At most `count` of some values, evenly spaced, with the first and the last."""
    return values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(np.int64))]


def _tile(image: torch.Tensor) -> Image:
    """An image u8[3, S, S] as u8[s, s, 3], s at most `TILE`."""
    picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    if picture.shape[0] <= TILE:
        return picture
    return np.asarray(cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8)


def component_colours(dense: Sequence[Float]) -> list[Float]:
    """The first three principal components of dense features as red, green and blue.

    The components are of the cells of all frames together, so that a colour stands for the same everywhere. Their signs
    are arbitrary, and made the same for the same features.

    Args:
        dense: of each frame f32[h, w, D].

    Returns:
        Of each frame f32[h, w, 3], 0–1. A component that does not vary is 0.5.
    """
    cells = np.concatenate([frame.reshape(-1, frame.shape[-1]) for frame in dense]).astype(np.float64)
    mean = cells.mean(axis=0)
    some = cells[:: max(1, len(cells) // MOST_FITTED)] - mean
    values, vectors = np.linalg.eigh(some.T @ some)
    axes = vectors[:, ::-1][:, :3]
    varies = values[::-1][:3] > 1e-9 * max(values.max(), 1e-30)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = (cells - mean) @ axes
    low, high = np.percentile(found, KEPT, axis=0)
    scaled = np.clip((found - low) / np.where(high > low, high - low, 1), 0, 1)
    colours = np.full((len(cells), 3), 0.5, np.float32)
    colours[:, : axes.shape[1]] = np.where(varies & (high > low), scaled, 0.5)
    ends = np.cumsum([frame.shape[0] * frame.shape[1] for frame in dense])[:-1]
    shapes = [(*frame.shape[:2], 3) for frame in dense]
    return [part.reshape(shape) for part, shape in zip(np.split(colours, ends), shapes, strict=True)]
