"""Twins: who gets one, which one, and why the others get none."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.information.twins import control_twins, find_twins
from infoaug.estimators.options import OTHER_WINDOWS, POLICIES

NAN = float("nan")


def symmetric(count: int, pairs: dict[tuple[int, int], float], rest: float = NAN) -> np.ndarray:
    """f64[count, count] with NaN on the diagonal and the given values on both sides of it."""
    matrix = np.full((count, count), rest)
    for (i, j), value in pairs.items():
        matrix[i, j] = matrix[j, i] = value
    np.fill_diagonal(matrix, NAN)
    return matrix


def window(seed: int, count: int) -> dict[str, Any]:
    """A window of random mutual information, p-values, positions and reasons."""
    rng = np.random.default_rng(seed)

    def pairs() -> np.ndarray:
        upper = np.triu(rng.random((count, count)), 1)
        return upper + upper.T

    mi, p = pairs(), pairs() ** 3
    gaps = np.triu(rng.random((count, count)) < 0.2, 1)
    mi[gaps | gaps.T] = NAN
    np.fill_diagonal(mi, NAN)
    excluded = rng.choice(["", "", "", "static", "lost"], size=count).tolist()
    more = {"correlation": pairs(), "objects": np.zeros(count, int)}
    return {"mi": mi, "p_values": p, "position": rng.uniform(0, 100, (count, 2)), "excluded": excluded, **more}


WITHIN = [policy for policy in POLICIES if policy not in ("none", *OTHER_WINDOWS)]


# ---- policies


def test_the_twin_is_the_patch_of_highest_mutual_information() -> None:
    found = find_twins(symmetric(4, {(0, 1): 0.2, (0, 2): 0.9, (1, 2): 0.5, (2, 3): 0.1, (0, 3): -0.3, (1, 3): -0.2}))
    assert found.index.tolist() == [2, 2, 0, 2]
    assert found.index.dtype == np.int64
    assert found.reason == ["", "", "", ""]


def test_the_twin_is_a_significant_partner_even_where_another_has_a_higher_value() -> None:
    mi = symmetric(3, {(0, 1): 0.9, (0, 2): 0.4, (1, 2): 0.1})
    p = symmetric(3, {(0, 1): 0.6, (0, 2): 0.001, (1, 2): 0.6})
    found = find_twins(mi, p_values=p)
    assert found.index.tolist() == [2, -1, 0]
    assert found.reason == ["", "not significant", ""]
    assert found.candidates[0].tolist()[:3] == [1, 2, -1], "candidates are listed by value, significant or not"
    assert np.argwhere(found.significant).tolist() == [[0, 2], [2, 0]]


def test_whether_there_is_a_twin_is_tested_and_who_it_is_is_ranked() -> None:
    mi = symmetric(4, {(0, 1): 0.9, (0, 2): 0.4, (0, 3): 0.1}, rest=0.05)
    p = symmetric(4, {(0, 1): 0.001, (0, 2): 0.04, (0, 3): 0.06}, rest=0.9)
    rank = symmetric(4, {(0, 1): 0.1, (0, 2): 0.7, (0, 3): 0.8}, rest=0.5)
    found = find_twins(mi, p_values=p, rank=rank)
    assert np.argwhere(found.significant).tolist() == [[0, 1], [1, 0]]
    assert found.index.tolist() == [2, 0, -1, -1], "2 depends on 0 by its own p-value, but is not known to have a twin"
    assert found.candidates[0].tolist()[:3] == [3, 2, 1]
    assert find_twins(mi, p_values=p).index.tolist() == [1, 0, -1, -1]
    with pytest.raises(ValueError, match="rank must be shaped like mi"):
        find_twins(mi, rank=rank[:2])


def test_mutual_twins_are_among_each_other_s_best_so_many() -> None:
    mi = symmetric(4, {(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.3, (0, 3): 0.7, (1, 3): 0.2, (2, 3): 0.1})
    by_number = {mutual: find_twins(mi, mutual=mutual) for mutual in range(4)}
    assert by_number[1].index.tolist() == [1, 0, -1, -1]
    assert by_number[1].reason == ["", "", "not mutual", "not mutual"]
    assert by_number[2].index.tolist() == [1, 0, 0, -1]
    assert by_number[3].index.tolist() == by_number[0].index.tolist() == [1, 0, 0, 0]
    chain = symmetric(4, {(0, 1): 0.7, (1, 2): 0.8, (2, 3): 0.9}, rest=0.1)
    assert find_twins(chain, mutual=1).index.tolist() == [-1, -1, 3, 2], "1 is the best of 0, but 0 is not that of 1"


def test_nearest_takes_the_closest_admissible_patch() -> None:
    line = np.array([[0.0, 0], [10, 0], [11, 0], [40, 0]])
    found = find_twins(symmetric(4, {(0, 1): NAN}, rest=1.0), position=line, policy="nearest")
    assert found.index.tolist() == [2, 2, 1, 2]
    found = find_twins(symmetric(4, {(0, 1): NAN}, rest=1.0), position=line, policy="nearest", min_distance=5)
    assert found.index.tolist() == [2, 3, 0, 2]


def test_random_takes_every_admissible_patch_now_and_then_and_no_other() -> None:
    mi = symmetric(5, {(0, 3): NAN}, rest=0.3)
    drawn = {int(find_twins(mi, policy="random", seed=seed).index[0]) for seed in range(60)}
    assert drawn == {1, 2, 4}
    p = symmetric(5, {(0, 1): 0.001}, rest=0.9)
    drawn = {int(find_twins(mi, p_values=p, policy="random", seed=seed).index[0]) for seed in range(60)}
    assert drawn == {1, 2, 4}, "significance says who gets a twin, not which"


def test_random_is_the_same_for_the_same_seed() -> None:
    mi = symmetric(12, {}, rest=0.3)
    first = find_twins(mi, policy="random", seed=7)
    assert np.array_equal(first.index, find_twins(mi, policy="random", seed=7).index)
    assert not np.array_equal(first.index, find_twins(mi, policy="random", seed=8).index)


def test_correlation_takes_the_admissible_patch_that_moves_most_alike() -> None:
    mi = symmetric(4, {(0, 1): NAN, (0, 2): 0.9}, rest=0.3)
    alike = symmetric(4, {(0, 1): 0.9, (0, 2): -0.9, (0, 3): 0.2, (1, 2): 0.1, (1, 3): 0.5, (2, 3): -0.1})
    assert find_twins(mi, policy="correlation", correlation=alike).index.tolist() == [3, 3, 1, 1]


def test_oracle_takes_patches_on_the_same_object_and_leaves_a_patch_that_is_alone_there() -> None:
    mi = symmetric(6, {(0, 1): NAN}, rest=0.3)
    on = np.array([5, 5, 5, 0, 0, -1])
    drawn = [find_twins(mi, policy="oracle", objects=on, seed=seed).index.tolist() for seed in range(20)]
    assert {row[0] for row in drawn} == {2} and {row[2] for row in drawn} == {0, 1}
    assert {tuple(row[3:]) for row in drawn} == {(4, 3, -1)}, "it is not known what 5 is on"


def test_shuffled_exchanges_twins_at_about_the_same_distance() -> None:
    rng = np.random.default_rng(0)
    position = rng.uniform(0, 300, (80, 2))
    mi = rng.random((80, 80))
    mi = np.triu(mi, 1) + np.triu(mi, 1).T
    found = find_twins(mi, position=position)
    own = np.linalg.norm(position - position[found.index], axis=1)
    draws = [control_twins(found, "shuffled", position=position, seed=seed) for seed in range(3)]
    for index in draws:
        assert sorted(index) == sorted(found.index), "the same patches are twins, as often"
        assert (index != found.index).all() and (index != np.arange(80)).all()
        ratio = np.linalg.norm(position - position[index], axis=1) / own
        assert np.mean(np.abs(np.log(ratio)) <= np.log(1.2) + 1e-9) > 0.9
    assert (draws[0] != draws[1]).mean() > 0.5, "and who gets whose is chance"


def test_shuffled_twins_of_a_single_pair_are_other_patches_at_the_most_alike_distance() -> None:
    line = np.array([[0.0, 0], [10, 0], [22, 0], [100, 0]])
    p = symmetric(4, {(0, 1): 0.001}, rest=0.9)
    found = find_twins(symmetric(4, {(0, 1): 1.0}, rest=0.1), p_values=p, position=line, policy="shuffled")
    assert found.index.tolist() == [2, 2, -1, -1]
    alone = find_twins(symmetric(2, {(0, 1): 1.0}), position=line[:2], policy="shuffled")
    assert alone.index.tolist() == [1, 0], "nobody else is there"


def test_policy_none_gives_nobody_a_twin_and_says_so() -> None:
    found = find_twins(symmetric(3, {}, rest=1.0), policy="none", excluded=["", "static", ""])
    assert found.index.tolist() == [-1, -1, -1]
    assert found.reason == ["policy none", "static", "policy none"]
    assert found.candidates[0].tolist() == [2, -1, -1, -1, -1]


@settings(derandomize=True, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 30.0]), st.floats(0.01, 0.5))
def test_every_policy_gives_the_same_patches_an_admissible_twin_and_the_others_the_same_reason(
    seed: int, count: int, min_distance: float, alpha: float
) -> None:
    case = window(seed, count)
    options: dict[str, Any] = {"min_distance": min_distance, "alpha": alpha, "seed": seed}
    chosen = {policy: find_twins(**case, policy=policy, **options) for policy in WITHIN}
    reference = chosen["mutual-information"]
    for policy, found in chosen.items():
        assert np.array_equal(found.index >= 0, reference.index >= 0)
        itself = np.arange(count) == found.index
        assert np.array_equal(itself, found.index >= 0) if policy == "later" else not itself.any()
        assert found.reason == reference.reason
        assert np.array_equal(found.candidates, reference.candidates)
        for patch, twin in enumerate(found.index):
            assert (found.reason[patch] == "") == (twin >= 0)
            if twin >= 0 and twin != patch:
                assert np.isfinite(case["mi"][patch, twin])
                assert case["excluded"][patch] == case["excluded"][twin] == ""
                assert np.linalg.norm(case["position"][patch] - case["position"][twin]) >= min_distance


# ---- reasons


def test_an_excluded_patch_keeps_its_reason_and_is_nobody_s_twin() -> None:
    mi = symmetric(3, {(0, 1): 2.0, (0, 2): 0.5, (1, 2): 2.0})
    found = find_twins(mi, excluded=["", "static", ""], candidates=3)
    assert found.index.tolist() == [2, -1, 0]
    assert found.reason == ["", "static", ""]
    assert found.candidates.tolist() == [[2, -1, -1], [-1, -1, -1], [0, -1, -1]]


def test_a_patch_without_an_estimated_partner_or_one_far_enough_has_no_candidate() -> None:
    found = find_twins(symmetric(3, {(0, 1): 0.5}))
    assert found.reason == ["", "", "no candidate"]
    corner = np.array([[0.0, 0], [3, 4], [60, 80]])
    found = find_twins(symmetric(3, {}, rest=0.5), position=corner, min_distance=5.01)
    assert found.index.tolist() == [2, 2, 0]
    found = find_twins(symmetric(3, {}, rest=0.5), position=corner, min_distance=96)  # 1 and 2 are 95 apart
    assert found.reason == ["", "no candidate", ""]


def test_the_least_distance_itself_is_far_enough() -> None:
    pair, points = symmetric(2, {(0, 1): 0.5}), [[0, 0], [3, 4]]
    assert find_twins(pair, position=points, min_distance=5).index.tolist() == [1, 0]
    assert find_twins(pair, position=points, min_distance=5.0001).index.tolist() == [-1, -1]


# ---- significance


def test_the_false_discovery_rate_is_held_over_the_pairs_of_the_window() -> None:
    # Benjamini & Hochberg: of m sorted p-values keep the first i for the largest i with p(i) ≤ α·i/m. Here m = 6.
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    mi = symmetric(4, dict.fromkeys(pairs, 0.5))
    p = dict(zip(pairs, [0.005, 0.9, 0.9, 0.9, 0.9, 0.012], strict=True))  # 0.012 ≤ 0.05·2/6 = 0.0167
    assert find_twins(mi, p_values=symmetric(4, p)).index.tolist() == [1, 0, 3, 2]
    p[2, 3] = 0.02
    assert find_twins(mi, p_values=symmetric(4, p)).index.tolist() == [1, 0, -1, -1]
    p[2, 3], p[0, 1] = 0.016, 0.016  # neither passes alone (0.0083), both pass together
    assert find_twins(mi, p_values=symmetric(4, p)).index.tolist() == [1, 0, 3, 2]
    p[2, 3] = 0.9
    assert find_twins(mi, p_values=symmetric(4, p)).index.tolist() == [-1, -1, -1, -1]


def test_pairs_that_cannot_be_twins_cost_no_significance() -> None:
    p = symmetric(6, {(0, 1): 0.02}, rest=0.9)
    assert find_twins(symmetric(6, {}, rest=0.5), p_values=p).index[0] == -1
    excluded = ["", "", "", "lost", "lost", "lost"]
    assert find_twins(symmetric(6, {(0, 2): NAN}, rest=0.5), p_values=p, excluded=excluded).index[0] == 1


def test_without_p_values_every_pair_counts_and_with_alpha_zero_none() -> None:
    mi = symmetric(2, {(0, 1): -0.4})
    assert find_twins(mi).index.tolist() == [1, 0]
    assert find_twins(mi, p_values=symmetric(2, {(0, 1): 0.001}), alpha=0.0).reason == ["not significant"] * 2


def test_a_pair_without_a_p_value_is_not_significant() -> None:
    mi = symmetric(3, {}, rest=0.5)
    found = find_twins(mi, p_values=symmetric(3, {(0, 1): 0.001}))
    assert found.index.tolist() == [1, 0, -1]


# ---- candidates


def test_candidates_are_the_best_first_padded_with_minus_one() -> None:
    mi = symmetric(5, {(0, 1): 0.1, (0, 2): 0.4, (0, 3): 0.3, (0, 4): 0.2, (1, 2): 0.6})
    found = find_twins(mi, candidates=3)
    assert found.candidates.tolist() == [[2, 3, 4], [2, 0, -1], [1, 0, -1], [0, -1, -1], [0, -1, -1]]
    assert found.candidates.dtype == np.int64


def test_there_are_as_many_columns_of_candidates_as_asked_for_even_in_a_small_window() -> None:
    assert find_twins(symmetric(2, {(0, 1): 0.5}), candidates=4).candidates.tolist() == [
        [1, -1, -1, -1],
        [0, -1, -1, -1],
    ]
    assert find_twins(np.zeros((0, 0)), candidates=4).candidates.shape == (0, 4)


def test_a_window_of_one_patch_has_no_candidate() -> None:
    found = find_twins([[NAN]])
    assert found.index.tolist() == [-1]
    assert found.reason == ["no candidate"]


def test_the_inputs_are_left_as_they_were() -> None:
    case = window(0, 8)
    before = {name: np.array(value) for name, value in case.items()}
    find_twins(**case, policy="random")
    for name, value in case.items():
        assert np.array_equal(np.array(value), before[name], equal_nan=name in ("mi", "p_values"))


# ---- errors


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "best"}, "best.*mutual-information"),
        ({"mi": np.zeros((3, 4))}, r"mi must be a square matrix, got shape \(3, 4\)"),
        ({"mi": np.zeros(3)}, r"mi must be a square matrix, got shape \(3,\)"),
        ({"p_values": np.zeros((2, 2))}, r"p_values must be shaped like mi \(3, 3\), got \(2, 2\)"),
        ({"excluded": ["", ""]}, "2 reasons.* 3 patches"),
        ({"policy": "nearest"}, "position is needed"),
        ({"policy": "shuffled"}, "position is needed"),
        ({"policy": "correlation"}, "correlation is needed"),
        ({"policy": "oracle"}, "objects are needed"),
        ({"policy": "same-clip"}, "of other windows"),
        ({"min_distance": 1.0}, "position is needed"),
        ({"position": np.zeros((2, 2))}, r"position must be shaped \(3, 2\).*got \(2, 2\)"),
        ({"position": np.zeros(3)}, r"position must be shaped \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        find_twins(**{"mi": symmetric(3, {}, rest=0.5), **changes})
