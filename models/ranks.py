"""Collective operations with gradients: rows gathered from all ranks, sums and means over them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Number of ranks and this process's rank; (1, 0) without torch.distributed."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)


def gather_across_ranks(tensor: Tensor) -> Tensor:
    """Stack a tensor of every rank along a new first axis: [world, *tensor.shape]; with one process [1, …].

    Gradients flow back to the rank that a tensor came from, summed over all ranks. The shape must be the same on all
    ranks.
    """
    return _Gather.apply(tensor) if world()[0] > 1 else tensor.unsqueeze(0)


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows [B, …] of all ranks in the order of the ranks: [world · B, …], with gradients."""
    return gather_across_ranks(tensor).flatten(0, 1)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, the same on every rank; with one process the tensor itself.

    Gradients are summed over the ranks as well. The shape must be the same on all ranks.
    """
    return _Sum.apply(tensor) if world()[0] > 1 else tensor


def row_numbers(rows: int, device: torch.device) -> Tensor:
    """Index in the global batch of each of this rank's rows, int64[rows]; every rank has the same number of rows."""
    return torch.arange(rows, device=device) + world()[1] * rows


def mean_over_ranks(values: Tensor, counts: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean of values float[A] over the entries of all ranks for which counts bool[A] is True (None: all).

    `weight` float[A], at least 0: of the entries, in a weighted mean; None: all have the same.

    Returns this rank's share of that mean times the number of ranks; 0 if no entry counts. The average over ranks is
    the global mean, and DDP's average of the gradients is the global gradient, also where ranks have different numbers
    of such entries.
    """
    if counts is None:
        counts = torch.ones_like(values, dtype=torch.bool)
    shares = counts if weight is None else torch.where(counts, weight.to(values.dtype), 0.0)
    total = gather_across_ranks(shares.sum()).sum()
    total = torch.where(total > 0, total, 1)
    weighted = values if weight is None else values * weight
    return torch.where(counts, weighted, 0.0).sum() * world()[0] / total


class _Sum(torch.autograd.Function):
    """All-reduce; its backward pass is an all-reduce as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return _all_reduced(gradients[0])


class _Gather(torch.autograd.Function):
    """All-gather; its backward pass sums the ranks' gradients (torch's own is deprecated from 2.14 on)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        # As bytes: not every backend can send bool.
        sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent)
        return torch.stack(received).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return _all_reduced(gradients[0])[dist.get_rank()]


def _all_reduced(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
