"""Average precision from matches is that of torchmetrics, and its interval over images covers what it should."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.detection import MeanAveragePrecision

from infoaug.orchestrator.evaluation import average_precision
from infoaug.orchestrator.evaluation.average_precision import LEAST_IMAGES, Labels, Ranked, matches
from infoaug.orchestrator.reporting.statistics import of_units

RECALLS = np.linspace(0, 1, 101)


def image(random: np.random.Generator, classes: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """Detections near objects, some of another class, with equal scores among them; some objects are crowds."""
    corner = random.uniform(0, 40, (random.integers(0, 6), 2))
    boxes = np.hstack([corner, corner + random.uniform(6, 20, corner.shape)])
    labels = random.integers(1, classes + 1, len(boxes))
    near = random.integers(0, len(boxes), 12) if len(boxes) else np.zeros(0, int)
    found = boxes[near] + random.normal(0, 2, (len(near), 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.where(random.random(len(near)) < 0.3, random.integers(1, classes + 1, len(near)), labels[near])
    scores = random.integers(0, 20, len(near)) / 20
    crowd = (random.random(len(boxes)) < 0.15).astype(int)
    as_tensors: list[dict[str, Any]] = [
        {"boxes": found, "labels": guessed, "scores": scores},
        {"boxes": boxes, "labels": labels, "iscrowd": crowd},
    ]
    for each in as_tensors:
        each |= {key: torch.tensor(value, dtype=torch.float32) for key, value in each.items() if value.dtype == float}
        each |= {key: torch.as_tensor(each[key]) for key in ("labels", "iscrowd") if key in each}
    return as_tensors[0], as_tensors[1]


def ranked(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[list[Ranked], Any, Any]:
    """Matched detections, what torchmetrics makes of them, and the recalls that it takes precision at."""
    metric = MeanAveragePrecision(backend="faster_coco_eval", extended_summary=True)
    for found, known in pairs:
        metric.update([found], [known])
    labels = [
        Labels(f["labels"].numpy(), f["scores"].numpy(), k["labels"].numpy(), k["iscrowd"].bool().numpy())
        for f, k in pairs
    ]
    computed = metric.compute()
    ious = {pair: np.asarray(of, float) for pair, of in computed["ious"].items()}
    classes = average_precision.ranked(labels, ious, np.array(metric.iou_thresholds))
    return classes, computed, np.array(metric.rec_thresholds)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_torchmetrics_with_crowds_and_equal_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes, computed, recalls = ranked([image(random) for _ in range(10)])
    found = average_precision.mean_average_precision(classes, np.ones(10), recalls)
    assert found.mean() == pytest.approx(float(computed["map"]), abs=1e-6)
    assert found[0] == pytest.approx(float(computed["map_50"]), abs=1e-6)


def test_leaving_images_out_is_measuring_without_them() -> None:
    random = np.random.default_rng(7)
    pairs = [image(random) for _ in range(12)]
    classes, _, recalls = ranked(pairs)
    weights = np.arange(12) % 3 != 0
    few, computed, _ = ranked([pair for pair, kept in zip(pairs, weights, strict=True) if kept])
    found = average_precision.mean_average_precision(classes, weights.astype(float), recalls)
    assert len(few) == 3 and found.mean() == pytest.approx(float(computed["map"]), abs=1e-6)


def test_an_object_is_found_once_and_a_crowd_any_number_of_times() -> None:
    overlap = np.array([[0.9, 0.6], [0.8, 0.7], [0.3, 0.8]])
    right, counts = matches(overlap, np.array([False, True]), np.array([0.5, 0.85]))
    assert right.tolist() == [[True, False, False], [True, False, False]]
    assert counts.tolist() == [[True, False, False], [True, True, True]]
    right, _ = matches(overlap, np.array([False, False]), np.array([0.5]))
    assert right.tolist() == [[True, True, False]]


def made(random: np.random.Generator, images: int, classes: int = 1) -> list[Ranked]:
    """Classes in half of the images each, which are easy or hard, at one threshold."""
    hard, every = random.normal(0, 0.7, images), []
    for _ in range(classes):
        objects = np.where(random.random(images) < 0.5, 1 + random.poisson(1, images), 0)
        true = np.repeat(np.arange(images), objects)
        true = true[random.random(len(true)) < 1 / (1 + np.exp(-0.5 - hard[true]))]
        false = np.repeat(np.arange(images), random.poisson(1, images))
        of, right = np.concatenate([true, false]), np.arange(len(true) + len(false)) < len(true)
        order = np.argsort(-(right * 1.0 + 0.4 * hard[of] + random.normal(0, 0.7, len(of))))
        every.append(Ranked(of[order], right[order][None], np.ones((1, len(of)), bool), objects))
    return every


def test_the_interval_covers_the_precision_of_many_images_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(0), 0
    many = made(random, 40_000)
    true = average_precision.mean_average_precision(many, np.ones(40_000), RECALLS)[0]
    for _ in range(200):
        few = made(random, 60)
        moved = average_precision.influence(few, RECALLS)
        assert moved is not None
        value = average_precision.mean_average_precision(few, np.ones(60), RECALLS)[0]
        interval = of_units(float(value), moved[:, 1]).bounds
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    assert covered / 200 == pytest.approx(0.95, abs=0.035)


def test_each_of_few_images_is_left_out_and_groups_of_many() -> None:
    random = np.random.default_rng(0)
    few, many = made(random, 60), made(random, 1000)
    moved = average_precision.influence(few, RECALLS)
    assert moved is not None and moved.shape == (60, 2) and moved.sum() == pytest.approx(0, abs=1e-12)
    without = [
        average_precision.mean_average_precision(few, (np.arange(60) != number).astype(float), RECALLS)[0]
        for number in range(60)
    ]
    deviation = np.sqrt(59 / 60 * np.square(np.subtract(without, np.mean(without))).sum())  # Efron and Stein 1981
    half = stats.t.ppf(0.975, 59) * deviation
    assert of_units(0.5, moved[:, 1]).bounds == pytest.approx((0.5 - half, 0.5 + half))
    grouped = average_precision.influence(many, RECALLS)
    assert grouped is not None and len(grouped) == average_precision.GROUPS
    again = average_precision.influence(many, RECALLS)
    assert again is not None and np.array_equal(grouped, again)


def test_a_class_in_too_few_images_gives_none() -> None:
    (each,) = made(np.random.default_rng(0), 60)
    shown = np.flatnonzero(each.objects)
    for count, known in ((LEAST_IMAGES, True), (LEAST_IMAGES - 1, False)):
        rare = np.where(np.isin(np.arange(60), shown[:count]), each.objects, 0)
        found = average_precision.influence([each, Ranked(each.image, each.right, each.counts, rare)], RECALLS)
        assert (found is not None) == known
    assert average_precision.influence([], RECALLS) is None
