"""The result of scoring a window, and its table in the store."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infoaug.estimators.information import partners, twins
from infoaug.orchestrator.runtime.store import arrays

RANDOM_DRAWS = 8  # of policies with chance in them; training with seed s takes draw s modulo 8
REASONS = ("twin", "lost", "static", "textureless", "no candidate", "not significant", "not mutual", "policy none")
ONE, DRAWN = ("nearest", "correlation"), ("shuffled", "random", "oracle")  # policies with a column of twins; of draws
PARTNERS = ("twin", "strength", "candidates", "candidate_strength", "candidate_p_value")  # columns
COUNTED = ("patches", "tracked", *REASONS)  # what the ledger counts in every window

TWINS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("window", pa.int32()),
        ("patch", pa.int32()),
        ("visible_frames", pa.int32()),
        ("spread", pa.float32()),  # RMS distance of the scored trajectory from its mean, pixels
        ("entropy", pa.float32()),  # of the displacements, nats
        ("tied", pa.float32()),  # share of their values that occur more than once; noise breaks such ties
        ("reason", pa.string()),  # why the patch has no twin, empty if it has one
        ("twin", pa.int32()),
        ("mutual_information", pa.float32()),  # with the twin, nats
        ("p_value", pa.float32()),
        ("strength", pa.float32()),  # of the dependence on the twin, by `score.rank`, nats
        ("distance", pa.float32()),  # of the twin's point in the first frame, pixels
        ("nearest", pa.int32()),  # twin by the policy `nearest`
        ("correlation", pa.int32()),  # by the policy `correlation`
        ("shuffled", pa.list_(pa.int32(), RANDOM_DRAWS)),  # by the policy `shuffled`, one for each draw
        ("random", pa.list_(pa.int32(), RANDOM_DRAWS)),
        ("oracle", pa.list_(pa.int32(), RANDOM_DRAWS)),
        ("object", pa.int32()),  # what the point is on in the first frame, a colour of `clips.masks`; null without
        ("candidates", pa.list_(pa.int32())),  # best first
        ("candidate_mutual_information", pa.list_(pa.float32())),
        ("candidate_p_value", pa.list_(pa.float32())),
        ("candidate_strength", pa.list_(pa.float32())),
        ("candidate_distance", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class ScoredWindow:
    """The scores of a window with N patches.

    Attributes:
        mutual_information: f64[N, N] nats, NaN on the diagonal and for pairs that were not estimated.
        p_values: f64[N, N]; None without a significance test.
        strength: f64[N, N] nats, what ranks partners, see `score.rank`.
        correlation: f64[N, N], of displacements, from −1 to 1.
        residual: f64[N, T, d] pixels, the scored trajectories, without the camera's motion. Depth and colour are scaled
            so that their noise equals the tracker's, in pixels.
        spread: f64[N] pixels, RMS distance of the residual from its mean.
        entropy: f64[N] nats, NaN for a lost patch.
        tied: f64[N], share of the values of the displacements that occur more than once; noise broke these ties.
        twins: the twins and reasons.
    """

    mutual_information: NDArray[np.float64]
    p_values: NDArray[np.float64] | None
    strength: NDArray[np.float64]
    correlation: NDArray[np.float64]
    residual: NDArray[np.float64]
    spread: NDArray[np.float64]
    entropy: NDArray[np.float64]
    tied: NDArray[np.float64]
    twins: twins.Twins

    def of_twin(self, matrix: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """The entries of an [N, N] matrix for every patch and its twin: f64[N], NaN without a twin or a matrix."""
        index = self.twins.index
        value = np.full(len(index), np.nan) if matrix is None else matrix[np.arange(len(index)), index]
        return np.where(index >= 0, value, np.nan)


def twin_table(
    table: pa.Table, scored: ScoredWindow, seeds: Sequence[int], objects: NDArray[np.int32] | None = None
) -> pa.Table:
    """The table of a window's twins: a row for every patch, with the columns of `TWINS`.

    Args:
        table: the window's trajectories.
        scored: their scores.
        seeds: of the `RANDOM_DRAWS` draws of random twins.
        objects: int32[N], what each patch is on, −1 if it is not known; None: of no patch.
    """
    chosen, mi = scored.twins, scored.mutual_information
    on = np.full(len(mi), -1) if objects is None else objects
    first = arrays(table, "position")[:, 0, :2].astype(np.float64)
    distance = np.linalg.norm(first[:, None] - first, axis=-1)
    of = partial(twins.control_twins, chosen, position=first, correlation=scored.correlation, objects=on)
    one = {name: of(name) for name in ("nearest", "correlation")}
    drawn = {
        name: np.stack([of(name, seed=seed) for seed in seeds], axis=1) for name in ("shuffled", "random", "oracle")
    }
    listed = [row[row >= 0] for row in chosen.candidates]
    p = scored.p_values if scored.p_values is not None else np.full_like(mi, np.nan)
    columns = {
        **{name: table[name] for name in ("clip_id", "window", "patch")},
        "visible_frames": arrays(table, "visible").sum(1),
        "spread": scored.spread,
        "entropy": pa.array(scored.entropy, from_pandas=True),
        "tied": scored.tied,
        "reason": chosen.reason,
        "twin": pa.array(chosen.index, mask=chosen.index < 0),
        "mutual_information": pa.array(scored.of_twin(mi), from_pandas=True),
        "p_value": pa.array(scored.of_twin(p), from_pandas=True),
        "strength": pa.array(scored.of_twin(scored.strength), from_pandas=True),
        "distance": pa.array(scored.of_twin(distance), from_pandas=True),
        **{name: pa.array(index, mask=index < 0) for name, index in one.items()},
        **{
            name: pa.FixedSizeListArray.from_arrays(pa.array(index.ravel(), pa.int32()), RANDOM_DRAWS)
            for name, index in drawn.items()
        },
        "object": pa.array(on, mask=on < 0),
        "candidates": listed,
        "candidate_mutual_information": [mi[i, c] for i, c in enumerate(listed)],
        "candidate_p_value": [[None if np.isnan(v) else v for v in p[i, c]] for i, c in enumerate(listed)],
        "candidate_strength": [scored.strength[i, c] for i, c in enumerate(listed)],
        "candidate_distance": [distance[i, c] for i, c in enumerate(listed)],
    }
    return pa.table(columns).cast(TWINS)


def of_control(
    policy: str, draw: int, column: Callable[[str], pa.Array | pa.ChunkedArray], paired: NDArray[np.bool_]
) -> NDArray[np.int32] | None:
    """The twins of N patches by a policy of control: int32[N], −1 for none; None if mutual information gives them.

    Args:
        policy: one of those within windows.
        draw: which of the `RANDOM_DRAWS` draws of a policy with chance in it.
        column: gives a column of their table, if the policy has one, by its name.
        paired: bool[N], which patches have a twin by mutual information.
    """
    if policy in ("none", "later"):
        return np.where(paired & (policy == "later"), np.arange(len(paired), dtype=np.int32), np.int32(-1))
    if policy in ONE:
        return column(policy).fill_null(-1).to_numpy(zero_copy_only=False)
    if policy in DRAWN:
        drawn = pc.list_flatten(column(policy)).to_numpy(zero_copy_only=False)
        return drawn.reshape(-1, RANDOM_DRAWS)[:, draw]
    return None


def stored_partners(
    table: pa.Table, count: int, alpha: float, mutual: int, tested: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best partners of a window's patches, by the columns `PARTNERS` of its table.

    Args:
        table: of N patches.
        count: most partners of a patch, k.
        alpha, mutual: of the scoring, see `find_twins`.
        tested: whether dependences were tested; otherwise all are significant.

    Returns:
        int64[N, k] and f64[N, k], see `best_partners`.
    """
    twin = table["twin"].fill_null(-1).to_numpy()
    own = table["strength"].fill_null(0).to_numpy()
    listed, strength, p = (_padded(table[name]) for name in PARTNERS[2:])
    candidates = np.where(np.isnan(listed), -1, listed).astype(np.int64)
    return partners.best_partners(
        twin, own, candidates, strength, count=count, p_values=p if tested else None, alpha=alpha, mutual=mutual
    )


def _padded(lists: pa.ChunkedArray) -> NDArray[np.float32]:
    """Lists of numbers of N rows as float32[N, C], NaN after the last and for a null."""
    joined = lists.combine_chunks()
    length = pc.list_value_length(joined).to_numpy()
    there = np.arange(max(length, default=0)) < length[:, None]
    values = np.full(there.shape, np.nan, np.float32)
    values[there] = joined.flatten().to_numpy(zero_copy_only=False)
    return values


def column(counted: str) -> str:
    """The ledger's column of a count."""
    return counted.replace(" ", "_")


def summary(table: pa.Table, length: int) -> dict[str, int]:
    """The ledger's counts of a window of `length` frames, by column: patches, tracked ones, those of each reason."""
    counts = Counter(reason or "twin" for reason in table["reason"].to_pylist())
    counts |= {"patches": len(table), "tracked": int((table["visible_frames"].to_numpy() == length).sum())}
    return {column(name): counts[name] for name in COUNTED}
