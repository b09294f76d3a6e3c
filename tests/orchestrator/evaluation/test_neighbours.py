"""The most similar rows, found block by block."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoaug.orchestrator.evaluation.neighbours import ordered, search, unit


def features(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def found_of(
    every: np.ndarray, blocks: Sequence[np.ndarray], queries: Iterable[int], groups: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and similarities of the neighbours of some rows, among those of other groups, from blocks of all rows."""
    starts = np.cumsum([0, *map(len, blocks)]).tolist()
    parts = zip(starts, map(torch.from_numpy, blocks), strict=False)
    of, rows = torch.from_numpy(groups), [*queries]
    near = search(unit(torch.from_numpy(every[rows])), parts, count, (of[rows], of))
    return ordered(*near, count)[::-1]


def test_the_nearest_of_a_query_is_its_near_duplicate_and_not_itself() -> None:
    found = features(20)
    found[13] = 3 * found[4] + 0.01  # another length, the same direction
    rows, similarity = found_of(found, [found], [4], np.arange(20), 3)
    assert rows[0, 0] == 13 and similarity[0, 0] > 0.99
    assert 4 not in rows and (np.diff(similarity[0]) <= 0).all()


def test_what_is_of_the_same_clip_is_no_neighbour() -> None:
    found = features(6)
    found[1] = found[0]
    rows, _ = found_of(found, [found], [0], np.array([7, 7, 8, 8, 9, 9]), 6)
    assert set(rows[0, :4]) == {2, 3, 4, 5} and (rows[0, 4:] == -1).all()


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 12))
def test_blocks_of_any_size_give_the_neighbours_of_one_sort(sizes: list[int], count: int) -> None:
    total = sum(sizes)
    found = features(total)
    groups = np.arange(total)
    ends = np.cumsum(sizes)[:-1]
    blocks = np.split(found, ends) if sizes else []
    rows, similarity = found_of(found, blocks, range(min(3, total)), groups, count)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    for query, own, told in zip(rows, range(total), similarity, strict=False):
        cosine = unit @ unit[own]
        expected = [n for n in np.argsort(-cosine, kind="stable") if n != own][:count]
        assert [*query[: len(expected)]] == expected and (query[len(expected) :] == -1).all()
        assert np.allclose(told[: len(expected)], cosine[expected], atol=1e-6)


def test_equally_similar_rows_come_in_their_order() -> None:
    every = np.repeat(features(1), 5, axis=0)
    rows, similarity = found_of(every, [every[:2], every[2:]], [2], np.arange(5), 4)
    assert rows.tolist() == [[0, 1, 3, 4]] and np.allclose(similarity, 1)
