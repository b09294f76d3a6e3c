"""Which negatives an anchor keeps: all others, the hardest share (ball), or the hard but not the hardest (ring)."""

import torch
from torch import Tensor

from infoaug.models.settings import Negatives


@torch.no_grad()
def keep_negatives(
    similarity: Tensor, admissible: Tensor, negatives: Negatives, progress: Tensor | float = 1.0
) -> Tensor:
    """Say which candidates are an anchor's negatives: bool[A, M], a part of `admissible`.

    similarity: float[A, M] of anchor and candidate, higher is harder; admissible: bool[A, M], candidates that may be
    negatives at all; progress: 0–1, the share of training that is done. Of an anchor's n admissible candidates those
    with rank round(inner · n) ≤ r < round(outer · n) are kept, rank 0 being the most similar; at least one if there is
    any. Equal similarities rank in the order of the candidates, so counts are exact. No wait for the device.
    """
    if negatives.kind == "all":
        return admissible
    number = admissible.sum(dim=1, keepdim=True)
    last = (number * _outer_share(negatives, progress)).round().clamp(min=1)
    inner = negatives.inner if negatives.kind == "ring" else 0.0
    first = torch.minimum((number * inner).round(), last - 1)

    hardest_first = similarity.masked_fill(~admissible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(similarity.shape[1], device=similarity.device).expand_as(hardest_first)
    rank = torch.empty_like(hardest_first).scatter_(1, hardest_first, place)
    return admissible & (rank >= first) & (rank < last)


def _outer_share(negatives: Negatives, progress: Tensor | float) -> Tensor | float:
    """Share of the candidates that the ball holds at this progress of training."""
    if negatives.anneal == "constant":
        return negatives.outer
    done = torch.as_tensor(progress) / negatives.until
    done = (done >= 1).to(done.dtype) if negatives.anneal == "step" else done.clamp(0, 1)
    return 1 + (negatives.outer - 1) * done


def valid_negatives(identity: Tensor, image: Tensor) -> Tensor:
    """Say which candidates show neither an anchor's image nor its twin: bool[A, M].

    identity: int64[A, n], the image that an anchor shows, that image's twin, and whatever else is no stranger (−1:
    none); image: int64[M], what the candidates show (−1: unknown, a stranger to all).
    """
    known = (identity[:, :, None] == image) & (image >= 0)
    return ~known.any(dim=1)
