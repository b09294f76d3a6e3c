"""Nearest-neighbour mutual information of all pairs of trajectories at once, compiled by Numba.

The numbers are those of the readable forms in `mutual_information.py`.

Most of the time goes into sweeps over the T² distances of a pair. The first sweep keeps the k smallest joint distances
of every sample; the second counts the smaller distances in either margin. Both are branch-free and vectorised over
many samples, the *lanes*. For the samples t, …, t + L − 1, a *panel* holds their distances to all samples u of the same
trajectory, P[u, l] = |x_u − x_(t+l)|, in the order in which the sweeps read them.

Blocking for the caches: the panels of a block of trajectories stay in the second-level cache while they are compared
with all other trajectories, and a stretch of the partner's panel stays in the first-level cache while it is compared
with the block. Nothing of the size N·T² is stored.

Distances that must not count are infinite: of a sample to itself, within a Theiler window, and of samples that are not
visible.

Each pair is summed by one thread in a fixed order, so the result does not depend on the number of threads.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import overload
from numpy.typing import NDArray
from scipy.special import digamma

# Width of a panel: four AVX-512 registers, enough independent operations to hide the latency of an instruction.
_LANE_BYTES = 256
# Rows of a panel that a sweep handles between loading and storing the k smallest distances.
_ROWS = 8
# Rows of a partner's panel that stay in the first-level cache while they are compared with a block (16 KiB).
_STRETCH = 64
# Size of the panels of a block: most of a second-level cache.
_BLOCK_BYTES = 768 * 1024

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


def _can_cache() -> bool:
    """Whether Numba has a folder for what it compiles; it fails where neither this folder nor the home is writable."""
    try:
        numba.njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_put: Any = tuple_setitem
_CACHE = _can_cache()
_jit: Callable[..., Any] = numba.njit(cache=_CACHE, boundscheck=False, fastmath={"nsz", "arcp", "contract", "reassoc"})


def all_pairs(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    seen_x: Bool,
    seen_y: Bool,
    *,
    estimator: str,
    k: int,
    least: int,
    theiler: int = 0,
    condition: NDArray[np.floating] | None = None,
    symmetric: bool = False,
) -> Float:
    """Estimate I(x_i; y_j), or I(x_i; y_j | z), of every pair.

    Args:
        x: f32 or f64[N, T, d], finite where seen. Distances are computed in this type.
        y: [M, T, e] of the same type.
        seen_x: bool[N, T], which samples count; a pair is estimated on those that count in both.
        seen_y: bool[M, T].
        estimator: one of `options.KERNELS`.
        k: number of the nearest neighbour that sets the radius, 1 to `options.LARGEST_K`.
        least: smallest number of common samples of a pair; pairs with fewer get NaN, and so do pairs in which a sample
            has no more than k others to be compared with.
        theiler: samples at most this many frames apart are not compared.
        condition: z, [T, c] of the same type; with `ksg` only.
        symmetric: y is x: only pairs i < j are estimated, and mirrored; the diagonal is NaN.

    Returns:
        f64[N, M] nats.
    """
    length = x.shape[1]
    lanes = _lanes(x)
    psi = digamma(np.maximum(np.arange(length + 2), 1))
    result = np.full((len(x), len(y)), np.nan)
    z = np.zeros((length, 0), x.dtype) if condition is None else condition
    rows = -(-length // _ROWS) * _ROWS
    block = int(np.clip(_BLOCK_BYTES // (rows * lanes * x.dtype.itemsize), 4, 16))
    _pairs(
        _by_axis(x, lanes), _by_axis(y, lanes), _by_axis(z[None], lanes)[0], seen_x, seen_y, psi, max(least, k + 2),
        theiler, symmetric, block, numba.get_num_threads(), estimator == "ksg2", estimator == "3kl",
        condition is not None, (x.dtype.type(0),) * k, x.dtype.type(1), result,
    )  # fmt: skip
    if symmetric:
        upper = np.triu_indices(len(x), 1)
        result.T[upper] = result[upper]
    return result


def _by_axis(x: NDArray[np.floating], lanes: int) -> NDArray[np.floating]:
    """Samples [N, T, d] as [N, d, T'], padded with zeros to whole lanes."""
    count, length, dimensions = x.shape
    padded = np.zeros((count, dimensions, -(-length // lanes) * lanes), x.dtype)
    padded[:, :, :length] = np.swapaxes(x, 1, 2)
    return padded


def _lanes(x: Any) -> int:
    """Number of lanes for an array's type."""
    return _LANE_BYTES // int(x.dtype.itemsize)


@overload(_lanes, inline="always")  # a compile-time constant, which vectorisation needs; Numba prescribes the signature
def _lanes_of_type(x):
    lanes = _LANE_BYTES * 8 // x.dtype.bitwidth
    return lambda x: lanes


@_jit
def _panel(x: Any, seen: Any, first: int, theiler: int, given: Any, conditioned: bool, out: Any) -> None:
    """Chebyshev distances of all samples of one trajectory [d, T'] to samples first … first + lanes − 1."""
    lanes = _lanes(x)
    line, second = x[0], x[min(1, x.shape[0] - 1)]  # two axes in one pass, as most trajectories have two
    part, other = line[first : first + lanes], second[first : first + lanes]
    for u in range(seen.size):
        row, here, there = out[u * lanes : (u + 1) * lanes], line[u], second[u]
        for lane in range(lanes):
            row[lane] = max(abs(part[lane] - here), abs(other[lane] - there))
    for axis in range(2, x.shape[0]):
        line = x[axis]
        part = line[first : first + lanes]
        for u in range(seen.size):
            row, here = out[u * lanes : (u + 1) * lanes], line[u]
            for lane in range(lanes):
                row[lane] = max(row[lane], abs(part[lane] - here))
    for u in range(seen.size):
        if not seen[u]:
            out[u * lanes : (u + 1) * lanes] = np.inf
        else:
            begin, end = max(0, u - first - theiler), min(lanes, u - first + theiler + 1)
            if begin < end:
                out[u * lanes + begin : u * lanes + end] = np.inf
    out[seen.size * lanes :] = np.inf
    if conditioned:
        np.maximum(out, given, out)


@_jit
def _insert(best: Any, far: Any) -> Any:
    k = len(best)
    for m in range(k - 1):
        best = _put(best, k - 1 - m, min(best[k - 1 - m], max(best[k - 2 - m], far)))
    return _put(best, 0, min(best[0], far))


@_jit
def _smallest(a: Any, b: Any, start: Any, best: Any) -> None:
    """Update the k smallest joint distances of every lane, the joint distance being the larger of two panels'."""
    lanes, k = _lanes(a), len(start)
    step = _ROWS * lanes
    for row in range(0, a.size, step):
        p, q = a[row : row + step], b[row : row + step]
        for lane in range(lanes):
            held = start
            for m in range(k):
                held = _put(held, m, best[m * lanes + lane])
            held = _insert(held, max(p[lane], q[lane]))
            held = _insert(held, max(p[lanes + lane], q[lanes + lane]))
            held = _insert(held, max(p[2 * lanes + lane], q[2 * lanes + lane]))
            held = _insert(held, max(p[3 * lanes + lane], q[3 * lanes + lane]))
            held = _insert(held, max(p[4 * lanes + lane], q[4 * lanes + lane]))
            held = _insert(held, max(p[5 * lanes + lane], q[5 * lanes + lane]))
            held = _insert(held, max(p[6 * lanes + lane], q[6 * lanes + lane]))
            held = _insert(held, max(p[7 * lanes + lane], q[7 * lanes + lane]))
            for m in range(k):
                best[m * lanes + lane] = held[m]


@_jit
def _nearest(a: Any, seen: Any, start: Any, best: Any) -> None:
    """The k smallest distances in one panel, among samples at which the other trajectory is visible."""
    lanes, k = _lanes(a), len(start)
    best[:] = np.inf
    for u in range(seen.size):
        if seen[u]:
            row = a[u * lanes : (u + 1) * lanes]
            for lane in range(lanes):
                held = start
                for m in range(k):
                    held = _put(held, m, best[m * lanes + lane])
                held = _insert(held, row[lane])
                for m in range(k):
                    best[m * lanes + lane] = held[m]


@_jit
def _widest(a: Any, b: Any, radius: Any, in_a: Any, in_b: Any) -> None:
    """For KSG 2: the largest distance, in either panel, of the samples within the joint radius, rounded up."""
    lanes = _lanes(a)
    for row in range(0, a.size, lanes):
        p, q = a[row : row + lanes], b[row : row + lanes]
        for lane in range(lanes):
            inside = max(p[lane], q[lane]) <= radius[lane]
            in_a[lane] = max(in_a[lane], p[lane]) if inside else in_a[lane]
            in_b[lane] = max(in_b[lane], q[lane]) if inside else in_b[lane]
    for lane in range(lanes):  # KSG 2 counts distances equal to the radius too, while `_count` compares strictly
        in_a[lane] = np.nextafter(in_a[lane], a.dtype.type(np.inf))
        in_b[lane] = np.nextafter(in_b[lane], a.dtype.type(np.inf))


@numba.njit(inline="always")  # a call would take a third longer
def _count_rows(p: Any, radius: Any, one: Any, inside: Any) -> None:
    """Count, for each lane, the distances in `_ROWS` rows of a panel that are smaller than the lane's radius."""
    lanes = _lanes(p)
    nothing = one - one
    for lane in range(lanes):
        r = radius[lane]
        low = (one if p[lane] < r else nothing) + (one if p[lanes + lane] < r else nothing)
        low += (one if p[2 * lanes + lane] < r else nothing) + (one if p[3 * lanes + lane] < r else nothing)
        high = (one if p[4 * lanes + lane] < r else nothing) + (one if p[5 * lanes + lane] < r else nothing)
        high += (one if p[6 * lanes + lane] < r else nothing) + (one if p[7 * lanes + lane] < r else nothing)
        inside[lane] += low + high


@_jit
def _count(a: Any, radius: Any, one: Any, inside: Any) -> None:
    step = _ROWS * _lanes(a)
    for start in range(0, a.size, step):
        _count_rows(a[start : start + step], radius, one, inside)


@_jit
def _count_seen(a: Any, seen: Any, first: int, radius: Any, one: Any, inside: Any) -> None:
    """As `_count`, among samples at which the other trajectory is visible. Its branches would slow `_count` down."""
    lanes = _lanes(a)
    step = _ROWS * lanes
    nothing = one - one
    for start in range(0, a.size, step):
        u = first + start // lanes
        if np.all(seen[u : u + _ROWS]):
            _count_rows(a[start : start + step], radius, one, inside)
            continue
        for row in range(min(_ROWS, seen.size - u)):
            if seen[u + row]:
                part = a[start + row * lanes : start + (row + 1) * lanes]
                for lane in range(lanes):
                    inside[lane] += one if part[lane] < radius[lane] else nothing


@_jit
def _candidates(both: Any, theiler: int, psi: Any) -> Any:
    """Number of common samples, the smallest number n that one of them is compared with, and ⟨ψ(n + 1)⟩."""
    common, fewest, mean, near = np.sum(both), both.size, 0.0, np.sum(both[:theiler])
    for t in range(both.size):
        if t + theiler < both.size:
            near += both[t + theiler]
        if t > theiler:
            near -= both[t - theiler - 1]
        if both[t]:
            fewest = min(fewest, common - near)
            mean += psi[common - near + 1]
    return common, fewest, mean / max(common, 1)


@numba.njit(cache=_CACHE, parallel=True, boundscheck=False)
def _pairs(
    x: Any, y: Any, z: Any, seen_x: Any, seen_y: Any, psi: Any, least: int, theiler: int, symmetric: bool,
    block: int, threads: int, ksg2: bool, three_kl: bool, conditioned: bool, start: Any, one: Any, result: Any,
) -> None:  # fmt: skip
    lanes, k = _lanes(x), len(start)
    stretch, length, blocks = _STRETCH * lanes, seen_x.shape[1], -(-len(x) // block)
    size = -(-length // _ROWS) * _ROWS * lanes
    d_x, d_y = x.shape[1], y.shape[1]
    kth = (k - 1) * lanes
    always = np.ones(length, np.bool_)
    whole = np.all(seen_x) and np.all(seen_y)
    own = 0 if ksg2 else 1  # ψ(n_x + 1) in KSG 1, ψ(n_x) in KSG 2
    for thread in numba.prange(threads):
        mine, theirs, given = np.empty((block, size), x.dtype), np.empty(size, x.dtype), np.empty(size, x.dtype)
        best, both = np.empty((block, k * lanes), x.dtype), np.ones((block, length), np.bool_)
        margin_x, margin_y = np.empty((block, k * lanes), x.dtype), np.empty(k * lanes, x.dtype)
        radius_x, radius_y = np.empty((block, lanes), x.dtype), np.empty((block, lanes), x.dtype)
        n_x, n_y = np.empty((block, lanes), x.dtype), np.empty((block, lanes), x.dtype)
        n_z = np.empty((block, lanes), x.dtype)
        total = np.empty((block, len(y)))
        for turn in range(blocks):
            # Early blocks have more partners than late ones, so threads take blocks in the order 0 1 … 1 0 0 1 ….
            phase = turn % (2 * threads)
            if phase != thread and phase != 2 * threads - 1 - thread:
                continue
            begin = turn * block
            end = min(len(x), begin + block)
            total[:] = 0
            for first in range(0, length, lanes):
                width = min(lanes, length - first)
                if conditioned:
                    _panel(z, always, first, theiler, given, False, given)
                for i in range(begin, end):
                    _panel(x[i], seen_x[i], first, theiler, given, conditioned, mine[i - begin])
                    if three_kl:
                        _nearest(mine[i - begin], always, start, margin_x[i - begin])
                for j in range(begin + 1 if symmetric else 0, len(y)):
                    rows = min(end, j) - begin if symmetric else end - begin
                    _panel(y[j], seen_y[j], first, theiler, given, conditioned, theirs)
                    if three_kl:
                        _nearest(theirs, always, start, margin_y)
                    for i in range(0 if whole else rows):
                        both[i] = seen_x[begin + i] & seen_y[j]
                    best[:] = np.inf
                    for at in range(0, size, stretch):
                        other = theirs[at : at + stretch]
                        for i in range(rows):
                            _smallest(mine[i, at : at + stretch], other, start, best[i])
                    if three_kl:
                        for i in range(rows):
                            if not whole:
                                _nearest(mine[i], seen_y[j], start, margin_x[i])
                                _nearest(theirs, seen_x[begin + i], start, margin_y)
                            for lane in range(width):
                                if both[i, first + lane]:
                                    x_alone, y_alone = np.log(margin_x[i, kth + lane]), np.log(margin_y[kth + lane])
                                    total[i, j] += (d_x + d_y) * np.log(best[i, kth + lane])
                                    total[i, j] -= d_x * x_alone + d_y * y_alone
                        continue
                    radius_x[:], radius_y[:] = best[:, kth:], best[:, kth:]
                    if ksg2:
                        radius_x[:], radius_y[:] = 0, 0
                        for i in range(rows):
                            _widest(mine[i], theirs, best[i, kth:], radius_x[i], radius_y[i])
                    n_x[:], n_y[:], n_z[:] = 0, 0, 0
                    for at in range(0, size, stretch):
                        other, u = theirs[at : at + stretch], at // lanes
                        for i in range(rows):
                            part = mine[i, at : at + stretch]
                            if whole:
                                _count(part, radius_x[i], one, n_x[i])
                                _count(other, radius_y[i], one, n_y[i])
                            else:
                                _count_seen(part, seen_y[j], u, radius_x[i], one, n_x[i])
                                _count_seen(other, seen_x[begin + i], u, radius_y[i], one, n_y[i])
                            if conditioned:
                                _count_seen(given[at : at + stretch], both[i], u, best[i, kth:], one, n_z[i])
                    for i in range(rows):
                        for lane in range(width):
                            if both[i, first + lane]:
                                total[i, j] += psi[int(n_x[i, lane]) + own] + psi[int(n_y[i, lane]) + own]
                                if conditioned:
                                    total[i, j] -= psi[int(n_z[i, lane]) + 1]
            for i in range(begin, end):
                if whole:
                    common, fewest, mean_psi = _candidates(always, theiler, psi)
                for j in range(i + 1 if symmetric else 0, len(y)):
                    if not whole:
                        common, fewest, mean_psi = _candidates(seen_x[i] & seen_y[j], theiler, psi)
                    if common >= least and fewest > k:
                        base = (-psi[k] if three_kl else psi[k]) - (1 / k if ksg2 else 0.0)
                        result[i, j] = base + (0.0 if conditioned else mean_psi) - total[i - begin, j] / common
