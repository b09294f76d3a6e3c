"""What features see: the nearest neighbours of images as a grid, and the principal components of dense features."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.orchestrator.reporting.figures import DIM, INK, WIDTH, message, title

LONGEST_NAME = 17  # signs below a picture
MOST_FITTED = 100_000  # cells that principal components are fitted to
KEPT = (1, 99)  # percentiles of a component that become 0 and 1

Float = NDArray[np.float32]
Image = NDArray[np.uint8]


def nearest(
    queries: Float, own: NDArray[np.int64], blocks: Iterable[tuple[Float, NDArray[np.int64]]], count: int
) -> tuple[NDArray[np.int64], Float]:
    """Nearest neighbours by cosine similarity, among features that need not be in memory at once.

    Args:
        queries: f32[Q, D].
        own: int64[Q], the group of each query, an image alone or a clip; its neighbours are from other groups.
        blocks: all features in parts f32[n, D], with their groups int64[n].
        count: K, neighbours of each query.

    Returns:
        Rows of the neighbours, counted over all blocks, int64[Q, K], the nearest first, −1 where there are fewer; and
        their similarities f32[Q, K], −∞ there. Equal ones are in the order of their rows.
    """
    unit = _normalised(queries)
    rows = np.full((len(queries), count), -1, np.int64)
    best = np.full((len(queries), count), -np.inf, np.float32)
    first = 0
    for features, groups in blocks:
        found = unit @ _normalised(features).T
        found[own[:, None] == groups] = -np.inf
        best = np.concatenate([best, found], axis=1)
        numbers = np.broadcast_to(first + np.arange(len(features)), found.shape)
        rows = np.concatenate([rows, np.where(np.isfinite(found), numbers, -1)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
        first += len(features)
    return rows, best


def draw_neighbours(
    images: Sequence[Sequence[Image]], names: Sequence[Sequence[str]], similarity: Float, heading: str = ""
) -> Figure:
    """Draw queries with their nearest neighbours, a row for each query.

    Args:
        images: of each of Q queries its own image, then its neighbours', u8[S, S, 3] RGB; at most 1 + K.
        names: of the same images.
        similarity: f32[Q, K], of the neighbours.
        heading: what the picture is of.
    """
    if not images:
        return message("There are no images.")
    columns = max(map(len, images))
    cell = WIDTH / max(columns, 5)
    figure = Figure(figsize=(cell * columns, (cell + 0.3) * len(images) + 0.45), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    grid = figure.subplots(len(images), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, pictures, called, similar in zip(grid, images, names, similarity, strict=True):
        for n, (axes, picture, name) in enumerate(zip(line, pictures, called, strict=False)):
            axes.imshow(picture, interpolation="nearest")
            what = "query" if n == 0 else f"{similar[n - 1]:.2f}"
            axes.set_title(what, fontsize=7, color=INK if n else DIM, pad=2)
            label = name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
            axes.text(
                0.5, -0.03, label, fontsize=4.8, color=DIM, ha="center", va="top", transform=axes.transAxes,
                parse_math=False,
            )  # fmt: skip
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, color=INK, parse_math=False)
    return figure


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


def draw_components(
    frames: Sequence[Image], colours: Sequence[Float], names: Sequence[str], heading: str = ""
) -> Figure:
    """Draw frames beside the principal components of their features.

    Args:
        frames: u8[H, W, 3] RGB each.
        colours: of each frame f32[h, w, 3], as `component_colours` gives them.
        names: of the frames.
        heading: what the picture is of.
    """
    if not frames:
        return message("There are no frames.")
    height = max(frame.shape[0] / frame.shape[1] for frame in frames) * WIDTH / 2
    figure = Figure(figsize=(WIDTH, min(height + 0.25, 4) * len(frames) + 0.4), layout="constrained")
    grid = figure.subplots(len(frames), 2, squeeze=False)
    for (left, right), frame, colour, name in zip(grid, frames, colours, names, strict=True):
        extent = (0, frame.shape[1], frame.shape[0], 0)
        left.imshow(frame, extent=extent)
        right.imshow(colour, interpolation="nearest", extent=extent)
        title(left, name)
        left.title.set_fontsize(7)
        left.axis("off")
        right.axis("off")
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11, color=INK, parse_math=False)
    return figure


def _normalised(features: Float) -> Float:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.float32(1e-12))
