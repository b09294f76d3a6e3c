"""SwAV: predict, from one view, the prototypes that the other view is assigned to (Caron et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from infoaug.models.assignments import sinkhorn, soft_cross_entropy
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import SwAVSettings
from infoaug.models.heads import Prototypes, mlp


class SwAVBranch(Branch):
    """Head, prototypes, and swapped prediction (eq. 1 and 2) of two views: without the small crops and the queue.

    The loss is the mean of both ways, as in the authors' code, where eq. 1 has their sum.
    """

    weighs = True

    def __init__(self, num_features: int, settings: SwAVSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, settings.hidden_dim or num_features, settings.output_dim)
        self.prototypes = Prototypes(settings.output_dim, settings.prototypes)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs; the prototypes share out the valid pairs."""
        settings, rows = self.settings, {"valid": pairs.valid, "weight": pairs.weight}
        embeddings = self.head(torch.cat([pairs.first, pairs.second]))
        scores = self.prototypes(embeddings, frozen=self.progress < settings.frozen_share).chunk(2)
        codes = [sinkhorn(part, epsilon=settings.epsilon, iterations=settings.iterations, **rows) for part in scores]
        first, second = (
            soft_cross_entropy(own / settings.temperature, other, **rows)
            for own, other in zip(scores, reversed(codes), strict=True)
        )
        return {"loss": (first + second) / 2}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Put the prototypes back to length 1, as the authors do, so that their learning rate stays what it is."""
        super().after_step(progress)
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


class SwAV(Framework):
    """SwAV: settings and branch, nothing else."""

    branch_type = SwAVBranch
