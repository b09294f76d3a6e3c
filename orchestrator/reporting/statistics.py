"""Statistics over seeds: means with confidence intervals, paired t-tests, and how these numbers are printed."""

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, ttest_1samp, ttest_rel

CONFIDENCE = 0.95
ROUNDING = 1e-9  # differences whose range is below this share of the values are equal up to rounding

Unit = TypeVar("Unit", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean over n seeds, and half the width of its 95 % confidence interval (Student's t), None for a single seed."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Paired differences between two conditions, over n seeds or other units.

    Attributes:
        difference: their mean and its interval.
        p: two-sided p-value of the paired t-test; None with fewer than two pairs, and for equal differences, which have
            no variance to test against.
        q: the p-value adjusted for the false discovery rate, see `corrected`.
    """

    difference: Summary
    p: float | None
    q: float | None = None


def summary(values: ArrayLike) -> Summary:
    """Mean and confidence interval of f64[n], one value a seed, n ≥ 1."""
    array = np.asarray(values, np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Summary(mean, None, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns of nearly equal values; their interval is right
        interval = ttest_1samp(array, 0).confidence_interval(CONFIDENCE)
    return Summary(mean, float(interval.high - interval.low) / 2, n)


def paired(treatment: Mapping[Unit, float], reference: Mapping[Unit, float]) -> Paired | None:
    """Compare two conditions within the seeds that both have: treatment − reference; None if they share no seed.

    Args:
        treatment: one value for each seed, or another unit.
        reference: the same.
    """
    units = [unit for unit in treatment if unit in reference]
    if not units:
        return None
    treated, control = (np.array([values[unit] for unit in units], float) for values in (treatment, reference))
    differences = treated - control
    scale = max(np.abs(treated).max(), np.abs(control).max())
    # Without variance t is infinite: p = 0 would claim certainty that two equal differences do not give.
    varies = np.ptp(differences) > ROUNDING * scale
    p = float(ttest_rel(treated, control).pvalue) if varies else np.nan  # also NaN where squares are too small for f64
    return Paired(summary(differences), None if np.isnan(p) else p)


def corrected(tests: Sequence[Paired | None]) -> list[Paired | None]:
    """Add q-values (Benjamini & Hochberg 1995), adjusted over all tests that have a p-value."""
    known = [test.p for test in tests if test is not None and test.p is not None]
    q = iter(false_discovery_control(known) if known else ())
    return [test if test is None or test.p is None else replace(test, q=float(next(q))) for test in tests]


def percent(value: Summary) -> str:
    """Format a share as `35.0 % ± 1.2`."""
    return f"{value.mean:.1%}".replace("%", " %") + ("" if value.half is None else f" ± {100 * value.half:.1f}")


def points(value: Summary) -> str:
    """Format a difference of shares in percentage points, as `+1.5 ± 0.4`."""
    text = f"{100 * value.mean:+.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text.replace("-", "−")


def probability(p: float | None) -> str:
    """Format a p-value as `.034` or `< .001`; a dash for None."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
