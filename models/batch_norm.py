"""Batch norm with the statistics of the global batch on any device; torch's own needs an accelerator."""

from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoaug.models.precision import without_autocast
from infoaug.models.ranks import gather_across_ranks, world

Module = TypeVar("Module", bound=nn.Module)


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the rows of all ranks: [B, C] or [B, C, …], where B ≥ 0 may differ between ranks.

    In training, mean and variance are those of all ranks' rows together, each with the same weight, and gradients flow
    through them across ranks. The running statistics are the same on all ranks, with the unbiased variance of the
    global count. In evaluation, and with one process, it is torch's batch norm. It computes in at least float32 and
    returns the input's dtype and memory format. Raises ValueError for an input without channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; every rank must call it."""
        if not self.training or world()[0] == 1:
            return super().forward(input)
        self._check_input_dim(input)
        with without_autocast(input):
            x = input.to(torch.promote_types(input.dtype, torch.float32))
            shape = [1, -1] + [1] * (x.ndim - 2)
            axes = [0, *range(2, x.ndim)]
            own_count = x.numel() // x.shape[1]
            own_mean = x.sum(axes) / max(own_count, 1)
            own_spread = (x - own_mean.view(shape)).square().sum(axes)
            # Combined from sums of squares about each rank's mean (Chan et al. 1979): E[x²] − E[x]² loses precision.
            gathered = gather_across_ranks(torch.cat([own_mean, own_spread, own_mean.new_full((1,), own_count)]))
            means, spreads, counts = gathered.split([x.shape[1], x.shape[1], 1], dim=1)
            count = counts.sum().clamp(min=1)
            mean = (means * counts).sum(dim=0) / count
            spread = (spreads + counts * (means - mean).square()).sum(dim=0)
            self._track(mean.detach(), spread.detach(), count)
            scale = (spread / count + self.eps).rsqrt()
            y = (x - mean.view(shape)) * (scale if self.weight is None else scale * self.weight).view(shape)
            return (y if self.bias is None else y + self.bias.view(shape)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"Batch norm expects [B, {self.num_features}, …], not {list(input.shape)}.")

    @torch.no_grad()
    def _track(self, mean: Tensor, spread: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, spread / (count - 1).clamp(min=1))):
            running.add_((value - running) * share)


class GlobalBatchNormAct(GlobalBatchNorm):
    """The same, followed by dropout and activation, in place of timm's `BatchNormAct2d`."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, drop, activate."""
        return self.act(self.drop(super().forward(input)))


def synchronise(model: Module) -> Module:
    """Replace every batch norm of a model by one over all ranks, and return the model (or its replacement).

    Parameters and buffers stay the same tensors under the same names, so optimisers and checkpoints remain valid. A
    model on CUDA gets torch's and timm's implementation, any other gets `GlobalBatchNorm`. Call it before wrapping the
    model in DistributedDataParallel.
    """
    if any(tensor.is_cuda for tensor in model.state_dict(keep_vars=True).values()):
        return convert_sync_batchnorm(model)
    for name, child in model.named_children():
        setattr(model, name, synchronise(child))
    if not isinstance(model, _BatchNorm) or isinstance(model, GlobalBatchNorm | nn.SyncBatchNorm):
        return model
    kind = GlobalBatchNormAct if isinstance(model, BatchNormAct2d) else GlobalBatchNorm
    norm = kind(model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats)
    norm.__dict__.update({key: value for key, value in model.__dict__.items() if key in _STATE})
    return norm  # type: ignore[return-value]


# The state of any nn.Module. It is taken over as a whole, so that tensors and children stay the same objects.
_STATE = {"_parameters", "_buffers", "_modules", "training"}
