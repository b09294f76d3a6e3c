"""Contrastive losses on embeddings, exact across ranks: one function a loss."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, *, temperature: float, valid: Tensor | None = None) -> Tensor:
    """SimCLR's normalised, temperature-scaled cross entropy of positive pairs (Chen et al. 2020, eq. 1).

    first, second: float[B, D], row i of both is a positive pair; the 2B − 2 other embeddings are its negatives. They
    are L2-normalised here, and all is computed in float32 at least, under autocast too. `valid` bool[B]: rows that
    count; the others are neither anchors nor negatives, whatever they hold. Returns a scalar: the mean over the anchors
    that count, a differentiable 0 if there are none.

    With torch.distributed and several ranks, the negatives are those of the global batch. Every rank must call it, with
    the same B and D. A rank's value is its share of the global loss times the number of ranks, so values and DDP
    gradients averaged over the ranks equal those of one process with the global batch, also if the ranks' counts of
    valid rows differ.

    Raises ValueError for wrong shapes, a mask that is not bool, or a temperature that is not above 0.
    """
    if first.ndim != 2 or first.shape != second.shape or first.shape[0] == 0:
        raise ValueError(f"first and second must be [B, D] alike, not {list(first.shape)} and {list(second.shape)}.")
    if not (first.is_floating_point() and second.is_floating_point()):
        raise ValueError(f"Embeddings must be floating point, not {first.dtype} and {second.dtype}.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, not {temperature}.")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != first.shape[:1]):
        raise ValueError(f"valid must be bool[{len(first)}], not {valid.dtype} of shape {list(valid.shape)}.")

    rows = 2 * len(first)
    world, rank = (dist.get_world_size(), dist.get_rank()) if _distributed() else (1, 0)
    with torch.autocast(first.device.type, enabled=False):
        if valid is None:
            valid = torch.ones(len(first), dtype=torch.bool, device=first.device)
        counts = valid.repeat(2)
        own = torch.cat([first, second]).to(torch.promote_types(first.dtype, torch.float32))
        own = torch.where(counts[:, None], own, 0.0)  # not by multiplying: 0 · NaN is NaN
        own = F.normalize(own, dim=1)
        everyone = gather_across_ranks(own).flatten(0, 1)
        everyone_counts = gather_across_ranks(counts).flatten()

        anchor = torch.arange(rows, device=own.device)
        itself = torch.arange(rows * world, device=own.device) == (anchor + rank * rows)[:, None]
        # A large finite value: its exponential is exactly 0, and a row hidden altogether still has finite gradients.
        hide = torch.finfo(own.dtype).min / 2
        similarity = (own @ everyone.T / temperature).masked_fill(itself | ~everyone_counts, hide)
        positive = (anchor + len(first)) % rows + rank * rows
        losses = F.cross_entropy(similarity, positive, reduction="none")
        return torch.where(counts, losses, 0.0).sum() * world / everyone_counts.sum().clamp(min=1)


def gather_across_ranks(tensor: Tensor) -> Tensor:
    """Stack a tensor of every rank along a new first axis: [world, *tensor.shape]; with one process [1, …].

    Gradients flow back to the rank that a row came from, summed over the ranks that used it. The shape must be the same
    on all ranks.
    """
    return _Gather.apply(tensor) if _distributed() else tensor.unsqueeze(0)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums the ranks' gradients (torch's own is deprecated from 2.14 on)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        # Bytes instead of bool: not every backend sends bool.
        sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent)
        return torch.stack(received).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
