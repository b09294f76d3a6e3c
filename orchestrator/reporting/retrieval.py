"""Drawings of what features see: nearest neighbours as a grid, a map of images, components of dense features."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.orchestrator.reporting.figures import BLUE, DIM, INK, ORANGE, WIDTH, message, title

LONGEST_NAME = 17  # signs below a picture
WRITING, HEADING = 0.34, 0.35  # inches, above and below a picture together, and above all
NAME_SIZES = 4.8, 7.0  # points, of the names: as large as the longest allows
# Petroff 2021, "Accessible color sequences for data visualization", ten colours; a marker each says the same.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "os^vDP*X<>"

Float = NDArray[np.float32]
Image = NDArray[np.uint8]


def draw_neighbours(
    images: Sequence[Sequence[Image]],
    names: Sequence[Sequence[str]],
    similarity: Float,
    heading: str = "",
    right: Sequence[Sequence[bool]] | None = None,
    width: float = WIDTH,
    longest: int = LONGEST_NAME,
) -> Figure:
    """Draw queries with their nearest neighbours, a row for each query.

    Args:
        images: of each of Q queries its own image, then its neighbours', u8[S, S, 3] RGB; at most 1 + K.
        names: of the same images.
        similarity: f32[Q, K], of the neighbours.
        heading: what the picture is of.
        right: of each neighbour, whether it is what the query is: then its frame is blue and whole and it has a tick,
            else the frame is orange and broken, and it has a cross. None if there is no right and wrong.
        width: inches, if there are at least five columns.
        longest: signs of a name that are shown, the last ones.
    """
    if not images:
        return message("There are no images.")
    columns = max(map(len, images))
    cell = width / max(columns, 5)
    height = (cell + WRITING) * len(images) + HEADING
    figure = Figure(figsize=(cell * columns, height))
    # Placed by hand, because a layout engine takes a second for so many pictures.
    grid = figure.subplots(len(images), columns, squeeze=False, gridspec_kw={
        "left": 0.01, "right": 0.99, "wspace": 0.05, "hspace": WRITING / (cell - 0.04),
        "bottom": WRITING / 2 / height, "top": 1 - (HEADING + WRITING / 2) / height,
    })  # fmt: skip
    called = [[_short(name, longest) for name in line] for line in names]
    size = float(np.clip(72 * cell / (0.6 * max(1, *(len(name) for line in called for name in line))), *NAME_SIZES))
    for i, (line, pictures, similar) in enumerate(zip(grid, images, similarity, strict=True)):
        for n, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if n >= len(pictures):
                continue
            axes.imshow(pictures[n], interpolation="nearest")
            what = f"{similar[n - 1]:.2f}" if n else "query"
            if right is not None and n:
                _mark(axes, right[i][n - 1])
                what = f"{'✓' if right[i][n - 1] else '✗'} {what}"
            axes.set_title(what, fontsize=7, color=INK if n else DIM, pad=3)
            axes.set_xlabel(called[i][n], fontsize=size, color=DIM, labelpad=2, parse_math=False)
    if heading:
        figure.suptitle(heading, x=0.01, y=1, va="top", ha="left", fontsize=11, color=INK, parse_math=False)
    return figure


def _mark(axes: Axes, is_right: bool) -> None:
    """A frame around a picture."""
    for spine in axes.spines.values():
        spine.set(visible=True, color=BLUE if is_right else ORANGE, linewidth=1.8)
        spine.set_linestyle("-" if is_right else (0, (2, 1.5)))


def _short(name: str, longest: int = LONGEST_NAME) -> str:
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def draw_map(
    points: Float, labels: NDArray[np.int64], classes: Sequence[str], heading: str = "", width: float = WIDTH
) -> Figure:
    """Draw images as points, each class in a colour and with a marker of its own.

    Args:
        points: f32[N, 2].
        labels: int64[N], of at most ten distinct values.
        classes: names by label.
        heading: what the picture is of.
        width: inches.

    Raises:
        ValueError: there are more than ten classes.
    """
    shown = np.unique(labels)
    if not len(shown):
        return message("There are no images.")
    if len(shown) > len(COLOURS):
        raise ValueError(f"a map shows at most {len(COLOURS)} classes, not {len(shown)}")
    figure = Figure(figsize=(width, width + 0.35 + 0.24 * -(-len(shown) // 3)), layout="constrained")
    axes = figure.add_subplot()
    for label, colour, marker in zip(shown, COLOURS, MARKERS, strict=False):
        x, y = points[labels == label].T
        name = _short(classes[label]).lstrip("_")  # matplotlib leaves names with an underscore out
        axes.scatter(x, y, s=22, color=colour, marker=marker, linewidths=0, alpha=0.8, label=name)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#DDE2E7")
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, markerscale=1.3)
    for text in legend.get_texts():
        text.set(color=INK, parse_math=False)
    if heading:
        title(axes, heading)
    return figure


def draw_components(
    frames: Sequence[Image],
    colours: Sequence[Float | Image],
    names: Sequence[str],
    heading: str = "",
    width: float = WIDTH,
) -> Figure:
    """Draw frames beside the principal components of their features.

    Args:
        frames: u8[H, W, 3] RGB each.
        colours: of each frame [h, w, 3], as `component_colours` gives them, or u8.
        names: of the frames.
        heading: what the picture is of.
        width: inches.
    """
    if not frames:
        return message("There are no frames.")
    height = max(frame.shape[0] / frame.shape[1] for frame in frames) * width / 2
    figure = Figure(figsize=(width, min(height + 0.25, 4) * len(frames) + 0.4), layout="constrained")
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
