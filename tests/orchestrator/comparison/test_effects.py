"""Effects are paired within seeds, and tested with textbook statistics."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from infoaug.orchestrator.comparison.arms import MI
from infoaug.orchestrator.comparison.effects import effect_tables, is_significant
from infoaug.orchestrator.reporting import one_seed, statistics
from infoaug.orchestrator.reporting.statistics import Paired
from tests.orchestrator.comparison.sweeps import (
    MOCO,
    SIMCLR,
    VICREG,
    masks,
    rich_sweep,
    sweep,
    three_frameworks,
    trial,
    trials,
)


def test_there_is_a_table_for_each_data_set_and_metric_that_has_accuracies() -> None:
    effects = effect_tables(rich_sweep())
    assert [(table.title, table.metric) for table in effects] == [
        ("cifar10", "probe"),
        ("cifar10", "knn"),
        ("scenes (synthetic)", "probe"),
    ]
    assert effect_tables(sweep([])) == []


def test_a_row_has_the_means_and_the_tests_within_seeds() -> None:
    row = three_frameworks().rows[0]
    assert {policy: cell.mean for policy, cell in row.accuracy.items()} == pytest.approx(
        {"none": 0.51, "random": 1.51 / 3, MI: 0.54}
    )
    assert row.to_none is not None
    assert row.to_random is not None
    assert row.to_none.difference.mean == pytest.approx(0.03)
    assert row.to_none.p == pytest.approx(stats.ttest_rel(SIMCLR[MI], SIMCLR["none"]).pvalue)
    assert row.to_random.p == pytest.approx(stats.ttest_rel(SIMCLR[MI], SIMCLR["random"]).pvalue)
    # half of the interval: t(0.975, 2) · s / √3, s = 0.01
    assert row.to_none.difference.half == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)


def test_an_arm_that_was_not_trained_is_missing_and_not_compared() -> None:
    row = three_frameworks().rows[2]
    assert "random" not in row.accuracy
    assert row.to_random is None
    assert row.to_none is not None


def test_the_row_of_all_frameworks_has_the_seeds_as_units() -> None:
    total = three_frameworks().total
    assert total is not None
    ours, theirs = (np.mean([each[policy] for each in (SIMCLR, MOCO, VICREG)], axis=0) for policy in (MI, "none"))
    assert total.to_none is not None
    assert total.to_random is not None
    assert total.to_none.difference.n == 3
    assert total.to_none.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert total.frameworks == (3, 2)  # VICReg has no random twins
    assert total.to_random.difference.mean == pytest.approx(
        np.mean([*SIMCLR[MI], *MOCO[MI]]) - np.mean([*SIMCLR["random"], *MOCO["random"]])
    )
    assert total.accuracy[MI].mean == pytest.approx(np.mean(ours))
    assert total.accuracy[MI].half is None
    assert total.accuracy["random"].n == 2


def test_frameworks_that_repeat_each_other_make_no_difference_more_certain() -> None:
    """Eight copies of one framework say as much as one of them."""
    noisy = {"none": [0.50, 0.52, 0.51], MI: [0.51, 0.56, 0.52]}
    of = [trial for number in range(8) for trial in trials(noisy, f"framework-{number}")]
    total = effect_tables(sweep(of))[0].total
    assert total is not None
    assert total.to_none is not None
    alone = stats.ttest_rel(noisy[MI], noisy["none"]).pvalue
    assert total.to_none.p == pytest.approx(alone)
    assert alone > 0.1


def test_all_frameworks_are_compared_within_the_seeds_that_all_of_them_have() -> None:
    short = {"none": [0.40, 0.42], MI: [0.44, 0.48]}
    total = effect_tables(sweep([*trials(SIMCLR), *trials(short, "vicreg")]))[0].total
    assert total is not None
    assert total.to_none is not None
    assert total.to_none.difference.n == 2
    assert total.to_none.difference.mean == pytest.approx((0.03 + 0.02 + 0.04 + 0.06) / 4)
    apart = [trial("none", 7, framework="vicreg"), trial(MI, 7, framework="vicreg")]
    total = effect_tables(sweep([*trials(SIMCLR), *apart]))[0].total
    assert total is not None
    assert total.to_none is None


def test_a_framework_with_two_settings_counts_once_in_all_frameworks() -> None:
    better = {**SIMCLR, MI: [0.59, 0.60, 0.61]}  # by 9 points, not 3
    both = [*trials(SIMCLR, negatives="all"), *trials(better, negatives="ring"), *trials(VICREG, "vicreg")]
    total = effect_tables(sweep(both))[0].total
    assert total is not None
    assert total.to_none is not None
    assert total.to_none.difference.n == 3
    assert total.frameworks[0] == 2
    assert total.to_none.difference.mean == pytest.approx((0.06 + 0.02) / 2)


def test_one_framework_alone_has_no_row_of_all_frameworks() -> None:
    assert effect_tables(sweep(trials(SIMCLR)))[0].total is None


def test_q_values_are_over_all_tests_of_a_table() -> None:
    table = three_frameworks()
    tests = table.tests
    assert len(tests) == 7
    expected = stats.false_discovery_control([test.p for test in tests])
    assert [test.q for test in tests] == pytest.approx(list(expected))


def test_only_a_small_q_value_is_marked() -> None:
    test = three_frameworks().tests[0]
    assert [is_significant(dataclasses.replace(test, q=q)) for q in (0.049, 0.05, None)] == [True, False, False]
    assert not is_significant(None)


def test_random_twins_of_another_weight_are_no_reference() -> None:
    of = [*trials({MI: SIMCLR[MI], "none": SIMCLR["none"]}), *trials({"random": [0.5] * 3}, twin_weight=2.0)]
    row = effect_tables(sweep(of))[0].rows[0]
    assert row.to_random is None
    assert "random" not in row.accuracy


def test_the_random_init_baseline_counts_once_per_seed() -> None:
    of = [
        trial(policy, seed, results={"cifar10": {"probe": 0.5, "floor_probe": 0.3 + 0.1 * seed}})
        for policy, seed in (("none", 0), ("random", 0), (MI, 0), ("none", 1))
    ]
    baseline = effect_tables(sweep(of))[0].baseline
    assert baseline is not None
    assert (baseline.mean, baseline.n) == (pytest.approx(0.35), 2)


def weighed(weight: float, validation: float, test: float, seeds: int = 2) -> list[object]:
    """Trials of the MI twin at a weight."""
    return [
        trial(seed=seed, twin_weight=weight, results={"x": {"probe": test, "validation_probe": validation}})
        for seed in range(seeds)
    ]


def test_the_weight_is_chosen_by_validation_and_never_by_the_test_images() -> None:
    of = [*weighed(0.1, 0.6, 0.5), *weighed(0.5, 0.7, 0.4), *weighed(1.0, 0.65, 0.9), *weighed(2.0, 0.99, 0.9, seeds=1)]
    none = [trial("none", seed, results={"x": {"probe": 0.3}}) for seed in range(2)]
    (choice,) = effect_tables(sweep([*of, *none]))[0].choices  # type: ignore[list-item]
    assert (choice.weight, choice.tried) == (0.5, 4)  # 2.0 has fewer seeds than the others
    assert (choice.validation.mean, choice.test.mean) == pytest.approx((0.7, 0.4))
    assert choice.to_none is not None
    assert choice.to_none.difference.mean == pytest.approx(0.1)


def test_the_smallest_of_equal_weights_is_chosen_and_a_single_weight_gives_no_choice() -> None:
    of = [*weighed(1.0, 0.5, 0.5), *weighed(0.5, 0.5, 0.5)]
    assert effect_tables(sweep(of))[0].choices[0].weight == 0.5  # type: ignore[arg-type]
    assert effect_tables(sweep(weighed(0.5, 0.5, 0.5)))[0].choices == []  # type: ignore[arg-type]


# ---- one seed


def one_difference(treatment: dict[str, Any], reference: dict[str, Any]) -> Paired:
    """The difference between two trials of one seed."""
    of = [trial("none", results={"x": reference}), trial(MI, results={"x": treatment})]
    test = effect_tables(sweep(of))[0].rows[0].to_none
    assert test is not None and test.p is None and test.difference.n == 1
    return test


def test_sequences_of_one_seed_are_compared_with_themselves() -> None:
    test = one_difference(masks(0.6, 0.4), masks(0.5, 0.35))
    expected = statistics.summary([0.1, 0.05])
    assert expected.half and test.difference.bounds == pytest.approx((0.075 - expected.half, 0.075 + expected.half))
    assert not test.independent


def test_images_of_a_segmentation_are_compared_with_themselves() -> None:
    moved, other = [0.01, -0.02, 0.01], [0.02, -0.02, 0.0]
    test = one_difference({"miou": 0.5, "miou_influence": moved}, {"miou": 0.3, "miou_influence": other})
    assert test.difference == statistics.of_units(0.2, np.subtract(moved, other), (-1, 1)) and not test.independent


def test_results_that_cannot_be_paired_are_compared_as_independent_samples() -> None:
    treatment, reference = masks(0.6, 0.4), masks(0.5, 0.35, "other-")
    test = one_difference(treatment, reference)
    each = (one_seed.measured(result, "jf") for result in (treatment, reference))
    assert test.difference == statistics.between(*each) and test.difference.bounds and test.independent


def test_accuracies_across_domains_of_one_seed_have_an_interval() -> None:
    def result(share: float) -> dict[str, Any]:
        matrix = [[0.9, share], [share, 0.9]]
        return {"domains": ["a", "b"], "domain_images": [50, 80], "test": 130, "probe": share, "probe_matrix": matrix}

    test = one_difference(result(0.6), result(0.5))
    means = [statistics.mean_of([statistics.of_images(share, n) for n in (50, 80)]) for share in (0.6, 0.5)]
    assert test.difference == statistics.between(*means) and test.difference.bounds


def test_several_seeds_have_no_interval_over_images_though_one_of_them_would() -> None:
    of = [
        trial(policy, seed, results={"x": {"probe": share + 0.01 * seed, "test": 100}})
        for policy, share in (("none", 0.5), (MI, 0.6))
        for seed in range(2)
    ]
    row = effect_tables(sweep(of))[0].rows[0]
    assert row.to_none and row.to_none.difference.bounds is None and row.to_none.difference.half is not None
    assert row.accuracy[MI].bounds is None and effect_tables(sweep(of))[0].over == ""


def test_frameworks_of_one_seed_are_averaged_as_if_they_erred_alike() -> None:
    def result(share: float) -> dict[str, Any]:
        return {"x": {"probe": share, "test": 200, "floor_probe": 0.3}}

    shares = {"simclr": (0.5, 0.6), "moco": (0.4, 0.42)}
    of = [
        trial(policy, framework=framework, results=result(share))
        for framework, pair in shares.items()
        for policy, share in zip(("none", MI), pair, strict=True)
    ]
    table = effect_tables(sweep(of))[0]
    each = [row.to_none.difference for row in table.rows if row.to_none]
    assert table.total and table.total.to_none and table.over == "200 test images"
    found = table.total.to_none.difference
    assert found.mean == pytest.approx(0.06) and found.n == 1
    assert found.bounds == pytest.approx(np.mean([one.bounds for one in each], axis=0))
    assert table.baseline == statistics.of_images(0.3, 200)


def test_the_only_seed_that_frameworks_share_has_an_interval_too() -> None:
    results = {"x": {"probe": 0.5, "test": 100}}
    seeds = {"simclr": (0, 1), "moco": (1, 2)}
    of = [trial(p, s, framework=f, results=results) for f, each in seeds.items() for s in each for p in ("none", MI)]
    total = effect_tables(sweep(of))[0].total
    assert total and total.to_none and total.to_none.difference.n == 1 and total.to_none.difference.bounds


def test_trials_that_were_tested_on_other_numbers_of_images_have_no_common_number() -> None:
    of = [trial(policy, results={"x": {"probe": 0.5, "test": n}}) for policy, n in (("none", 100), (MI, 90))]
    table = effect_tables(sweep(of))[0]
    assert table.over == "test images"
    assert table.rows[0].accuracy[MI] == statistics.of_images(0.5, 90)


@given(st.permutations(list(rich_sweep().trials)))
@settings(max_examples=20)
def test_the_order_of_the_trials_changes_no_table(order: list[object]) -> None:
    assert effect_tables(rich_sweep()) == effect_tables(dataclasses.replace(rich_sweep(), trials=order))
