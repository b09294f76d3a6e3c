"""Which classes are confused: counts of pairs, the most frequent ones, the matrix of few classes, the file of all."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoaug.orchestrator.evaluation.look import of_classes
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.reporting.confusion import MOST_DRAWN, MOST_LISTED, Confusion, Pair
from tests.orchestrator.conftest import decoded, words

TRUE = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
FOUND = np.array([0, 1, 1, 2, 1, 1, 1, 1, 1, 2])


def confusion(true: np.ndarray, found: np.ndarray, names: list[str]) -> Confusion:
    arrays = of_classes(names, true, found)
    return Confusion(arrays["classes"].tolist(), arrays["confusion"])


def test_pairs_are_listed_by_their_images_with_the_shares_of_their_class() -> None:
    made = confusion(TRUE, FOUND, ["cat", "dog", "fox"])
    assert made.pairs() == [
        Pair("fox", 4, 0.25, "dog", 3, 0.75),
        Pair("cat", 4, 0.25, "dog", 2, 0.5),
        Pair("cat", 4, 0.25, "fox", 1, 0.25),
    ]
    assert len(made.pairs(2)) == 2
    everything = confusion(np.repeat(np.arange(9), 9), np.tile(np.arange(9), 9), [*"abcdefghi"])
    assert len(everything.pairs()) == MOST_LISTED
    assert confusion(TRUE, TRUE, ["cat", "dog", "fox"]).pairs() == []


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60))
def test_the_counts_are_those_of_all_images(images: list[tuple[int, int]]) -> None:
    true, found = np.array(images).T
    made = confusion(true, found, [*"abcdefgh"])
    expected = np.zeros((8, 8), int)
    np.add.at(expected, (true, found), 1)
    dense = np.zeros((8, 8), int)
    dense[made.counts[:, 0], made.counts[:, 1]] = made.counts[:, 2]
    assert (dense == expected).all() and made.counts[:, 2].min() > 0
    assert (made.images == expected.sum(axis=1)).all() and (made.right == expected.diagonal()).all()


def test_the_file_has_a_row_for_every_pair_whatever_the_names() -> None:
    rows = [*csv.DictReader(io.StringIO(confusion(TRUE, FOUND, ["a, b", 'say "c"', "d"]).csv()))]
    assert rows[1] == {"class": "a, b", "found": 'say "c"', "images": "2"}
    assert len(rows) == 6 and sum(int(row["images"]) for row in rows) == len(TRUE)


def test_the_matrix_has_shares_of_rows_and_leaves_cells_and_rows_without_images_empty() -> None:
    figure = figures.draw_confusion(confusion(TRUE, FOUND, ["cat", "dog", "fox", "owl"]))
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "25", (1, 0): "50", (2, 0): "25", (1, 1): "100", (1, 2): "75", (2, 2): "25"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "fox"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "fox", "owl"]
    assert "10 test images, 40.0 % right" in words(figure)


@pytest.mark.parametrize("count", [2, MOST_DRAWN])
def test_a_matrix_has_the_common_width_with_any_names(count: int) -> None:
    names = [f"$a \\long_{{name of a class {number}" for number in range(count)]
    figure = figures.draw_confusion(confusion(np.arange(100) % count, np.arange(100) // 3 % count, names))
    image = decoded(figure)
    assert image.std() > 10 and 500 < image.shape[1] < 800
    assert len({label.get_text() for label in figure.axes[0].get_yticklabels()}) == count, "they can be told apart"
