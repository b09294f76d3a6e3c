"""Intervals of one seed: over sequences with their objects, over test images, over the images of domains, or none."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from infoaug.orchestrator.reporting import one_seed
from infoaug.orchestrator.reporting.statistics import between, mean_of, of_images, of_units, summary


def masks(*sequences: list[float], floor: float = 0.1) -> dict[str, Any]:
    """J&F of sequences, by their objects; before training all are lower by `floor`, and the last one by 0.1 more."""

    def named(lower: list[float]) -> dict[str, Any]:
        each = [[value - less for value in objects] for objects, less in zip(sequences, lower, strict=True)]
        found = {
            f"s{n}": {"jf": float(np.mean(of)), "objects": [{"j": value} for value in of]} for n, of in enumerate(each)
        }
        return {"jf": float(np.mean(np.concatenate(each))), "sequences": found}

    before = named([floor] * (len(sequences) - 1) + [floor + 0.1])
    trained = named([0.0] * len(sequences))
    return {"dataset": "davis", **trained, **{f"floor_{key}": value for key, value in before.items()}}


def test_masks_of_one_object_each_have_students_interval_over_sequences() -> None:
    values = [0.5, 0.6, 0.8, 0.55]
    trained, _, difference, over = one_seed.summaries(masks(*([value] for value in values)), "jf")
    half = summary(values).half
    assert half and trained.bounds == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    paired = summary([0.1, 0.1, 0.1, 0.2])
    assert paired.half and difference.bounds == pytest.approx((0.125 - paired.half, 0.125 + paired.half))
    assert over == "4 sequences" and trained.half is None


def test_objects_of_one_sequence_are_not_independent() -> None:
    trained, *_ = one_seed.summaries(masks([0.5] * 9, [0.7], [0.6, 0.6]), "jf")
    mean = (9 * 0.5 + 0.7 + 2 * 0.6) / 12
    moved = np.array([9 * (0.5 - mean), 0.7 - mean, 2 * (0.6 - mean)]) / 12
    half = stats.t.ppf(0.975, 2) * np.sqrt(3 / 2 * (moved**2).sum())
    assert trained.mean == pytest.approx(mean) and trained.bounds == pytest.approx((mean - half, mean + half))


def test_joints_have_an_interval_over_sequences_of_equal_weight() -> None:
    shares, before = [0.2, 0.5, 0.6], [0.1, 0.5, 0.3]
    result = {"pck_20": np.mean(shares), "sequences": {f"s{n}": {"pck_20": of} for n, of in enumerate(shares)}}
    result |= {"floor_pck_20": np.mean(before)}
    result |= {"floor_sequences": {f"s{n}": {"pck_20": of} for n, of in enumerate(before)}}
    _, _, difference, over = one_seed.summaries(result, "pck_20")
    half = summary(np.subtract(shares, before)).half
    mean = np.subtract(shares, before).mean()
    assert half and difference.bounds == pytest.approx((mean - half, mean + half)) and over == "3 sequences"


def test_an_interval_over_units_is_within_what_the_mean_can_be() -> None:
    assert of_units(0.9, [0.3, -0.3]).bounds == (0, 1)
    assert of_units(0.9, [0.3, -0.3], (-1, 1)).bounds == (-1, 1)
    assert of_units(0.5, [0.0, 0.0, 0.0]).bounds is None, "units that are all alike do not say how they vary"


def test_segmentation_is_compared_image_by_image() -> None:
    result = {"miou": 0.5, "floor_miou": 0.3, "miou_influence": [0.01, -0.02, 0.01]}
    *_, difference, over = one_seed.summaries(result | {"floor_miou_influence": [0.02, -0.02, 0.0]}, "miou")
    half = stats.t.ppf(0.975, 2) * np.sqrt(3 / 2 * (0.01**2 + 0.01**2))
    assert difference.bounds == pytest.approx((0.2 - half, 0.2 + half)) and over == "3 test images"


def test_boxes_have_an_interval_over_groups_of_images_which_counts_the_images() -> None:
    moved, floor = [0.01, -0.02, 0.01], [0.02, -0.02, 0.0]
    result = {"map": 0.5, "floor_map": 0.3, "test": 900, "map_influence": moved, "floor_map_influence": floor}
    trained, _, difference, over = one_seed.summaries(result, "map")
    assert over == "900 test images" and trained == of_units(0.5, moved)
    assert difference == of_units(0.2, np.subtract(moved, floor), (-1, 1))
    other = one_seed.compared(result, one_seed.before(result) | {"test": 800}, "map")
    assert other == (between(trained, of_units(0.3, floor)), False), "groups of other images are no pairs"


def test_domains_have_an_interval_over_their_images() -> None:
    matrix, floor = [[0.9, 0.4, 0.5], [0.6, 0.9, 0.7], [0.2, 0.3, 0.9]], [[0.5] * 3] * 3
    result = {"domains": ["a", "b", "c"], "domain_images": [100, 50, 400], "test": 550, "probe": 0.45}
    result |= {"floor_probe": 0.5, "probe_matrix": matrix, "floor_probe_matrix": floor}
    trained, baseline, difference, over = one_seed.summaries(result, "probe")
    columns = [of_images(0.4, 100), of_images(0.35, 50), of_images(0.6, 400)]
    assert trained == mean_of(columns) and trained.mean == pytest.approx(0.45)
    assert difference == between(trained, baseline) and over == "550 test images"


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    random, shares, counts = np.random.default_rng(0), np.array([0.1, 0.5, 0.95]), np.array([60, 30, 200])
    right = random.binomial(counts, shares, (2000, 3))
    found = [mean_of([of_images(k / n, n) for k, n in zip(row, counts.tolist(), strict=True)]) for row in right]
    covered = [low <= shares.mean() <= high for of in found if (ends := of.bounds) for low, high in [ends]]
    assert len(covered) == 2000 and np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_results_of_other_sequences_are_compared_as_independent_samples() -> None:
    result = masks([0.5], [0.6], [0.7]) | {"floor_sequences": masks([0.4], [0.3])["sequences"], "floor_jf": 0.35}
    trained, baseline, difference, over = one_seed.summaries(result, "jf")
    assert difference == between(trained, baseline) and difference.bounds and over == "3 sequences"


@pytest.mark.parametrize(
    ("key", "result"),
    [
        ("jf", masks([0.5, 0.6])),
        ("jf", {"jf": 0.5, "floor_jf": 0.4, "sequences": {}}),
        ("jf", masks([0.5], [0.6]) | {"floor_sequences": {"s0": {"jf": 0.4}}}),
        ("miou", {"miou": 0.5, "floor_miou": 0.4, "test": 30}),
        ("miou", {"miou": 0.5, "floor_miou": 0.4, "test": 2, "miou_influence": [0.1, -0.1]}),
        ("map", {"map": 0.5, "floor_map": 0.4, "test": 30}),
        ("probe", {"probe": 0.5, "floor_probe": 0.4, "domains": ["a", "b"], "test": 30, "probe_matrix": [[1, 1]] * 2}),
    ],
)
def test_there_is_none_where_one_cannot_be_had(key: str, result: dict[str, Any]) -> None:
    *found, over = one_seed.summaries(result, key)
    assert [of.interval for of in found] == [None] * 3 and over == "one seed"
    assert found[2].mean == pytest.approx(found[0].mean - found[1].mean)
