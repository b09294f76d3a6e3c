"""From the mutual information of a window's patches to their twins, with a reason for every patch without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infoaug.estimators.options import OTHER_WINDOWS, POLICIES

_ALIKE = 1.2  # distances of exchanged twins that differ by at most this factor count as equal


@dataclass(frozen=True)
class Twins:
    """The twins of a window's N patches.

    Attributes:
        index: int64[N], the twin of each patch, −1 for none.
        reason: N texts, why a patch has no twin, empty for a patch with a twin: one of the caller's `excluded`,
            `no candidate` (no admissible partner), `not significant`, `not mutual`, or `policy none`.
        candidates: int64[N, C], the admissible partners of highest rank, best first, padded with −1.
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
    rank: ArrayLike | None = None,
    position: ArrayLike | None = None,
    policy: str = "mutual-information",
    correlation: ArrayLike | None = None,
    objects: ArrayLike | None = None,
    alpha: float = 0.05,
    min_distance: float = 0.0,
    mutual: int = 0,
    candidates: int = 5,
    excluded: Sequence[str] | None = None,
    seed: int = 0,
) -> Twins:
    """Choose a twin for every patch of a window.

    Two patches are admissible partners if their mutual information is finite and they are at least `min_distance`
    apart. A patch gets a twin if it has a significant partner: the false discovery rate over the window's admissible
    pairs is controlled at `alpha` (Benjamini & Hochberg 1995). With whom the dependence is strongest is another
    question: the policy `mutual-information` takes the partner of highest `rank` among those whose own p-value is at
    most `alpha`. With `mutual`, each must be among the other's best so many.

    The other policies are controls. They give a twin to *the same patches*, chosen from the same admissible partners
    but without regard to mutual information, so that the arms of a comparison differ only in which patch is the twin;
    see `control_twins`.

    Args:
        mi: f64[N, N] nats, NaN for pairs that cannot be twins.
        p_values: f64[N, N]; None: every admissible pair counts as significant.
        rank: f64[N, N], how strong a dependence is, to choose among partners; None: `mi`.
        position: f64[N, 2] pixels, the patches' points in the first frame; needed for `nearest`, `shuffled` and
            `min_distance`.
        policy: one of `POLICIES`, except those of `OTHER_WINDOWS`.
        correlation: f64[N, N], for the policy `correlation`.
        objects: int[N], for the policy `oracle`.
        alpha: false discovery rate, 0–1.
        min_distance: smallest distance of twins, pixels.
        mutual: patch and twin are each among the other's best so many partners; 1: each other's best; 0: any twin.
        candidates: how many of the best partners to list, C.
        excluded: N texts, why a patch can neither have nor be a twin, empty if it can.
        seed: of the policies with chance in them.

    Raises:
        ValueError: unknown policy, wrong shapes, or what the policy needs is missing.
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
    if position is None and min_distance > 0:
        raise ValueError("position is needed for min_distance > 0")
    points = None if position is None else np.asarray(position, np.float64)[..., :2]
    if points is not None and points.shape != (count, 2):
        raise ValueError(f"position must be shaped {(count, 2)}, one point a patch, got {points.shape}")

    kept = np.array([not r for r in reasons], dtype=bool)
    admissible = np.isfinite(score) & kept[:, None] & kept[None, :] & ~np.eye(count, dtype=bool)
    if points is not None:
        admissible &= _distance(points) >= min_distance
    significant = admissible & _significant(score, p_values, admissible, alpha)
    strength = score if rank is None else np.array(rank, dtype=np.float64)
    if strength.shape != score.shape:
        raise ValueError(f"rank must be shaped like mi {score.shape}, got {strength.shape}")

    ranked = np.where(admissible & np.isfinite(strength), strength, -np.inf)
    order = np.argsort(-ranked, axis=1, kind="stable")[:, :candidates]
    listed = np.full((count, candidates), -1, dtype=np.int64)
    listed[:, : order.shape[1]] = np.where(np.take_along_axis(admissible, order, axis=1), order, -1)

    passed = admissible if p_values is None else admissible & (np.nan_to_num(np.asarray(p_values), nan=1.0) <= alpha)
    eligible = np.where(passed | significant, ranked, -np.inf)
    if mutual:
        place = np.argsort(np.argsort(-eligible, axis=1, kind="stable"), axis=1)
        eligible[np.maximum(place, place.T) >= mutual] = -np.inf
    taken = significant.any(1) & np.isfinite(eligible).any(1)
    index = np.where(taken, eligible.argmax(1), -1) if count else np.zeros(0)
    for patch in np.flatnonzero(kept):
        if policy == "none":
            reasons[patch] = "policy none"
        elif not admissible[patch].any():
            reasons[patch] = "no candidate"
        elif index[patch] < 0:
            reasons[patch] = "not mutual" if significant[patch].any() else "not significant"
    twins = Twins(index.astype(np.int64), reasons, listed, significant, admissible)
    index = control_twins(twins, policy, position=points, correlation=correlation, objects=objects, seed=seed)
    return replace(twins, index=index)


def control_twins(
    twins: Twins,
    policy: str,
    *,
    position: ArrayLike | None = None,
    correlation: ArrayLike | None = None,
    objects: ArrayLike | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Twins that another policy gives to the same patches.

    * `random`: an admissible partner drawn uniformly.
    * `nearest`: the nearest admissible partner.
    * `correlation`: the admissible partner whose motion is most alike.
    * `shuffled`: the twins of mutual information, exchanged among the patches, so that the new twin is as far away as
      the old one (within a factor of 1.2, or as close to that as the window allows).
    * `oracle`: an admissible partner on the same object, drawn uniformly. A patch that is alone on its object, or whose
      object is not known, has none: this is the only control that gives fewer patches a twin.

    Args:
        twins: those of the policy `mutual-information`.
        policy: one of `POLICIES`, except those of `OTHER_WINDOWS`.
        position: f64[N, 2] pixels, for `nearest` and `shuffled`.
        correlation: f64[N, N], for `correlation`.
        objects: int[N], what each patch is on, −1 if it is not known, for `oracle`.
        seed: for `random`, `shuffled` and `oracle`.

    Returns:
        int64[N], −1 for none.

    Raises:
        ValueError: what the policy needs is missing, or its twins are of other windows.
    """
    if policy in OTHER_WINDOWS:
        raise ValueError(f"twins of the policy '{policy}' are of other windows: choose another policy for one window")
    needed = {"nearest": position, "shuffled": position, "correlation": correlation, "oracle": objects}
    if policy in needed and needed[policy] is None:
        what = {"correlation": "correlation is", "oracle": "objects are"}.get(policy, "position is")
        raise ValueError(f"{what} needed for the policy '{policy}'")
    index, admissible = twins.index.copy(), twins.admissible
    with_twin = np.flatnonzero(index >= 0)
    if policy == "none":
        index[:] = -1
    elif policy == "later":
        index[with_twin] = with_twin
    elif not len(with_twin):
        return index
    elif policy in ("random", "oracle"):
        if policy == "oracle":
            on = np.asarray(objects)
            admissible = admissible & (on[:, None] == on) & (on >= 0)
        # The partner with the largest of independent uniform numbers is a uniform draw.
        drawn = np.where(admissible, np.random.default_rng(seed).random(admissible.shape), -1.0)[with_twin]
        index[with_twin] = np.where(drawn.max(1) >= 0, drawn.argmax(1), -1)
    elif policy == "nearest":
        index[with_twin] = np.where(admissible, _distance(np.asarray(position)), np.inf)[with_twin].argmin(1)
    elif policy == "correlation":
        index[with_twin] = np.where(admissible, np.asarray(correlation), -np.inf)[with_twin].argmax(1)
    elif policy == "shuffled":
        index[with_twin] = _exchanged(twins, _distance(np.asarray(position, np.float64)), with_twin, seed)
    return index


def _exchanged(twins: Twins, distance: NDArray[np.float64], patches: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each of P patches the twin of another one of them, at about the distance of its own: int64[P]."""
    own = twins.index[patches]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.log(distance[patches] / distance[patches, own][:, None]))
    # Whom the twin is exchanged with is chance where distances are alike; elsewhere, they should differ little.
    allowed = twins.admissible[patches] & np.isfinite(change)
    allowed[np.arange(len(patches)), own] = False
    cost = np.where(change[:, own] <= np.log(_ALIKE), 0.0, 10 + change[:, own])
    cost = np.where(allowed[:, own], cost + np.random.default_rng(seed).random(cost.shape), 1e6)
    from scipy.optimize import linear_sum_assignment

    row, column = linear_sum_assignment(cost)
    new = own[column]
    # A patch that cannot take another one's twin gets the admissible patch whose distance is most like its own twin's.
    # A patch that has no other admissible patch keeps its twin.
    alone = cost[row, column] >= 1e6
    others = np.where(allowed, change, np.inf)
    return np.where(alone, np.where(allowed.any(1), others.argmin(1), own), new)


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
        from scipy.stats import false_discovery_control

        kept[i, j] = kept[j, i] = false_discovery_control(p[i, j], method="bh") <= alpha
    return kept
