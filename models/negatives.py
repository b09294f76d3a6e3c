"""Which negatives an anchor keeps: all others, the hardest share (ball), or the hard but not the hardest (ring)."""

import torch
from torch import Tensor

from infoaug.models.settings import Negatives


@torch.no_grad()
def keep_negatives(
    similarity: Tensor, admissible: Tensor, negatives: Negatives, progress: Tensor | float = 1.0
) -> Tensor:
    """Choose every anchor's negatives among the admissible candidates, without waiting for the device.

    Of an anchor's n admissible candidates, those of rank round(inner · n) ≤ r < round(outer · n) are kept, where rank 0
    is the most similar; at least one, if n > 0. Ties are ranked in the order of the candidates, so counts are exact.

    Args:
        similarity: float[A, M], of anchor and candidate; the higher, the harder the negative.
        admissible: bool[A, M], which candidates may be negatives.
        negatives: the choice.
        progress: share of training that is complete, 0–1.

    Returns:
        bool[A, M], a subset of `admissible`.
    """
    if negatives.kind == "all":
        return admissible
    number = admissible.sum(dim=1, keepdim=True)
    last = (number * _outer_share(negatives, progress)).round().clamp(min=1)
    inner = negatives.inner if negatives.kind == "ring" else 0.0
    first = torch.minimum((number * inner).round(), last - 1)

    hardest_first = similarity.masked_fill(~admissible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = torch.arange(similarity.shape[1], device=similarity.device).expand_as(hardest_first)
    rank = torch.empty_like(hardest_first).scatter_(1, hardest_first, order)
    return admissible & (rank >= first) & (rank < last)


def _outer_share(negatives: Negatives, progress: Tensor | float) -> Tensor | float:
    """Share of the candidates that the ball holds at this progress of training."""
    if negatives.anneal == "constant":
        return negatives.outer
    done = torch.as_tensor(progress) / negatives.until
    done = (done >= 1).to(done.dtype) if negatives.anneal == "step" else done.clamp(0, 1)
    return 1 + (negatives.outer - 1) * done


def valid_negatives(identity: Tensor, image: Tensor) -> Tensor:
    """Mark the candidates that show neither an anchor's image nor its twin: bool[A, M].

    Args:
        identity: int64[A, n], the image that an anchor shows, its twin, and further images that are not its negatives;
            −1 for none.
        image: int64[M], the image that a candidate shows; −1 where unknown, which may be a negative of any anchor.
    """
    known = (identity[:, :, None] == image) & (image >= 0)
    return ~known.any(dim=1)
