"""The best partners of every patch that has a twin, from the short lists of candidates that scoring stores."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def best_partners(
    twin: ArrayLike,
    twin_strength: ArrayLike,
    candidates: ArrayLike,
    strength: ArrayLike,
    *,
    count: int,
    p_values: ArrayLike | None = None,
    alpha: float = 0.05,
    mutual: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The twin of every patch, and the partners that would be its twin if the better ones were not there.

    They are eligible in the sense of `twins.find_twins`: the pair's own p-value is at most `alpha`, and with `mutual`,
    each is among the other's best so many eligible partners. The candidates do not show that of every pair: where a
    patch is not among the candidates of its candidate, they are taken not to be mutual. The twin was chosen among all
    patches, so it need not be a candidate.

    Args:
        twin: int[N], the twin of each of a window's patches by the policy `mutual-information`, −1 for none.
        twin_strength: f[N], how strong the dependence on it is; what it holds without a twin is not read.
        candidates: int[N, C], the admissible partners of highest strength, best first, padded with −1.
        strength: f[N, C], how strong the dependence on them is.
        count: most partners of a patch, k.
        p_values: f[N, C], NaN where the pair was not tested, which is not significant; None: every pair is significant.
        alpha: largest p-value.
        mutual: see above; 0: any partner.

    Returns:
        int64[N, k], the twin first, then the others, best first, padded with −1; and f64[N, k], the strength of the
        dependence on each, at least 0. Padded places have strength 0.

    Raises:
        ValueError: shapes that differ, or a count below 1.
    """
    own, listed, strengths = np.asarray(twin, np.int64), np.asarray(candidates, np.int64), np.asarray(strength)
    tested = None if p_values is None else np.asarray(p_values)
    if listed.ndim != 2 or len(listed) != len(own) or any(a is not None and a.shape != listed.shape
                                                          for a in (strengths, tested)):  # fmt: skip
        raise ValueError(f"candidates, strength and p_values must be shaped [{len(own)}, C], all alike")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    eligible = (listed >= 0) & np.isfinite(strengths)
    if tested is not None:
        eligible &= np.nan_to_num(tested, nan=np.inf) <= alpha
    if mutual:
        patches = len(own)
        row, column = np.nonzero(eligible)
        place = np.full((patches, patches), patches)
        place[row, listed[row, column]] = (eligible.cumsum(axis=1) - 1)[row, column]
        eligible[row, column] = np.maximum(place, place.T)[row, listed[row, column]] < mutual
    further = eligible & (listed != own[:, None]) & (own >= 0)[:, None]
    order = np.argsort(~further, axis=1, kind="stable")
    kept = np.take_along_axis(further, order, axis=1)
    partners = np.column_stack([own, np.where(kept, np.take_along_axis(listed, order, axis=1), -1)])
    weights = np.column_stack([twin_strength, np.where(kept, np.take_along_axis(strengths, order, axis=1), 0.0)])
    room = ((0, 0), (0, max(0, count - partners.shape[1])))
    partners = np.pad(partners, room, constant_values=-1)[:, :count]
    weights = np.pad(weights.astype(np.float64), room)[:, :count]
    return partners, np.where(partners >= 0, np.maximum(weights, 0.0), 0.0)
