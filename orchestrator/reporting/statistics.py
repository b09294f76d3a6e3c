"""Statistics over seeds and test images: means with confidence intervals, paired t-tests, and how they are printed."""

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, norm, t, ttest_1samp, ttest_rel

CONFIDENCE = 0.95
Z = float(norm.ppf(0.5 + CONFIDENCE / 2))
ROUNDING = 1e-9  # differences whose range is below this share of the values are equal up to rounding

Unit = TypeVar("Unit", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean over n seeds, with its 95 % confidence interval.

    Attributes:
        mean: over the seeds.
        half: half the width of the interval over seeds (Student's t); None for a single seed.
        n: number of seeds.
        bounds: ends of the interval of a single seed over test images or sequences, see `of_images`, `of_units`,
            `mean_of` and `between`; None if unknown.
    """

    mean: float
    half: float | None
    n: int
    bounds: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The lower and upper bound, over seeds, test images or sequences; None without an interval."""
        return self.bounds if self.half is None else (self.mean - self.half, self.mean + self.half)


@dataclass(frozen=True)
class Paired:
    """Paired differences between two conditions, over n seeds or other units.

    Attributes:
        difference: their mean and its interval.
        p: two-sided p-value of the paired t-test; None with fewer than two pairs, and for equal differences, which have
            no variance to test against.
        q: the p-value adjusted for the false discovery rate, see `corrected`.
        independent: of one seed, whether the interval takes the two conditions as independent, see `between`.
    """

    difference: Summary
    p: float | None
    q: float | None = None
    independent: bool = False


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


def of_images(share: float, images: int) -> Summary:
    """An accuracy of one seed, a share of this many test images, with its interval over them (Wilson 1927)."""
    if not math.isfinite(share):
        return Summary(share, None, 1)
    weight = 1 / (1 + Z**2 / images)
    centre = weight * (share + Z**2 / (2 * images))
    half = weight * Z * math.sqrt(share * (1 - share) / images + (Z / (2 * images)) ** 2)
    return Summary(share, None, 1, (max(0.0, centre - half), min(1.0, centre + half)))


def of_units(mean: float, influence: ArrayLike, ends: tuple[float, float] = (0.0, 1.0)) -> Summary:
    """A mean of one seed with its interval over the units that it is of, such as the sequences (Student's t).

    Args:
        mean: the mean.
        influence: f64[n], how much each of n independent units moves it to first order. Of a plain mean that is
            (value − mean) / n, and the interval is that of `summary`. Of a mean over the members of units of different
            sizes it is the sum of (member − mean) / all members (a ratio estimate, Cochran 1977, chapter 6).
        ends: what the mean cannot exceed.

    Returns:
        Without an interval if the units are all alike: how units vary is then not known.
    """
    moved = np.asarray(influence, np.float64)
    n = len(moved)
    if n < 2 or not np.isfinite([mean, *moved]).all() or not np.ptp(moved):
        return Summary(mean, None, 1)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * math.sqrt(n / (n - 1) * float(moved @ moved))
    return Summary(mean, None, 1, (max(ends[0], mean - half), min(ends[1], mean + half)))


def mean_of(shares: Sequence[Summary]) -> Summary:
    """The mean of independent shares of one seed, its interval combined from theirs as in `between` (MOVER)."""
    mean = float(np.mean([share.mean for share in shares]))
    if any(share.bounds is None for share in shares):
        return Summary(mean, None, 1)
    low, high = np.array([share.bounds for share in shares]).T
    each = np.array([share.mean for share in shares])
    below, above = (float(np.linalg.norm(lengths)) / len(shares) for lengths in (each - low, high - each))
    return Summary(mean, None, 1, (mean - below, mean + above))


def of_same_units(each: Sequence[Summary]) -> Summary:
    """The mean of numbers of one seed that were measured on the same units, such as those of several frameworks.

    How they vary together is not known. The ends of its interval are the means of theirs, as if each unit moved all of
    them alike, so that it is rather too wide. It has none if one of them has none.
    """
    mean = float(np.mean([of.mean for of in each]))
    bounds = [of.bounds for of in each if of.bounds is not None]
    if len(bounds) < len(each):
        return Summary(mean, None, 1)
    low, high = np.mean(bounds, axis=0).tolist()
    return Summary(mean, None, 1, (low, high))


def between(treatment: Summary, reference: Summary) -> Summary:
    """The difference of two accuracies of one seed: treatment − reference.

    Its interval takes the two as independent (Newcombe 1998, method 10). They are of the same images, so that it is
    too wide rather than too narrow, unless one is right where the other is wrong. Without their intervals it has none.
    """
    difference = treatment.mean - reference.mean
    if treatment.bounds is None or reference.bounds is None:
        return Summary(difference, None, 1)
    below = math.hypot(treatment.mean - treatment.bounds[0], reference.bounds[1] - reference.mean)
    above = math.hypot(treatment.bounds[1] - treatment.mean, reference.mean - reference.bounds[0])
    return Summary(difference, None, 1, (difference - below, difference + above))


def seeds_for(difference: Summary, half: float) -> int | None:
    """How many seeds would give an interval of ± `half`, if they vary as these do; None for one seed or over 100."""
    if difference.half is None:
        return None
    deviation = difference.half * math.sqrt(difference.n) / float(t.ppf(0.5 + CONFIDENCE / 2, difference.n - 1))
    enough = (n for n in range(2, 101) if float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation <= half * math.sqrt(n))
    return next(enough, None)


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
    """Format a share as `35.0 % ± 1.2`, or `35.0 % (33.9–36.3)` where the interval is not over seeds."""
    return f"{100 * value.mean:.1f} %" + margin(value)


def margin(value: Summary) -> str:
    """The interval of a share in percent, as it stands behind the mean: ` ± 1.2`, ` (33.9–36.3)`, or nothing."""
    if value.half is None and value.bounds:
        low, high = value.bounds
        return f" ({100 * low:.1f}–{100 * high:.1f})"
    return "" if value.half is None else f" ± {100 * value.half:.1f}"


def points(value: Summary, unit: str = "") -> str:
    """Format a difference of shares in percentage points, as `+1.5 ± 0.4` or `+1.5 (−0.3 to +3.3)`.

    With a unit in the middle of a sentence: `+1.5 ± 0.4 points`, `+1.5 points, −0.3 to +3.3`.
    """
    text = f"{100 * value.mean:+.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    text += f" {unit}" if unit else ""
    if value.half is None and value.bounds:
        low, high = (f"{100 * bound:+.1f}" for bound in value.bounds)
        text += f", {low} to {high}" if unit else f" ({low} to {high})"
    return text.replace("-", "−")


def probability(p: float | None) -> str:
    """Format a p-value as `.034` or `< .001`; a dash for None."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
