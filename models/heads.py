"""Projection heads and predictors: stacks of linear layers."""

import itertools

from torch import nn


def mlp(*widths: int, batch_norm: bool = True, last_batch_norm: bool = False) -> nn.Sequential:
    """Stack Linear–BatchNorm–ReLU for every width but the first and last, then one Linear: float[B, widths[0]] in.

    `batch_norm=False` leaves the batch norms out; `last_batch_norm` puts one without scale and shift behind the last
    layer. A linear layer has a bias where no batch norm follows it. Raises ValueError for fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(f"A head needs the widths of its input and its output, not only {list(widths)}.")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(before, after, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_batch_norm))
    if last_batch_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
