"""Numbers over seeds: means, their intervals, paired differences, and how they are written."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, ttest_1samp
from scipy.stats import t as student_t

CONFIDENCE = 0.95
SAME = 1e-9  # differences whose spread is within this share of the values do not vary: the rest is rounding

Unit = TypeVar("Unit", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean over n seeds, and half the width of its 95 % interval (Student's t), None for a single seed."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Differences within n pairs.

    Attributes:
        difference: their mean and its interval.
        p: two-sided, of the paired t-test that the mean is 0; None where there is no test: fewer than two pairs, or
            differences that do not vary, to which t would give infinite certainty, or none at all.
        q: the smallest false discovery rate at which `p` is among the discoveries; see `corrected`.
    """

    difference: Summary
    p: float | None
    q: float | None = None


def summary(values: ArrayLike) -> Summary:
    """Mean and interval of one value a seed, f64[n], n ≥ 1."""
    array = np.asarray(values, np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Summary(mean, None, n)
    return Summary(mean, float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1) * array.std(ddof=1) / math.sqrt(n)), n)


def paired(ours: Mapping[Unit, float], theirs: Mapping[Unit, float]) -> Paired | None:
    """Ours less theirs within the seeds that both have; None where there is none.

    Args:
        ours: one value a seed, or another unit.
        theirs: the same.
    """
    units = [unit for unit in ours if unit in theirs]
    if not units:
        return None
    differences = np.array([ours[unit] - theirs[unit] for unit in units])
    scale = max(abs(values[unit]) for values in (ours, theirs) for unit in units)
    varies = np.ptp(differences) > SAME * scale
    return Paired(summary(differences), float(ttest_1samp(differences, 0).pvalue) if varies else None)


def corrected(tests: Sequence[Paired | None]) -> list[Paired | None]:
    """The same with their q-values (Benjamini & Hochberg 1995) over all of them that have a p-value."""
    known = [test.p for test in tests if test is not None and test.p is not None]
    q = iter(false_discovery_control(known) if known else ())
    return [test if test is None or test.p is None else replace(test, q=float(next(q))) for test in tests]


def percent(value: Summary) -> str:
    """A share as `35.0 % ± 1.2`."""
    return f"{value.mean:.1%}".replace("%", " %") + ("" if value.half is None else f" ± {100 * value.half:.1f}")


def points(value: Summary) -> str:
    """A difference of shares, in percentage points, as `+1.5 ± 0.4`."""
    text = f"{100 * value.mean:+.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text.replace("-", "−")


def probability(p: float | None) -> str:
    """A p-value as `.034`, or `< .001`; a dash where there is none."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
