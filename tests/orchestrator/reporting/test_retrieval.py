"""Pictures of what features see."""

import numpy as np
import pytest

from infoaug.orchestrator.reporting import retrieval
from tests.orchestrator.conftest import decoded, words


def features(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_the_grid_shows_the_images_in_order_with_names_and_similarities() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]]
    images = [[np.full((8, 8, 3), colour, np.uint8) for colour in line] for line in colours]
    names = [["a/query_$1.png", "a/very/long/name/of/an/image.png"], ["b", "c"]]
    figure = retrieval.draw_neighbours(images, names, np.array([[0.912], [-0.25]], np.float32), "Neighbours")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["query", "0.91", "query", "-0.25"]
    texts = [axes.get_xlabel() for axes in shown]
    assert texts[0] == "a/query_$1.png" and texts[1].startswith("…") and texts[1].endswith("/an/image.png")
    assert texts[2:] == ["b", "c"]
    picture = decoded(figure).reshape(-1, 3)
    for colour in [colour for line in colours for colour in line]:
        assert (picture == colour[::-1]).all(axis=1).sum() > 1000, colour


def test_right_and_wrong_neighbours_differ_by_sign_frame_and_colour() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    right = [[True, False]]
    figure = retrieval.draw_neighbours(
        [[image] * 3], [["cat", "cat", "dog"]], np.array([[0.9, 0.8]], np.float32), right=right
    )
    query, same, other = (axes for axes in figure.axes if axes.images)
    assert [axes.get_title() for axes in (query, same, other)] == ["query", "✓ 0.90", "✗ 0.80"]
    spines = [axes.spines["left"] for axes in (query, same, other)]
    assert [spine.get_visible() for spine in spines] == [False, True, True]
    assert spines[1].get_edgecolor() != spines[2].get_edgecolor()
    assert spines[1].get_linestyle() != spines[2].get_linestyle()


def test_a_map_shows_every_class_in_a_colour_and_with_a_marker_of_its_own() -> None:
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    labels = np.arange(40) % 10 + 3
    classes = [f"class_$_{n}" for n in range(13)]
    figure = retrieval.draw_map(points, labels, classes, "a_$b")
    found = figure.axes[0].collections
    assert [len(one.get_offsets()) for one in found] == [4] * 10
    assert len({tuple(one.get_facecolor()[0]) for one in found}) == 10
    assert len({one.get_paths()[0].vertices.tobytes() for one in found}) == 10
    assert words(figure).split("\n") == ["a_$b", *classes[3:]]
    assert decoded(figure).std() > 10
    with pytest.raises(ValueError, match="at most 10 classes, not 40"):
        retrieval.draw_map(points, np.arange(40), [""] * 40)
    assert decoded(retrieval.draw_map(points[:0], labels[:0], [])).size


def test_fewer_neighbours_than_columns_leave_the_rest_empty() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    figure = retrieval.draw_neighbours([[image], [image, image]], [["a"], ["b", "c"]], np.full((2, 1), 0.5, np.float32))
    assert sum(bool(axes.images) for axes in figure.axes) == 3
    assert decoded(retrieval.draw_neighbours([], [], np.zeros((0, 1), np.float32))).size


def test_frames_of_different_sizes_are_drawn_beside_their_colours() -> None:
    frames = [np.full((40, 60, 3), 200, np.uint8), np.full((30, 30, 3), 100, np.uint8)]
    colours = [np.zeros((4, 6, 3), np.float32), np.ones((3, 3, 3), np.float32)]
    colours[1][..., 1:] = 0
    figure = retrieval.draw_components(frames, colours, ["a_$b", "c"], "Components")
    picture = decoded(figure).reshape(-1, 3)
    for colour in ((200, 200, 200), (100, 100, 100), (0, 0, 0), (0, 0, 255)):
        assert (picture == colour).all(axis=1).sum() > 2000, colour
    assert decoded(retrieval.draw_components([], [], [])).size
