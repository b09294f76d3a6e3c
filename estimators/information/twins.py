"""From the mutual information of a window's patches to their twins, with a reason for every patch without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from infoaug.estimators.options import POLICIES


@dataclass(frozen=True)
class Twins:
    """The twins of a window's N patches.

    Attributes:
        index: int64[N], the twin of each patch, −1 for none.
        reason: N texts, why a patch has no twin, empty for a patch with a twin: one of the caller's `excluded`,
            `no candidate` (no admissible partner), `not significant`, or `policy none`.
        candidates: int64[N, C], the admissible partners of highest mutual information, best first, padded with −1.
        significant: bool[N, N], which admissible pairs are significant.
        admissible: bool[N, N], which pairs may be twins, before the test for significance.
    """

    index: NDArray[np.int64]
    reason: list[str]
    candidates: NDArray[np.int64]
    significant: NDArray[np.bool_]
    admissible: NDArray[np.bool_]


def find_twins(
    mi: ArrayLike,
    *,
    p_values: ArrayLike | None = None,
    position: ArrayLike | None = None,
    policy: str = "mutual-information",
    alpha: float = 0.05,
    min_distance: float = 0.0,
    candidates: int = 3,
    excluded: Sequence[str] | None = None,
    seed: int = 0,
) -> Twins:
    """Choose a twin for every patch of a window.

    Two patches are admissible partners if their mutual information is finite and they are at least `min_distance`
    apart. A patch gets a twin if it has a significant partner: the false discovery rate over the window's admissible
    pairs is controlled at `alpha` (Benjamini & Hochberg 1995). The policy `mutual-information` takes the significant
    partner of highest mutual information.

    The policies `random` and `nearest` are controls. They give a twin to *the same patches*, chosen from the same
    admissible partners but without regard to mutual information, so that the arms of a comparison differ only in which
    patch is the twin.

    Args:
        mi: f64[N, N] nats, NaN for pairs that cannot be twins.
        p_values: f64[N, N]; None: every admissible pair counts as significant.
        position: f64[N, 2] pixels, the patches' points in the first frame; needed for `nearest` and `min_distance`.
        policy: one of `POLICIES`.
        alpha: false discovery rate, 0–1.
        min_distance: smallest distance of twins, pixels.
        candidates: how many of the best partners to list, C.
        excluded: N texts, why a patch can neither have nor be a twin, empty if it can.
        seed: of the policy `random`.

    Raises:
        ValueError: unknown policy, wrong shapes, or `position` is needed and missing.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown twin policy '{policy}': choose one of {', '.join(POLICIES)}")
    score = np.array(mi, dtype=np.float64)
    count = len(score)
    if score.shape != (count, count):
        raise ValueError(f"mi must be a square matrix, got shape {score.shape}")
    reasons = list(excluded) if excluded is not None else [""] * count
    if len(reasons) != count:
        raise ValueError(f"{len(reasons)} reasons given for {count} patches")
    if position is None and (policy == "nearest" or min_distance > 0):
        raise ValueError("position is needed for the policy 'nearest' and for min_distance > 0")
    points = None if position is None else np.asarray(position, np.float64)[..., :2]
    if points is not None and points.shape != (count, 2):
        raise ValueError(f"position must be shaped {(count, 2)}, one point a patch, got {points.shape}")

    kept = np.array([not r for r in reasons], dtype=bool)
    admissible = np.isfinite(score) & kept[:, None] & kept[None, :] & ~np.eye(count, dtype=bool)
    if points is not None:
        admissible &= _distance(points) >= min_distance
    significant = admissible & _significant(score, p_values, admissible, alpha)

    ranked = np.where(admissible, score, -np.inf)
    order = np.argsort(-ranked, axis=1, kind="stable")[:, :candidates]
    listed = np.full((count, candidates), -1, dtype=np.int64)
    listed[:, : order.shape[1]] = np.where(np.take_along_axis(admissible, order, axis=1), order, -1)

    index = np.where(significant.any(1), np.where(significant, score, -np.inf).argmax(1), -1) if count else np.zeros(0)
    for patch in np.flatnonzero(kept):
        if policy == "none":
            reasons[patch] = "policy none"
        elif not admissible[patch].any():
            reasons[patch] = "no candidate"
        elif index[patch] < 0:
            reasons[patch] = "not significant"
    twins = Twins(index.astype(np.int64), reasons, listed, significant, admissible)
    return replace(twins, index=control_twins(twins, policy, position=points, seed=seed))


def control_twins(
    twins: Twins, policy: str, *, position: NDArray[np.float64] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Twins that another policy gives to the same patches.

    Args:
        twins: those of the policy `mutual-information`.
        policy: one of `POLICIES`.
        position: f64[N, 2] pixels, for `nearest`.
        seed: for `random`.

    Returns:
        int64[N], −1 for none.

    Raises:
        ValueError: `nearest` without `position`.
    """
    if policy == "nearest" and position is None:
        raise ValueError("position is needed for the policy 'nearest'")
    index = twins.index.copy()
    if policy == "none":
        index[:] = -1
    with_twin = np.flatnonzero(index >= 0)
    if policy == "random":
        # The partner with the largest of independent uniform numbers is a uniform draw.
        drawn = np.random.default_rng(seed).random(twins.admissible.shape)
        index[with_twin] = np.where(twins.admissible, drawn, -1.0)[with_twin].argmax(1)
    elif policy == "nearest" and position is not None:
        index[with_twin] = np.where(twins.admissible, _distance(position), np.inf)[with_twin].argmin(1)
    return index


def _distance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))


def _significant(
    score: NDArray[np.float64], p_values: ArrayLike | None, admissible: NDArray[np.bool_], alpha: float
) -> NDArray[np.bool_]:
    """Pairs that Benjamini–Hochberg accepts among the window's admissible pairs, each counted once: bool[N, N]."""
    if p_values is None:
        return np.ones_like(admissible)
    p = np.asarray(p_values, np.float64)
    if p.shape != score.shape:
        raise ValueError(f"p_values must be shaped like mi {score.shape}, got {p.shape}")
    kept = np.zeros_like(admissible)
    i, j = np.nonzero(np.triu(admissible & np.isfinite(p), 1))
    if len(i):
        kept[i, j] = kept[j, i] = false_discovery_control(p[i, j], method="bh") <= alpha
    return kept
