"""Projection heads and predictors (multilayer perceptrons), and prototypes."""

import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infoaug.models.precision import without_autocast

RELU = partial(nn.ReLU, inplace=True)


def mlp(
    *widths: int,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    activation: Callable[[], nn.Module] = RELU,
) -> nn.Sequential:
    """A multilayer perceptron: Linear–BatchNorm–ReLU for every hidden width, then Linear.

    A linear layer has a bias only where no batch norm follows it.

    Args:
        widths: of the input, of every hidden layer, and of the output.
        batch_norm: False leaves the hidden batch norms out.
        last_batch_norm: True appends a batch norm without scale and shift to the last layer.
        activation: makes the activation in place of ReLU.

    Raises:
        ValueError: fewer than two widths.
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
    """Learned prototypes: a linear layer without bias whose weights are normalised.

    `weight`: float[number, dim], initially random unit vectors; only the directions of its rows matter.
    """

    def __init__(self, dim: int, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(number, dim), dim=1))

    def forward(self, embeddings: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Cosine similarity of every embedding, float[B, dim], and every prototype: [B, number], at least float32.

        frozen: bool[] on the device; True makes the prototypes' gradient zero.
        """
        weight = self.weight if frozen is None else torch.where(frozen, self.weight.detach(), self.weight)
        with without_autocast(embeddings):
            return F.normalize(embeddings.to(weight.dtype), dim=1) @ F.normalize(weight, dim=1).T
