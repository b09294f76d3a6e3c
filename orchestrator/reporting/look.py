"""Pictures of what features see, from the arrays of `evaluation.look`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from infoaug.orchestrator.reporting import mask_video, retrieval
from infoaug.orchestrator.reporting.figures import INK, title
from infoaug.orchestrator.reporting.page import in_percent

WIDTH = 4.6  # inches: two of them beside each other fill the page, and a phone shows one in about its own size
LONGEST_NAME = 11  # signs below a patch, so that they can be read on a phone

Arrays = Mapping[str, NDArray[Any]]


def draw(arrays: Arrays, whose: str) -> dict[str, Figure]:
    """The pictures that these arrays are of, by name: `neighbours`, `map`, `masks`, `components`, `patches`.

    Args:
        arrays: as the functions of `evaluation.look` give them, those of several together or none.
        whose: what the backbone is called.
    """
    return {name: drawn(arrays, whose) for name, (needed, drawn) in _DRAWN.items() if needed in arrays}


def _neighbours(arrays: Arrays, whose: str) -> Figure:
    labels, classes = arrays["tile_labels"], arrays["classes"]
    names = [[str(classes[label]) for label in line] for line in labels]
    right = labels[:, 1:] == labels[:, :1]
    heading = f"{whose}: {in_percent(right.mean())} of these neighbours right"
    images = [[*line] for line in arrays["tiles"]]
    return retrieval.draw_neighbours(images, names, arrays["similarity"], heading, right.tolist(), WIDTH)


def _map(arrays: Arrays, whose: str) -> Figure:
    return retrieval.draw_map(arrays["map"], arrays["map_labels"], arrays["classes"].tolist(), whose, WIDTH)


def _patches(arrays: Arrays, whose: str) -> Figure:
    similarity = arrays["patch_similarity"]
    counts = 1 + np.isfinite(similarity).sum(axis=1)
    images, names = (
        [line[:count] for line, count in zip(arrays[of], counts, strict=True)] for of in ("patches", "patch_names")
    )
    return retrieval.draw_neighbours(images, names, similarity, whose, width=WIDTH, longest=LONGEST_NAME)


def _components(arrays: Arrays, whose: str) -> Figure:
    names = arrays["frame_names"].tolist()
    frames, colours = ([arrays[f"{of}_{i}"] for i in range(len(names))] for of in ("frame", "components"))
    return retrieval.draw_components(frames, colours, names, whose, WIDTH)


def _masks(arrays: Arrays, whose: str) -> Figure:
    names = arrays["mask_names"].tolist()
    pictures = [mask_video.draw(arrays[f"masked_{i}"], arrays[f"mask_{i}"]) for i in range(len(names))]
    height, width = pictures[0].shape[:2]
    figure = Figure(figsize=(WIDTH, (WIDTH * height / width + 0.25) * len(names) / 2 + 0.4), layout="constrained")
    grid = figure.subplots(-(-len(names) // 2), 2, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, name in zip(grid.flat, pictures, names, strict=False):
        axes.imshow(picture)
        title(axes, name)
        axes.title.set_fontsize(7)
    figure.suptitle(whose, x=0.01, ha="left", fontsize=11, color=INK, parse_math=False)
    return figure


# In the order of the page: an array that a picture needs, and what draws it.
_DRAWN: dict[str, tuple[str, Callable[[Arrays, str], Figure]]] = {
    "neighbours": ("tiles", _neighbours),
    "map": ("map", _map),
    "patches": ("patches", _patches),
    "components": ("frame_names", _components),
    "masks": ("mask_names", _masks),
}
NAMES = tuple(_DRAWN)
