"""Intervals of one seed, over what it was tested on: test images or sequences. They say nothing about other seeds."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from infoaug.orchestrator.evaluation.metrics import images_of
from infoaug.orchestrator.reporting.statistics import Summary, between, mean_of, of_images, of_units

IMAGES, SEQUENCES = "test images", "sequences"
JACKKNIFE = "jackknife, Student’s t over groups of images left out in turn"
FLOOR = "floor_"  # of what was measured before training
_OF_BOTH = ("test", "domains", "domain_images")  # what a result says of the data, and of both backbones


def summaries(result: Mapping[str, Any], key: str) -> tuple[Summary, Summary, Summary, str]:
    """A metric with its interval: trained, before training, the difference, and what the intervals are over.

    Args:
        result: what `evaluate.measure` gives for one data set.
        key: of one of `METRICS`.

    Returns:
        The last is `one seed` if the difference has no interval; then the others are given without one, too.
    """
    floor = before(result)
    each = measured(result, key), measured(floor, key)
    difference, paired = compared(result, floor, key)
    if difference.bounds is None and not paired:
        trained, baseline = (replace(of, bounds=None) for of in each)
        return trained, baseline, difference, "one seed"
    return *each, difference, units(result, key)


def before(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as if it was of the backbone before training."""
    floor = {key.removeprefix(FLOOR): value for key, value in result.items() if key.startswith(FLOOR)}
    return {key: result[key] for key in _OF_BOTH if key in result} | floor


def measured(result: Mapping[str, Any], key: str) -> Summary:
    """A metric of one seed with its interval over what it was tested on.

    Accuracies: Wilson's. Means over pairs of domains: of each domain tested on, Wilson's of the mean over the domains
    trained on, combined as Newcombe combines two. The domains are taken as given. J&F and PCK: Student's t over
    sequences, each with all of its objects. mIoU: Student's t over test images, of the mean IoU linearised. mAP:
    Student's t over groups of test images that are left out, see `average_precision`.

    Args:
        result: what `evaluate.measure` gives for one data set. Results of earlier versions may lack what an interval
            needs, and have none.
        key: of one of `METRICS`.
    """
    if count := images_of(result, key):
        return of_images(float(result[key]), count)
    if _has_domains(result, key):
        return _over_domains(result, f"{key}_matrix")
    return of_units(float(result[key]), [*_influence(result, key).values()])


def compared(treatment: Mapping[str, Any], reference: Mapping[str, Any], key: str) -> tuple[Summary, bool]:
    """The difference of a metric between two backbones of one seed on one data set: treatment − reference.

    It is paired within sequences or test images where both results have what each of them adds to the metric. That of
    accuracies is Newcombe's for independent samples, because what is right in which image is not stored, as is that of
    results that lack what pairs them.

    Args:
        treatment: as `measured` takes it.
        reference: the same.
        key: of one of `METRICS`.

    Returns:
        The difference, without an interval if one of both has none; and whether it is paired.
    """
    own, other = _influence(treatment, key), _influence(reference, key)
    same = treatment.get("test") == reference.get("test")
    if same and len(own) > 1 and own.keys() == other.keys():
        difference = float(treatment[key]) - float(reference[key])
        return of_units(difference, [own[unit] - other[unit] for unit in own], (-1.0, 1.0)), True
    return between(measured(treatment, key), measured(reference, key)), False


def units(result: Mapping[str, Any], key: str) -> str:
    """The number and kind of units behind the interval of a metric, as `300 test images`; empty without an interval."""
    if count := images_of(result, key):
        return f"{count:,} {IMAGES}"
    if _has_domains(result, key):
        return f"{sum(result['domain_images']):,} {IMAGES}"
    if (count := len(_influence(result, key))) < 2:
        return ""
    return f"{count:,} {SEQUENCES}" if "sequences" in result else f"{result.get('test', count):,} {IMAGES}"


def _has_domains(result: Mapping[str, Any], key: str) -> bool:
    return "domain_images" in result and f"{key}_matrix" in result


def _over_domains(result: Mapping[str, Any], key: str) -> Summary:
    """The mean over all pairs of different domains.

    An image of a domain is tested once for each other domain. If the same images are right every time, their mean
    varies as one accuracy does, and less otherwise: the interval is rather too wide.
    """
    matrix = np.array(result[key], np.float64)
    others = ~np.eye(len(matrix), dtype=bool)
    means = [column[rest].mean() for column, rest in zip(matrix.T, others.T, strict=True)]
    return mean_of([of_images(float(mean), count) for mean, count in zip(means, result["domain_images"], strict=True)])


def _influence(result: Mapping[str, Any], key: str) -> dict[Hashable, float]:
    """How much each sequence, test image or group of images moves the metric, see `of_units`; empty if not known."""
    if f"{key}_influence" in result:
        return {number: float(moved) for number, moved in enumerate(result[f"{key}_influence"])}
    sequences = result.get("sequences", {})
    if not all(key in of for of in sequences.values()):
        return {}
    weights = {name: len(of.get("objects", [of])) for name, of in sorted(sequences.items())}
    of_one = sum(weights.values())
    return {name: (sequences[name][key] - float(result[key])) * weight / of_one for name, weight in weights.items()}
