"""Pictures of what features see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoaug.orchestrator.reporting import retrieval
from tests.orchestrator.conftest import decoded


def features(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_the_nearest_of_a_query_is_its_near_duplicate_and_not_itself() -> None:
    found = features(20)
    found[13] = 3 * found[4] + 0.01  # another length, the same direction
    rows, similarity = retrieval.nearest(found[[4]], np.array([4]), [(found, np.arange(20))], 3)
    assert rows[0, 0] == 13 and similarity[0, 0] > 0.99
    assert 4 not in rows and (np.diff(similarity[0]) <= 0).all()


def test_what_is_of_the_same_clip_is_no_neighbour() -> None:
    found = features(6)
    found[1] = found[0]
    rows, _ = retrieval.nearest(found[[0]], np.array([7]), [(found, np.array([7, 7, 8, 8, 9, 9]))], 6)
    assert set(rows[0, :4]) == {2, 3, 4, 5} and (rows[0, 4:] == -1).all()


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 12))
def test_blocks_of_any_size_give_the_neighbours_of_one_sort(sizes: list[int], count: int) -> None:
    total = sum(sizes)
    found = features(total)
    groups = np.arange(total)
    ends = np.cumsum(sizes)[:-1]
    blocks = zip(np.split(found, ends), np.split(groups, ends), strict=True) if sizes else []
    rows, similarity = retrieval.nearest(found[:3], groups[:3], blocks, count)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    for query, own, told in zip(rows, range(total), similarity, strict=False):
        cosine = unit @ unit[own]
        expected = [n for n in np.argsort(-cosine, kind="stable") if n != own][:count]
        assert [*query[: len(expected)]] == expected and (query[len(expected) :] == -1).all()
        assert np.allclose(told[: len(expected)], cosine[expected], atol=1e-6)


def test_the_grid_shows_the_images_in_order_with_names_and_similarities() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]]
    images = [[np.full((8, 8, 3), colour, np.uint8) for colour in line] for line in colours]
    names = [["a/query_$1.png", "a/very/long/name/of/an/image.png"], ["b", "c"]]
    figure = retrieval.draw_neighbours(images, names, np.array([[0.912], [-0.25]], np.float32), "Neighbours")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["query", "0.91", "query", "-0.25"]
    texts = [text.get_text() for axes in shown for text in axes.texts]
    assert texts[0] == "a/query_$1.png" and texts[1].startswith("…") and texts[1].endswith("/an/image.png")
    assert texts[2:] == ["b", "c"]
    picture = decoded(figure).reshape(-1, 3)
    for colour in [colour for line in colours for colour in line]:
        assert (picture == colour[::-1]).all(axis=1).sum() > 1000, colour


def test_fewer_neighbours_than_columns_leave_the_rest_empty() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    figure = retrieval.draw_neighbours([[image], [image, image]], [["a"], ["b", "c"]], np.full((2, 1), 0.5, np.float32))
    assert sum(bool(axes.images) for axes in figure.axes) == 3
    assert decoded(retrieval.draw_neighbours([], [], np.zeros((0, 1), np.float32))).size


def regions(seed: int, height: int = 6, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Features of two regions, with noise, and where the one is."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((height, width), bool)
    inside[1:4, 2:6] = True
    kinds = np.random.default_rng(0).normal(size=(2, 16))
    return (kinds[inside.astype(int)] + 0.1 * rng.normal(size=(height, width, 16))).astype(np.float32), inside


def test_two_regions_have_two_colours_which_are_the_same_in_all_frames() -> None:
    (one, inside), (two, also) = regions(1), regions(2, 8, 9)
    colours = retrieval.component_colours([one, two])
    assert [colour.shape for colour in colours] == [(6, 9, 3), (8, 9, 3)]
    assert all(colour.min() >= 0 and colour.max() <= 1 for colour in colours)
    red = [colour[..., 0] for colour in colours]
    high = red[0][inside].mean() > 0.5
    for values, of in zip(red, (inside, also), strict=True):
        assert ((values > 0.5) == (of if high else ~of)).all()
        assert abs(values[of].mean() - values[~of].mean()) > 0.8


def test_the_components_are_those_of_numpy_and_the_same_each_time() -> None:
    cells = features(200, 3) * np.array([9, 5, 3, 1, 1, 1, 1, 1], np.float32)
    colours = retrieval.component_colours([cells.reshape(10, 20, 8)])[0].reshape(-1, 3)
    centred = cells - cells.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    for n in range(3):
        assert abs(np.corrcoef(colours[:, n], centred @ axes[n])[0, 1]) > 0.99
    assert np.array_equal(colours, retrieval.component_colours([cells.reshape(10, 20, 8)])[0].reshape(-1, 3))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 4, 2), (1, 1, 5), (2, 2, 8)])
def test_features_that_vary_in_fewer_directions_leave_the_other_colours_grey(shape: tuple[int, int, int]) -> None:
    constant = retrieval.component_colours([np.ones(shape, np.float32)])[0]
    assert constant.shape == (*shape[:2], 3) and (constant == 0.5).all()
    varying = np.zeros(shape, np.float32)
    varying[0, 0, 0] = 1
    assert (retrieval.component_colours([varying])[0][..., 2] == 0.5).all()


def test_frames_of_different_sizes_are_drawn_beside_their_colours() -> None:
    frames = [np.full((40, 60, 3), 200, np.uint8), np.full((30, 30, 3), 100, np.uint8)]
    colours = [np.zeros((4, 6, 3), np.float32), np.ones((3, 3, 3), np.float32)]
    colours[1][..., 1:] = 0
    figure = retrieval.draw_components(frames, colours, ["a_$b", "c"], "Components")
    picture = decoded(figure).reshape(-1, 3)
    for colour in ((200, 200, 200), (100, 100, 100), (0, 0, 0), (0, 0, 255)):
        assert (picture == colour).all(axis=1).sum() > 2000, colour
    assert decoded(retrieval.draw_components([], [], [])).size
