"""Colours of patches without the light that they share: one gain for a frame, or bands of flicker along its rows."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

Float = NDArray[np.float64]

_DARK = 0.02  # below this, a ratio of colours is mostly noise
_KNOTS = 14  # coefficients of a spline over the rows: enough for three bands in a frame
_PATCHES_A_KNOT = 8
_FOLDS = 4
_BANDS = 0.7  # bands are taken out if they leave less than this share of what one gain leaves
_STIFFNESS = 1e-3  # of the spline, where few patches are
_ROUNDS = 4  # of reweighting
_OUTLIER = 4.0  # standard deviations from which a patch does not count, such as one whose own colour changes


def without_lighting(colour: ArrayLike, visible: ArrayLike, rows: ArrayLike | None = None) -> Float:
    """Colours of patches without changes of the light that they share.

    A change of light is modelled as one gain for each channel and frame: the median, over the visible patches, of the
    ratio of a patch's colour to its median over time. Patches darker than 0.02 are not used. Lamps on mains current
    and a rolling shutter make bands instead, a gain for each row: a spline over the rows, fitted to each frame without
    outliers. It takes the place of the single gain if it predicts patches that it was not fitted to, in the median,
    30 % better.

    Args:
        colour: [N, T, 3], from 0 to 1.
        visible: bool[N, T].
        rows: [N, T], the row of each patch's point, pixels; None: no bands are looked for.

    Returns:
        f64[N, T, 3].
    """
    values, seen = np.asarray(colour, np.float64), np.asarray(visible, bool)[..., None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a patch that is never visible, or a frame without a lit patch
        usual = np.nanmedian(np.where(seen, values, np.nan), axis=1, keepdims=True)
        ratio = np.where(seen & (usual > _DARK), values, np.nan) / usual
        gain = np.nanmedian(ratio, axis=0)
    gain = np.where(gain > 0, gain, 1.0)
    if rows is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.log(ratio / gain)
        rest[~np.isfinite(rest)] = np.nan
        return values / (gain * np.exp(_bands(rest, np.asarray(rows, np.float64))))
    return values / gain


def _bands(rest: Float, rows: Float) -> Float:
    """The logarithm of each row's gain, where the patches are: f64[N, T, 3]; 0 if no bands are found.

    Args:
        rest: f64[N, T, 3], what one gain a frame leaves of a patch's colour, logarithms; NaN where not known.
        rows: f64[N, T] pixels.
    """
    lit = np.isfinite(rest).any(2)
    size = min(_KNOTS, int(np.median(lit.sum(0))) // _PATCHES_A_KNOT) if lit.size else 0
    found = np.zeros_like(rest)
    if size < 5 or np.ptp(rows[lit]) == 0:
        return found
    low, high = rows[lit].min(), rows[lit].max()
    knots = np.concatenate([[low] * 3, np.linspace(low, high, size - 2), [high] * 3])
    fold = np.arange(len(rest)) % _FOLDS
    predicted = np.full_like(rest, np.nan)
    for t in range(rest.shape[1]):
        basis = BSpline.design_matrix(np.clip(rows[:, t], low, high), knots, 3).toarray()
        for channel in range(rest.shape[2]):
            now = rest[:, t, channel]
            found[:, t, channel] = basis @ _robust_fit(basis, now)
            for number in range(_FOLDS):
                own = fold == number
                predicted[own, t, channel] = basis[own] @ _robust_fit(basis[~own], now[~own])
    known = np.isfinite(rest)
    left, before = np.median(np.abs(rest - predicted)[known]), np.median(np.abs(rest)[known])
    return found if left < _BANDS * before else np.zeros_like(found)


def _robust_fit(basis: Float, values: Float) -> Float:
    """Coefficients of a smooth spline through most of the values, by Tukey's biweight; NaN are left out."""
    known = np.isfinite(values)
    basis, values = basis[known], values[known]
    bend = np.diff(np.eye(basis.shape[1]), 2, axis=0)
    stiff = _STIFFNESS * max(1, len(values)) / basis.shape[1] * bend.T @ bend + 1e-9 * np.eye(basis.shape[1])
    weights, coefficients = np.ones(len(values)), np.zeros(basis.shape[1])
    for _ in range(_ROUNDS if len(values) else 0):
        weighted = basis * weights[:, None]
        coefficients = np.linalg.solve(basis.T @ weighted + stiff, weighted.T @ values)
        off = values - basis @ coefficients
        scale = _OUTLIER * 1.4826 * np.median(np.abs(off)) + 1e-12
        weights = np.clip(1 - (off / scale) ** 2, 0.0, None) ** 2
    return coefficients
