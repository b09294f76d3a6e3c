"""Which classes a linear probe takes for which: as counts, as the most confused pairs, as a CSV file."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_DRAWN = 20  # classes: in a matrix of more, no number can be read
MOST_ON_PHONE = 10  # classes: in a matrix of more, no number can be read on a phone
MOST_LISTED = 15  # pairs


@dataclass(frozen=True)
class Pair:
    """Images of one class in which another is found.

    Attributes:
        name: the class.
        images: number of its test images.
        right: the share in which it is found, 0–1.
        found: the other class.
        count: number of images in which that is found.
        share: `count` of `images`, 0–1.
    """

    name: str
    images: int
    right: float
    found: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """How often a probe takes one class for another.

    Attributes:
        classes: names of the K classes.
        counts: int64[n, 3], class, found class and number of images, see `evaluation.look.of_classes`.
    """

    classes: list[str]
    counts: NDArray[np.int64]

    @property
    def many(self) -> bool:
        """Whether the pairs are to be listed, because a matrix does not show them, or not on every screen."""
        return len(self.classes) > MOST_ON_PHONE

    @property
    def images(self) -> NDArray[np.int64]:
        """The number of test images of each class, int64[K]."""
        return np.bincount(self.counts[:, 0], self.counts[:, 2], len(self.classes)).astype(np.int64)

    @property
    def right(self) -> NDArray[np.int64]:
        """The number of test images of each class in which it is found, int64[K]."""
        true, found, count = self.counts.T
        return np.bincount(true, count * (true == found), len(self.classes)).astype(np.int64)

    def pairs(self, most: int = MOST_LISTED) -> list[Pair]:
        """The pairs of different classes with the most images, in falling order."""
        wrong = self.counts[self.counts[:, 0] != self.counts[:, 1]]
        ordered = wrong[np.argsort(-wrong[:, 2], kind="stable")][:most].tolist()
        images, right = self.images.tolist(), self.right.tolist()
        return [
            Pair(self.classes[a], images[a], right[a] / images[a], self.classes[b], count, count / images[a])
            for a, b, count in ordered
        ]

    def csv(self) -> str:
        """All pairs of classes that have images, a row each: `class`, `found`, `images`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["class", "found", "images"])
        writer.writerows([self.classes[a], self.classes[b], count] for a, b, count in self.counts.tolist())
        return buffer.getvalue()
