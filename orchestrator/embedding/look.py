"""A look at an embedding: images with their nearest neighbours, and with the components of their dense features."""

from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from infoaug.orchestrator.embedding import sources
from infoaug.orchestrator.embedding.parts import Parts
from infoaug.orchestrator.embedding.sources import Data
from infoaug.orchestrator.evaluation.look import component_colours
from infoaug.orchestrator.evaluation.neighbours import ordered, search, unit
from infoaug.orchestrator.reporting import retrieval

COLUMNS = 7  # neighbours of each query
SEED = 0


def neighbours(parts: Parts, count: int, data: Data, queries: int, size: int, peak: int) -> Figure:
    """Draw some images, chosen at random, with their nearest neighbours.

    Frames of the same clip are no neighbours, if there are several clips.

    Args:
        parts, count: the embedding, of `count` parts.
        data, peak: what it is of, see `sources.items`.
        queries: number of images; all of them, if there are fewer.
        size: side of the pictures, pixels.
    """
    names, frames = _rows(parts, count)
    of_clips = data.every is not None and len(set(names)) > 1
    clip = {name: n for n, name in enumerate(data.names)}
    groups = np.array([clip[name] for name in names] if of_clips else range(len(names)), np.int64)
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(names))[:queries])

    def blocks() -> Iterator[tuple[int, Tensor]]:
        first = 0
        for number in range(count):
            features = torch.tensor(parts.read(number, "features")[1])
            yield first, features
            first += len(features)

    vectors = [
        features[chosen[(chosen >= first) & (chosen < first + len(features))] - first] for first, features in blocks()
    ]
    own = torch.from_numpy(groups[chosen]), torch.from_numpy(groups)
    similarity, rows = ordered(*search(unit(torch.cat(vectors)), blocks(), COLUMNS, own), COLUMNS)
    shown = [[own, *(row for row in found if row >= 0)] for own, found in zip(chosen, rows, strict=True)]
    pictures = [[sources.again(data, names[row], frames[row], size, peak) for row in line] for line in shown]
    called = [[_called(names[row], frames[row]) for row in line] for line in shown]
    among = "other clips" if of_clips else "the other frames" if data.every else "the other images"
    heading = f"Nearest neighbours by cosine similarity, among {among}"
    return retrieval.draw_neighbours(pictures, called, similarity, heading)


def components(parts: Parts, count: int, data: Data, images: int, size: int, peak: int) -> Figure:
    """Draw some images, evenly spread over the data, with the principal components of their patches.

    Args:
        parts, count, data, size, peak: as of `neighbours`; the parts have patches.
        images: their number; all of them, if there are fewer.
    """
    names, frames = _rows(parts, count)
    chosen = np.unique(np.linspace(0, len(names) - 1, images).round().astype(np.int64))
    dense, first = list[NDArray[np.float32]](), 0
    for number in range(count):
        patches = parts.read(number, "patches")[1]
        dense += [*patches[chosen[(chosen >= first) & (chosen < first + len(patches))] - first]]
        first += len(patches)
    pictures = [sources.again(data, names[row], frames[row], size, peak) for row in chosen]
    called = [_called(names[row], frames[row]) for row in chosen]
    colours = component_colours(dense)
    return retrieval.draw_components(pictures, colours, called, "First three principal components of patch features")


def _rows(parts: Parts, count: int) -> tuple[list[str], list[int | None]]:
    """Names and frames of all rows."""
    names, frames = list[str](), list[int | None]()
    for number in range(count):
        table = parts.read(number, "features")[0]
        names += table["path"].to_pylist()
        frames += table["frame"].to_pylist()
    return names, frames


def _called(name: str, frame: int | None) -> str:
    return name if frame is None else f"{name} {frame}"
