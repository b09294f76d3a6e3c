"""How long one estimate of mutual information takes on this machine, by the number of observations."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.information.mutual_information import mutual_information, pairwise_mutual_information

K, DIMENSIONS = 3, 2
ESTIMATORS = {"ksg": "KSG, all pairs at once", "3kl": "3KL, all pairs at once", "npeet": "KSG by NPEET, pair by pair"}


def estimation_times(
    lengths: Sequence[int] = (32, 64, 128, 256, 512), pairs: int = 496, npeet_pairs: int = 8, repeats: int = 3
) -> list[dict[str, Any]]:
    """Time the estimators on independent random walks, f64, d = 2, k = 3, on one thread.

    The best of some repeats counts, after one that compiles.

    Args:
        lengths: observations of a trajectory.
        pairs: at least so many for the kernel, which does all pairs of some trajectories.
        npeet_pairs: so many for NPEET, which does one after the other.
        repeats: of each measurement.

    Returns:
        A row for each estimator of `ESTIMATORS` and length: `estimator`, `observations`, `pairs`, `ms_per_pair`, and
        `machine`, the name of the processor.

    Raises:
        ValueError: a length that is too short to estimate from, or fewer than one pair or repeat.
    """
    if min(lengths, default=K + 2) < K + 2 or min(pairs, npeet_pairs, repeats) < 1:
        raise ValueError(f"lengths must be at least {K + 2}, pairs and repeats at least 1: give larger numbers")
    count = int(np.ceil((1 + np.sqrt(1 + 8 * pairs)) / 2))  # trajectories with at least so many pairs
    threads, machine = numba.get_num_threads(), processor()
    rows: list[dict[str, Any]] = []
    work: Callable[[], Any]
    numba.set_num_threads(1)
    try:
        for length in lengths:
            walks = np.random.default_rng(length).normal(size=(count, length, DIMENSIONS)).cumsum(1)
            walks = (walks - walks.mean(1, keepdims=True)) / walks.std(1, keepdims=True)
            chosen = list(combinations(range(count), 2))
            for estimator in ESTIMATORS:
                if estimator == "npeet":
                    work, done = partial(_by_npeet, walks, chosen[:npeet_pairs]), min(npeet_pairs, len(chosen))
                else:
                    work = partial(pairwise_mutual_information, walks, estimator=estimator, k=K, backend="cpu")
                    done = len(chosen)
                row = {"estimator": estimator, "observations": length, "pairs": done, "machine": machine}
                rows.append(row | {"ms_per_pair": 1000 * _best(work, repeats) / done})
    finally:
        numba.set_num_threads(threads)
    return rows


def processor() -> str:
    """The name of this machine's processor, as well as it is known."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _by_npeet(walks: NDArray[np.float64], chosen: Iterable[tuple[int, int]]) -> None:
    for i, j in chosen:
        mutual_information(walks[i], walks[j], estimator="npeet", k=K)


def _best(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest repeat, after one that does not count."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])
