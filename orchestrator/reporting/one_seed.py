"""Intervals of one seed, over what it was tested on: test images or sequences. They say nothing about other seeds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.orchestrator.evaluation.metrics import images_of
from infoaug.orchestrator.reporting.statistics import Summary, between, mean_of, of_images, of_units

IMAGES, SEQUENCES = "test images", "sequences"


def summaries(result: Mapping[str, Any], key: str) -> tuple[Summary, Summary, Summary, str]:
    """A metric with its interval: trained, before training, the difference, and what the intervals are over.

    Accuracies: Wilson's, of the difference Newcombe's. Means over pairs of domains: of each domain tested on, Wilson's
    of the mean over the domains trained on, combined as Newcombe combines two. The domains are taken as given. J&F and
    PCK: Student's t over sequences, each with all of its objects. mIoU: Student's t over test images, of the mean IoU
    linearised. Where it is Student's, both backbones are compared within sequences or images. mAP has none.

    Args:
        result: what `evaluate.measure` gives for one data set. Results of earlier versions may lack what an interval
            needs, and are given without one.
        key: of one of `METRICS`.

    Returns:
        The last is `one seed` if there is no interval.
    """
    trained, baseline = float(result[key]), float(result[f"floor_{key}"])
    if count := images_of(result, key):
        both = of_images(trained, count), of_images(baseline, count)
        return *both, between(*both), f"{count:,} {IMAGES}"
    if "domain_images" in result and f"{key}_matrix" in result:
        both = _over_domains(result, f"{key}_matrix"), _over_domains(result, f"floor_{key}_matrix")
        return *both, between(*both), f"{sum(result['domain_images']):,} {IMAGES}"
    own, floor = (_influence(result, prefix, key) for prefix in ("", "floor_"))
    if own is None or floor is None or len(own) != len(floor) or len(own) < 2:
        return Summary(trained, None, 1), Summary(baseline, None, 1), Summary(trained - baseline, None, 1), "one seed"
    unit = SEQUENCES if "sequences" in result else IMAGES
    difference = of_units(trained - baseline, own - floor, (-1.0, 1.0))
    return of_units(trained, own), of_units(baseline, floor), difference, f"{len(own):,} {unit}"


def _over_domains(result: Mapping[str, Any], key: str) -> Summary:
    """The mean over all pairs of different domains.

    An image of a domain is tested once for each other domain. If the same images are right every time, their mean
    varies as one accuracy does, and less otherwise: the interval is rather too wide.
    """
    matrix = np.array(result[key], np.float64)
    others = ~np.eye(len(matrix), dtype=bool)
    means = [column[rest].mean() for column, rest in zip(matrix.T, others.T, strict=True)]
    return mean_of([of_images(float(mean), count) for mean, count in zip(means, result["domain_images"], strict=True)])


def _influence(result: Mapping[str, Any], prefix: str, key: str) -> NDArray[np.float64] | None:
    """How much each sequence or test image moves the metric, see `of_units`; None if that is not known."""
    if f"{prefix}{key}_influence" in result:
        return np.array(result[f"{prefix}{key}_influence"], np.float64)
    mean, sequences = float(result[prefix + key]), result.get(f"{prefix}sequences", {})
    names = sorted(result.get("sequences", {}).keys() & sequences.keys())
    each = [sequences[name] for name in names]
    if len(names) < len(sequences) or not all(key in of for of in each):
        return None
    weights = np.array([len(of.get("objects", [of])) for of in each], np.float64)
    return np.array([of[key] - mean for of in each]) * weights / weights.sum()
