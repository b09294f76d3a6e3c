"""Projection heads and predictors: stacks of linear layers, and prototypes to compare embeddings with."""

import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU = partial(nn.ReLU, inplace=True)


def mlp(
    *widths: int,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    activation: Callable[[], nn.Module] = RELU,
) -> nn.Sequential:
    """Stack Linear–BatchNorm–ReLU for every width but the first and last, then one Linear: float[B, widths[0]] in.

    `batch_norm=False` leaves the batch norms out; `last_batch_norm` puts one without scale and shift behind the last
    layer; `activation` makes what stands for the ReLU. A linear layer has a bias where no batch norm follows it. Raises
    ValueError for fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(f"A head needs the widths of its input and its output, not only {list(widths)}.")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(before, after, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(activation())
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_batch_norm))
    if last_batch_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


class Prototypes(nn.Module):
    """Learned directions that embeddings are compared with: a linear layer of unit weights, without bias.

    `weight`: float[number, dim], at first random unit vectors; only its rows' directions matter.
    """

    def __init__(self, dim: int, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(number, dim), dim=1))

    def forward(self, embeddings: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Cosine of every embedding, float[B, dim], with every prototype: [B, number], in float32 at least.

        frozen: bool[], whether the prototypes' gradient is zero, without a wait for the device.
        """
        weight = self.weight if frozen is None else torch.where(frozen, self.weight.detach(), self.weight)
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.normalize(embeddings.to(weight.dtype), dim=1) @ F.normalize(weight, dim=1).T
