"""From the mutual information of a window's patches to the twin of every patch, with a reason where there is none."""

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
        index: int64[N], the twin of each patch, −1 where it has none.
        reason: why a patch has no twin, empty where it has one. One of the caller's own reasons, `no candidate`
            (no admissible patch far enough), `not significant`, or `policy none`.
        candidates: int64[N, C], the admissible patches of highest mutual information, best first, −1 past the last.
        significant: bool[N, N], which admissible pairs are significant.
        admissible: bool[N, N], which pairs could be twins, whatever they share.
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

    A patch's admissible partners are those with which its mutual information is finite and which lie at least
    `min_distance` away. It gets a twin if one of them is significant: the false discovery rate over the window's pairs
    (Benjamini & Hochberg 1995) is held at `alpha`. The policies `random` and `nearest` are controls: *the same patches*
    get a twin, drawn from the same admissible partners, but not for what they share. So arms of a comparison differ in
    who the twin is and in nothing else.

    Args:
        mi: f64[N, N] nats, NaN for a pair that cannot be twins.
        p_values: f64[N, N]; without them every finite pair counts as significant.
        position: f64[N, 2] pixels, the patches' points in the first frame; needed by `nearest` and `min_distance`.
        policy: one of `POLICIES`.
        alpha: false discovery rate, 0–1.
        min_distance: pixels.
        candidates: how many of the best partners to list, C.
        excluded: N reasons, empty for a patch that may have a twin and be one.
        seed: of the random policy.

    Raises:
        ValueError: unknown policy, shapes that do not fit, or `position` missing where it is needed.
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
        raise ValueError(f"position must be shaped {(count, 2)}, a point a patch, got {points.shape}")

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
    found = Twins(index.astype(np.int64), reasons, listed, significant, admissible)
    return replace(found, index=control_twins(found, policy, position=points, seed=seed))


def control_twins(
    found: Twins, policy: str, *, position: NDArray[np.float64] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Who the same patches' twins are by a policy: int64[N], −1 where they have none.

    Args:
        found: by the policy `mutual-information`.
        policy: one of `POLICIES`.
        position: f64[N, 2] pixels, for `nearest`.
        seed: for `random`.

    Raises:
        ValueError: `nearest` without `position`.
    """
    if policy == "nearest" and position is None:
        raise ValueError("position is needed for the policy 'nearest'")
    index = found.index.copy()
    if policy == "none":
        index[:] = -1
    having = np.flatnonzero(index >= 0)
    if policy == "random":
        # A uniform draw of all admissible partners: the highest of as many uniform numbers.
        drawn = np.random.default_rng(seed).random(found.admissible.shape)
        index[having] = np.where(found.admissible, drawn, -1.0)[having].argmax(1)
    elif policy == "nearest" and position is not None:
        index[having] = np.where(found.admissible, _distance(position), np.inf)[having].argmin(1)
    return index


def _distance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))


def _significant(
    score: NDArray[np.float64], p_values: ArrayLike | None, admissible: NDArray[np.bool_], alpha: float
) -> NDArray[np.bool_]:
    """bool[N, N]: pairs kept by Benjamini–Hochberg over the window's admissible pairs, each counted once."""
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
