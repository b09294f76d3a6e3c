"""The most similar of many rows of features, searched block by block."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUP = 8  # similarities whose maximum is looked at first


def search(
    queries: Tensor, blocks: Iterable[tuple[int, Tensor]], k: int, apart: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The k rows of largest cosine similarity to each query, in any order; all rows, if k is larger.

    Args:
        queries: f32[Q, D] of length 1, see `unit`.
        blocks: all rows in parts f32[n, D], each with the number of its first row.
        k: rows for each query.
        apart: the group of each query int64[Q] and of each row int64[N]. Rows of the query's own group do not count:
            their similarity is −∞.

    Returns:
        Similarities f32[Q, ≤ k] and the numbers of the rows int64[Q, ≤ k].
    """
    similarities = queries[:, :0]
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for begin, block in blocks:
        every = queries @ unit(block).T
        if apart is not None:
            own, groups = apart
            every.masked_fill_(own[:, None] == groups[begin : begin + len(block)], -torch.inf)
        found, at = nearest(every, k)
        similarities = torch.cat([similarities, found], dim=1)
        rows = torch.cat([rows, begin + at], dim=1)
        similarities, at = similarities.topk(min(k, similarities.shape[1]), sorted=False)
        rows = rows.gather(1, at)
    return similarities, rows


def ordered(similarities: Tensor, rows: Tensor, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What `search` found, the nearest first: f32[Q, k], −∞ where there are fewer, and int64[Q, k], −1 there.

    Equally similar ones are in the order of their rows.
    """
    near, numbers = similarities.cpu().numpy(), rows.cpu().numpy()
    order = np.lexsort((numbers, -near), axis=1)
    near, numbers = (np.take_along_axis(of, order, axis=1) for of in (near, numbers))
    lacking = ((0, 0), (0, k - near.shape[1]))
    near = np.pad(near, lacking, constant_values=-np.inf)
    return near, np.where(np.isfinite(near), np.pad(numbers, lacking, constant_values=-1), -1)


def nearest(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row of f32[M, N] and their columns, in any order; all N, if k is larger.

    They lie in the k groups of columns with the largest maxima, so that only these groups need sorting.
    """
    columns = similarities.shape[1]
    groups = columns // GROUP
    if groups <= k:
        return similarities.topk(min(k, columns), sorted=False)
    grouped = similarities[:, : groups * GROUP].unflatten(1, (GROUP, groups))
    best = grouped.amax(dim=1).topk(k, sorted=False).indices
    steps = groups * torch.arange(GROUP, device=best.device)
    ungrouped = torch.arange(groups * GROUP, columns, device=best.device).expand(len(best), -1)
    candidates = torch.cat([(best[:, None] + steps[:, None]).flatten(1), ungrouped], dim=1)
    values, at = similarities.gather(1, candidates).topk(k, sorted=False)
    return values, candidates.gather(1, at)


def unit(features: Tensor) -> Tensor:
    """Rows of length 1; those of length 0 stay 0."""
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(length == 0, 1, length)
