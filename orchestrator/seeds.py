"""Numbers over seeds: means and their intervals, and how they are written."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean over seeds, and half the width of its 95 % interval (Student's t), None for a single seed."""

    mean: float
    half: float | None


def summary(values: ArrayLike) -> Summary:
    """Mean and interval of one value a seed, f64[n], n ≥ 1."""
    array = np.asarray(values, np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Summary(mean, None)
    return Summary(mean, float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1) * array.std(ddof=1) / math.sqrt(n)))


def percent(value: Summary) -> str:
    """A share as `35.0 % ± 1.2`."""
    return f"{value.mean:.1%}".replace("%", " %") + ("" if value.half is None else f" ± {100 * value.half:.1f}")


def points(value: Summary) -> str:
    """A difference of shares, in percentage points, as `+1.5 ± 0.4`."""
    text = f"{100 * value.mean:+.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text.replace("-", "−")
