"""Losses on the moments of a batch: they decorrelate the dimensions of embeddings and need no negatives.

- They compute in at least float32, also under autocast, over the rows that `valid` bool[B] marks (None: all).
- Moments are over the rows of all ranks: each rank's value is that of the global batch, and DDP's average of the
  gradients is its gradient. Every rank must call them, with the same shapes.
- Moments need two valid rows; with fewer, terms that depend on them are a differentiable 0.
- Wrong input raises ValueError.
"""

import torch
from torch import Tensor

from infoaug.models.losses import check_pairs, counting
from infoaug.models.precision import without_autocast
from infoaug.models.ranks import mean_over_ranks, sum_over_ranks

NORM_EPSILON = 1e-5  # the authors of Barlow Twins standardise with a batch norm, and this is its epsilon


def cross_correlation(first: Tensor, second: Tensor, *, off_diagonal: float, valid: Tensor | None = None) -> Tensor:
    """Barlow Twins: distance of the cross-correlation matrix from the identity (Zbontar et al. 2021, eq. 1).

    Σᵢ (1 − Cᵢᵢ)² + off_diagonal · Σᵢ Σⱼ≠ᵢ Cᵢⱼ², where Cᵢⱼ is the correlation, over the batch, of dimension i of first
    with dimension j of second (eq. 2), both float[B, D]. 1e-5 is added to variances, so that the correlation of a
    collapsed dimension is 0.
    """
    check_pairs(first, second, valid)
    with without_autocast(first):
        sides, number = _centred(first, second, counting(first, valid))
        variance = sum_over_ranks(sides.square().sum(dim=1, keepdim=True)) / number.clamp(min=1)
        left, right = sides * (variance + NORM_EPSILON).rsqrt()
        correlation = sum_over_ranks(left.T @ right) / number.clamp(min=1)
        loss = (1 - correlation.diagonal()).square().sum() + off_diagonal * _off_diagonal(correlation)
        return loss * (number > 1)


def variance_covariance(
    first: Tensor, second: Tensor, *, epsilon: float = 1e-4, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """VICReg's three terms without their weights (Bardes et al. 2022, section 4.1), for first and second, float[B, D].

    - `invariance`: mean squared difference (eq. 5).
    - `variance`: mean over dimensions of max(0, 1 − √(variance + epsilon)) (eq. 1 and 2); the mean of both sides.
    - `covariance`: sum of the squared off-diagonal covariances, divided by D (eq. 3 and 4); the sum of both sides.

    Moments are divided by n − 1. Deviation from the paper: eq. 5 and 6 sum over dimensions and sides; the means here
    are those of the authors' code, for which their weights are meant.
    """
    check_pairs(first, second, valid)
    with without_autocast(first):
        counts = counting(first, valid)
        sides, number = _centred(first, second, counts)
        moments = sum_over_ranks(sides.mT @ sides) / (number - 1).clamp(min=1)  # [2, D, D]
        hinge = (1 - (moments.diagonal(dim1=1, dim2=2) + epsilon).sqrt()).relu().mean()
        spread = _off_diagonal(moments) / first.shape[1]
        # Differences of the embeddings, not of the centred ones: the means of both sides have to agree as well.
        difference = torch.where(counts[:, None], first.to(sides.dtype) - second, 0.0)
        alike = mean_over_ranks(difference.square().mean(dim=1), counts)
        enough = number > 1
        return {"invariance": alike, "variance": hinge * enough, "covariance": spread * enough}


def _centred(first: Tensor, second: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides minus their mean over all ranks, [2, B, D], zeros in invalid rows; and the number of valid rows."""
    sides = torch.stack([first, second])
    sides = torch.where(counts[:, None], sides.to(torch.promote_types(sides.dtype, torch.float32)), 0.0)
    number = sum_over_ranks(counts.sum())
    mean = sum_over_ranks(sides.sum(dim=1, keepdim=True)) / number.clamp(min=1)
    return torch.where(counts[:, None], sides - mean, 0.0), number


def _off_diagonal(matrix: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of [..., D, D]."""
    beside = ~torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    return (matrix.square() * beside).sum()
