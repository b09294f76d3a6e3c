"""Partners that are read off the stored candidates are those that the whole matrices give."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.information.partners import best_partners
from infoaug.estimators.information.twins import Twins, find_twins

ALPHA = 0.2


def window(seed: int, patches: int, mutual: int, candidates: int) -> tuple[Twins, dict[str, Any], list[list[int]]]:
    """A window of random dependences: its twins, what is stored of them, and the partners of each patch, best first."""
    random = np.random.default_rng(seed)
    mi, rank, p = (random.normal(size=(patches, patches)) for _ in range(3))
    mi, rank, p = mi + mi.T, rank + rank.T, np.exp(-np.abs(p + p.T) * 3)
    rank[(random.random((patches, patches)) < 0.1)] = np.nan
    p[:2], p[:, :2] = 1, 1  # no partner at all
    found = find_twins(mi, p_values=p, rank=rank, alpha=ALPHA, mutual=mutual, candidates=candidates)
    listed, rows = found.candidates, np.arange(patches)
    among = {
        "candidates": listed,
        "strength": np.where(listed >= 0, rank[rows[:, None], listed], np.nan),
        "p_values": np.where(listed >= 0, p[rows[:, None], listed], np.nan),
    }
    fits = found.admissible & (p <= ALPHA) & np.isfinite(rank)
    best = [[int(j) for j in np.argsort(-np.where(fits[i], rank[i], -np.inf), kind="stable") if fits[i, j]]
            for i in rows]  # fmt: skip
    if mutual:
        best = [[j for j in best[i][:mutual] if i in best[j][:mutual]] for i in rows]
    among |= {"twin": found.index, "twin_strength": rank[rows, found.index]}
    return found, among, [best[i] if found.index[i] >= 0 else [] for i in rows]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), patches=st.integers(3, 12), mutual=st.sampled_from([0, 1, 2, 3]))
def test_with_all_candidates_stored_they_are_those_of_the_whole_matrices(seed: int, patches: int, mutual: int) -> None:
    found, among, expected = window(seed, patches, mutual, candidates=patches)
    partners, strength = best_partners(**among, count=patches, alpha=ALPHA, mutual=mutual)
    assert [[j for j in row if j >= 0] for row in partners.tolist()] == expected
    assert partners[:, 0].tolist() == found.index.tolist()
    assert (strength >= 0).all() and not strength[partners < 0].any()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), mutual=st.sampled_from([0, 2, 4]), stored=st.integers(1, 4))
def test_with_fewer_candidates_stored_none_is_wrong_and_the_twin_comes_first(
    seed: int, mutual: int, stored: int
) -> None:
    found, among, expected = window(seed, 10, mutual, candidates=stored)
    for count in (1, 2, 6):
        partners, _ = best_partners(**among, count=count, alpha=ALPHA, mutual=mutual)
        assert partners.shape == (10, count) and partners[:, 0].tolist() == found.index.tolist()
        for row, every in zip(partners.tolist(), expected, strict=True):
            known = [j for j in row if j >= 0]
            assert known == [j for j in every if j in known] and len(known) == len(set(known))


def test_candidates_that_are_not_significant_or_not_mutual_are_no_partners() -> None:
    # Patch 0 ranks 1, 2, 3; only the pair with 3 fails the test, and 2 has two better partners.
    twin, candidates = [1, 0, 3, 2], [[1, 2, 3], [0, 2, -1], [3, 1, 0], [2, 0, -1]]
    strength = [[0.9, 0.5, 0.2], [0.9, 0.6, np.nan], [0.8, 0.6, 0.5], [0.8, 0.2, np.nan]]
    p = [[0.01, 0.02, 0.3], [0.01, 0.05, np.nan], [0.01, 0.05, 0.02], [0.01, 0.3, np.nan]]
    own = [0.9, 0.9, 0.8, 0.8]
    partners, found = best_partners(twin, own, candidates, strength, count=3, p_values=p)
    assert partners.tolist() == [[1, 2, -1], [0, 2, -1], [3, 1, 0], [2, -1, -1]]
    assert found.tolist() == [[0.9, 0.5, 0], [0.9, 0.6, 0], [0.8, 0.6, 0.5], [0.8, 0, 0]]
    partners, _ = best_partners(twin, own, candidates, strength, count=3, p_values=p, mutual=2)
    assert partners.tolist() == [[1, -1, -1], [0, 2, -1], [3, 1, -1], [2, -1, -1]]
    untested, _ = best_partners(twin, own, candidates, strength, count=3)
    assert untested[0].tolist() == [1, 2, 3]


def test_a_twin_that_is_no_candidate_comes_first_and_no_strength_is_negative() -> None:
    partners, strength = best_partners([2, -1, 0], [0.1, 9, 0.1], [[1], [0], [0]], [[-0.3], [0.3], [0.1]], count=2)
    assert partners.tolist() == [[2, 1], [-1, -1], [0, -1]]
    assert strength.tolist() == [[0.1, 0], [0, 0], [0.1, 0]]


@pytest.mark.parametrize("changes", [{"count": 0}, {"strength": [[0.1, 0.2]]}, {"candidates": [1]}])
def test_wrong_shapes_are_refused(changes: dict[str, Any]) -> None:
    given = {"twin": [1, 0], "twin_strength": [1, 1], "candidates": [[1], [0]], "strength": [[1], [1]], "count": 1}
    with pytest.raises(ValueError):
        best_partners(**given | changes)  # type: ignore[arg-type]
