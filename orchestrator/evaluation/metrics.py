"""What a backbone is judged by, and how tables name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number of an evaluation's result, a share, 0–1; the larger, the better.

    Attributes:
        name: in tables.
        axis: on the axes of figures.
        of: what it is measured on, before a data set's name.
        network: what is measured.
    """

    name: str
    axis: str = "top-1 accuracy"
    of: str = "on the test images of"
    network: str = "frozen backbone"

    @property
    def counts_images(self) -> bool:
        """Whether it is the share of the test images whose class is found."""
        return self.axis == Metric.axis

    @property
    def ranks_boxes(self) -> bool:
        """Whether it ranks what a detector has found in all test images together."""
        return self.network == _OF_DETECTORS[1]

    def of_data(self, title: str) -> str:
        """The metric on one data set, in a caption."""
        return f"{self.axis[0].upper()}{self.axis[1:]} ({self.name}) {self.of} {title}"

    def within(self, title: str) -> str:
        """The metric on one data set, in the middle of a sentence."""
        return f"{self.name} accuracy on {title}" if self.counts_images else f"{self.name} on {title}"

    def chance(self, classes: int | None) -> float | None:
        """What guessing gives with so many classes; None if it is not known."""
        return 1 / classes if classes and self.counts_images else None


def images_of(result: Mapping[str, Any], metric: str) -> int | None:
    """The number of test images that an accuracy is a share of, by a data set's result; None for any other metric.

    It is also None for a mean over domains, which counts every image several times.
    """
    count = None if "domains" in result else result.get("test")
    return int(count) if count and METRICS[metric].counts_images else None


_OF_DETECTORS = ("of the test images of", "detector on the backbone")

# In the order of the tables, by the keys of the results.
METRICS = {
    "probe": Metric("linear probe"),
    "knn": Metric("kNN"),
    "probe_10": Metric("linear probe, 10 % of labels"),
    "probe_1": Metric("linear probe, 1 % of labels"),
    "fine_tuned": Metric("fine-tuning", network="fine-tuned backbone"),
    "fine_tuned_10": Metric("fine-tuning, 10 % of labels", network="fine-tuned backbone"),
    "fine_tuned_1": Metric("fine-tuning, 1 % of labels", network="fine-tuned backbone"),
    "jf": Metric("J&F", "propagated masks", "of the clips of"),
    "pck_20": Metric("PCK@0.2", "propagated joints", "of the clips of"),
    "pck_10": Metric("PCK@0.1", "propagated joints", "of the clips of"),
    "miou": Metric("mIoU", "linear segmentation", "of the test images of"),
    "map": Metric("mAP", "detection", *_OF_DETECTORS),
    "map_50": Metric("mAP50", "detection", *_OF_DETECTORS),
    "mask_map": Metric("mask mAP", "instance segmentation", *_OF_DETECTORS),
    "mask_map_50": Metric("mask mAP50", "instance segmentation", *_OF_DETECTORS),
}
