"""Means, intervals and paired tests equal their textbook definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from infoaug.orchestrator.reporting import statistics

SHARES = st.floats(0, 1, allow_subnormal=False)


def test_a_paired_difference_uses_the_shared_seeds_only() -> None:
    found = statistics.paired({0: 0.5, 1: 0.6, 7: 0.9}, {1: 0.5, 0: 0.45, 8: 0.1})
    assert found is not None
    assert found.difference.n == 2
    assert found.difference.mean == pytest.approx(0.075)
    # t = 0.075 / (0.025 · √2 / √2) = 3 with one degree of freedom: p = 1 − 2 · atan(3) / π
    assert found.p == pytest.approx(1 - 2 * math.atan(3) / math.pi)


def test_the_interval_is_students_to_twelve_digits() -> None:
    # s = 0.01 and t(0.975, 2) = 4.302652729911275 (Student's table), so half = t · s / √3.
    assert statistics.summary([0.51, 0.52, 0.53]).half == pytest.approx(4.302652729911275 * 0.01 / 3**0.5, abs=1e-12)
    # t(0.975, 1) = tan(0.475 π), and s / √2 = |a − b| / 2
    assert statistics.summary([0.2, 0.6]).half == pytest.approx(math.tan(0.475 * math.pi) * 0.2, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_one_value_has_no_interval_and_equal_values_have_an_interval_of_no_width() -> None:
    assert statistics.summary([0.3]) == statistics.Summary(0.3, None, 1)
    assert statistics.summary([0.1, 0.1, 0.1]).half == pytest.approx(0, abs=1e-15)


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
def test_equal_differences_have_no_p_value(differences: tuple[float, ...]) -> None:
    theirs = {seed: 0.1 + 0.2 * seed for seed in range(len(differences))}
    ours = {seed: theirs[seed] + difference for seed, difference in enumerate(differences)}  # with rounding
    found = statistics.paired(ours, theirs)
    assert found is not None
    assert found.p is None


def test_one_shared_seed_gives_a_difference_without_a_test_and_no_shared_seed_gives_none() -> None:
    found = statistics.paired({0: 0.5}, {0: 0.4, 1: 0.3})
    assert found is not None
    assert (found.difference.half, found.p) == (None, None)
    assert statistics.paired({0: 0.5}, {1: 0.5}) is None


def test_q_values_are_benjamini_and_hochbergs_over_the_tests_with_a_p_value() -> None:
    p = [0.01, None, 0.04, 0.03, 0.5]
    tests = [statistics.Paired(statistics.Summary(0.1, 0.1, 3), value) for value in p]
    adjusted = statistics.corrected([*tests[:2], None, *tests[2:]])
    assert adjusted[2] is None
    q = [test.q for test in adjusted if test]
    # 4 tests in ascending order: 4·0.01/1, 4·0.03/2, 4·0.04/3, 0.5, each no more than those after it
    assert q == pytest.approx([0.04, None, 0.16 / 3, 0.16 / 3, 0.5])
    assert statistics.corrected([None]) == [None]


@pytest.mark.parametrize(("p", "text"), [(None, "–"), (0.0342, ".034"), (0.0004, "< .001"), (1.0, "1.000")])
def test_a_p_value_is_printed_without_its_leading_zero(p: float | None, text: str) -> None:
    assert statistics.probability(p) == text


def test_the_interval_over_test_images_is_wilsons_and_that_of_a_difference_newcombes() -> None:
    for right, images in ((7, 10), (0, 20), (20, 20), (150, 300)):
        found = statistics.of_images(right / images, images)
        assert found.interval == pytest.approx(stats.binomtest(right, images).proportion_ci(0.95, "wilson"), abs=1e-12)
        assert (found.n, found.half) == (1, None)
    # Newcombe 1998 (Statistics in Medicine 17, 873–890), table II, method 10: 56/70 − 48/80, and 0/10 − 0/10.
    apart = statistics.between(statistics.of_images(56 / 70, 70), statistics.of_images(48 / 80, 80))
    assert apart.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    none = statistics.between(statistics.of_images(0, 10), statistics.of_images(0, 10))
    assert none.interval == pytest.approx((-0.2775, 0.2775), abs=5e-5)
    assert statistics.between(statistics.Summary(0.5, None, 1), apart).interval is None


def test_as_many_seeds_are_proposed_as_would_give_the_interval() -> None:
    three = statistics.summary([0.50, 0.52, 0.54])  # deviation 0.02: t(0.975, 17) · 0.02 / √18 = 0.00995
    assert statistics.seeds_for(three, 0.01) == 18
    assert statistics.seeds_for(statistics.summary([0.1, 0.9]), 0.01) is None
    assert statistics.seeds_for(statistics.summary([0.5]), 0.01) is None
