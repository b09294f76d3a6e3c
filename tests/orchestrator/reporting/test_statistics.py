"""Means, intervals and paired differences are those of the textbook, and say when there is no test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from infoaug.orchestrator.reporting import statistics

SHARES = st.floats(0, 1, allow_subnormal=False)


def test_a_paired_difference_is_that_of_the_common_seeds_alone() -> None:
    found = statistics.paired({0: 0.5, 1: 0.6, 7: 0.9}, {1: 0.5, 0: 0.45, 8: 0.1})
    assert found is not None
    assert found.difference.n == 2
    assert found.difference.mean == pytest.approx(0.075)
    # t = 0.075 / (0.025 · √2 / √2) = 3 with one degree of freedom: p = 1 − 2 · atan(3) / π
    assert found.p == pytest.approx(1 - 2 * math.atan(3) / math.pi)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=8))
def test_the_p_value_is_that_of_the_paired_t_test(values: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(values).T
    found = statistics.paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found is not None
    if found.p is None:
        assert np.ptp(ours - theirs) < 1e-8
    else:
        assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-6)


@pytest.mark.parametrize("differences", [(0.0, 0.0, 0.0), (0.1, 0.1, 0.1), (-0.3, -0.3)])
def test_differences_that_do_not_vary_give_no_false_certainty(differences: tuple[float, ...]) -> None:
    theirs = {seed: 0.1 + 0.2 * seed for seed in range(len(differences))}
    ours = {seed: theirs[seed] + difference for seed, difference in enumerate(differences)}  # with rounding
    found = statistics.paired(ours, theirs)
    assert found is not None
    assert found.p is None


def test_one_common_seed_has_a_difference_and_no_test_and_none_has_neither() -> None:
    found = statistics.paired({0: 0.5}, {0: 0.4, 1: 0.3})
    assert found is not None
    assert (found.difference.half, found.p) == (None, None)
    assert statistics.paired({0: 0.5}, {1: 0.5}) is None


def test_q_values_are_benjamini_and_hochbergs_over_the_tests_that_there_are() -> None:
    p = [0.01, None, 0.04, 0.03, 0.5]
    tests = [statistics.Paired(statistics.Summary(0.1, 0.1, 3), value) for value in p]
    found = statistics.corrected([*tests[:2], None, *tests[2:]])
    assert found[2] is None
    q = [test.q for test in found if test]
    # 4 tests in ascending order: 4·0.01/1, 4·0.03/2, 4·0.04/3, 0.5, each no more than those after it
    assert q == pytest.approx([0.04, None, 0.16 / 3, 0.16 / 3, 0.5])
    assert statistics.corrected([None]) == [None]


@pytest.mark.parametrize(("p", "text"), [(None, "–"), (0.0342, ".034"), (0.0004, "< .001"), (1.0, "1.000")])
def test_a_p_value_is_written_without_the_zero_that_says_nothing(p: float | None, text: str) -> None:
    assert statistics.probability(p) == text
