"""Kraskov's estimator for all pairs of trajectories at once, compiled by numba: the numbers of one pair at a time.

The time goes into two sweeps over T² distances a pair: keep the k smallest joint distances of every sample, and count
the smaller ones in either margin. Both are branch-free and run over `LANES` samples at once. For as many
samples t, a *panel* holds the distances of one trajectory to all others, P[u, l] = |x_u − x_(t+l)|, row by row as the
sweeps read them. Panels of a block of trajectories are kept while all their partners pass by, so that nothing of the
size N·T² is ever stored. What must not count is at infinity: a sample itself, and samples that are not visible.

Each pair is summed by one thread in one order: the result does not depend on the number of threads.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba.cpython.unsafe.tuple import tuple_setitem
from numpy.typing import NDArray
from scipy.special import digamma

LANES = 32
# Rows of a panel that a sweep takes at a time: as many as leave the k smallest in registers in between.
_ROWS = 8
# Trajectories whose panels are kept while their partners pass by: they stay in the second-level cache.
_BLOCK = 16
# The k smallest of a sample are kept in registers; more would not fit.
LARGEST_K = 10

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]

_put: Any = tuple_setitem
_jit: Callable[..., Any] = numba.njit(cache=True, boundscheck=False, fastmath={"nsz", "arcp", "contract", "reassoc"})


def ksg_pairs(
    x: NDArray[np.floating], y: NDArray[np.floating], seen_x: Bool, seen_y: Bool, k: int, least: int, *, symmetric: bool
) -> Float:
    """Estimate I(x_i; y_j) of every pair by KSG 1 (Kraskov, Stögbauer & Grassberger 2004, eq. 8).

    Args:
        x: f32 or f64[N, T, d], finite where seen. Distances are taken in its type.
        y: [M, T, d] of the same type.
        seen_x: bool[N, T], which samples count; a pair is estimated on those that count in both.
        seen_y: bool[M, T].
        k: which neighbour, 1 to `LARGEST_K`.
        least: pairs with fewer common samples than this, or than k + 1, get NaN.
        symmetric: y is x: only i < j is estimated, and mirrored; the diagonal is NaN.

    Returns:
        f64[N, M] nats.
    """
    length = x.shape[1]
    psi = digamma(np.maximum(np.arange(length + 2), 1))
    result = np.full((len(x), len(y)), np.nan)
    whole = bool(seen_x.all() and seen_y.all())
    start = (x.dtype.type(0),) * k
    one = x.dtype.type(1)
    _kernel(k)(_lanes(x), _lanes(y), seen_x, seen_y, psi, max(least, k + 1), symmetric, whole, start, one, result)
    if symmetric:
        upper = np.triu_indices(len(x), 1)
        result.T[upper] = result[upper]
    return result


def _lanes(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Samples [N, T, d] as [N, d, T'], padded with zeros to whole lanes."""
    count, length, dimensions = x.shape
    padded = np.zeros((count, dimensions, -(-length // LANES) * LANES), x.dtype)
    padded[:, :, :length] = np.swapaxes(x, 1, 2)
    return padded


@_jit
def _panel(x: Any, seen: Any, first: int, out: Any) -> None:
    """Chebyshev distances of all samples of one trajectory [d, T'] to samples first … first + LANES − 1."""
    for axis in range(x.shape[0]):
        line = x[axis]
        part = line[first : first + LANES]
        for u in range(seen.size):
            here = line[u]
            row = out[u * LANES : (u + 1) * LANES]
            if axis == 0:
                for lane in range(LANES):
                    row[lane] = abs(part[lane] - here)
            else:
                for lane in range(LANES):
                    row[lane] = max(row[lane], abs(part[lane] - here))
    for u in range(seen.size):
        if not seen[u]:
            out[u * LANES : (u + 1) * LANES] = np.inf
        elif 0 <= u - first < LANES:
            out[u * LANES + u - first] = np.inf
    out[seen.size * LANES :] = np.inf


@_jit
def _count(panel: Any, seen: Any, radius: Any, one: Any, inside: Any) -> None:
    """How many distances of each lane are smaller than its radius, among samples that the other trajectory shows."""
    inside[:] = 0
    nothing = one - one
    for start in range(0, panel.size, _ROWS * LANES):
        u = start // LANES
        p = panel[start : start + _ROWS * LANES]
        if not np.all(seen[u : u + _ROWS]):
            for row in range(min(_ROWS, seen.size - u)):
                if seen[u + row]:
                    part = p[row * LANES : (row + 1) * LANES]
                    for lane in range(LANES):
                        inside[lane] += one if part[lane] < radius[lane] else nothing
            continue
        for lane in range(LANES):
            r = radius[lane]
            low = (one if p[lane] < r else nothing) + (one if p[LANES + lane] < r else nothing)
            low += (one if p[2 * LANES + lane] < r else nothing) + (one if p[3 * LANES + lane] < r else nothing)
            high = (one if p[4 * LANES + lane] < r else nothing) + (one if p[5 * LANES + lane] < r else nothing)
            high += (one if p[6 * LANES + lane] < r else nothing) + (one if p[7 * LANES + lane] < r else nothing)
            inside[lane] += low + high


@lru_cache
def _kernel(k: int) -> Callable[..., None]:
    """Compile for one k, since the k smallest are kept in registers of their own."""

    @_jit
    def insert(best: Any, far: Any) -> Any:
        for m in range(k - 1):
            best = _put(best, k - 1 - m, min(best[k - 1 - m], max(best[k - 2 - m], far)))
        return _put(best, 0, min(best[0], far))

    @_jit
    def smallest(a: Any, b: Any, start: Any, best: Any) -> None:
        best[:] = np.inf
        for row in range(0, a.size, _ROWS * LANES):
            p, q = a[row : row + _ROWS * LANES], b[row : row + _ROWS * LANES]
            for lane in range(LANES):
                held = start
                for m in range(k):
                    held = _put(held, m, best[m * LANES + lane])
                held = insert(held, max(p[lane], q[lane]))
                held = insert(held, max(p[LANES + lane], q[LANES + lane]))
                held = insert(held, max(p[2 * LANES + lane], q[2 * LANES + lane]))
                held = insert(held, max(p[3 * LANES + lane], q[3 * LANES + lane]))
                held = insert(held, max(p[4 * LANES + lane], q[4 * LANES + lane]))
                held = insert(held, max(p[5 * LANES + lane], q[5 * LANES + lane]))
                held = insert(held, max(p[6 * LANES + lane], q[6 * LANES + lane]))
                held = insert(held, max(p[7 * LANES + lane], q[7 * LANES + lane]))
                for m in range(k):
                    best[m * LANES + lane] = held[m]

    @numba.njit(cache=True, parallel=True, boundscheck=False)
    def pairs(
        x: Any, y: Any, seen_x: Any, seen_y: Any, psi: Any, least: int, symmetric: bool, whole: bool, start: Any,
        one: Any, result: Any,
    ) -> None:  # fmt: skip
        length = seen_x.shape[1]
        size = -(-length // _ROWS) * _ROWS * LANES
        blocks = -(-len(x) // _BLOCK)
        for turn_of in numba.prange(blocks):
            # Early blocks have more partners than late ones; each thread gets as many of both.
            block = turn_of // 2 if turn_of % 2 == 0 else blocks - 1 - turn_of // 2
            begin = block * _BLOCK
            end = min(len(x), begin + _BLOCK)
            mine, theirs = np.empty((end - begin, size), x.dtype), np.empty(size, x.dtype)
            best, inside = np.empty(k * LANES, x.dtype), np.empty(LANES, x.dtype)
            radius = best[(k - 1) * LANES :]
            total = np.zeros((end - begin, len(y)))
            for first in range(0, length, LANES):
                width = min(LANES, length - first)
                for i in range(begin, end):
                    _panel(x[i], seen_x[i], first, mine[i - begin])
                for j in range(begin + 1 if symmetric else 0, len(y)):
                    _panel(y[j], seen_y[j], first, theirs)
                    for i in range(begin, min(end, j) if symmetric else end):
                        smallest(mine[i - begin], theirs, start, best)
                        for side in range(2):
                            if side == 0:
                                _count(mine[i - begin], seen_y[j], radius, one, inside)
                            else:
                                _count(theirs, seen_x[i], radius, one, inside)
                            for lane in range(width):
                                if whole or (seen_x[i, first + lane] and seen_y[j, first + lane]):
                                    total[i - begin, j] += psi[int(inside[lane]) + 1]
            for i in range(begin, end):
                for j in range(i + 1 if symmetric else 0, len(y)):
                    common = length if whole else np.sum(seen_x[i] & seen_y[j])
                    if common >= least:
                        result[i, j] = psi[k] + psi[common] - total[i - begin, j] / common

    return pairs
