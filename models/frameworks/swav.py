"""SwAV: predict, from one view, the prototypes that another view is assigned to (Caron et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from infoaug.models.assignments import sinkhorn, swapped_prediction
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import SwAVSettings
from infoaug.models.heads import Prototypes, mlp


class SwAVBranch(Branch):
    """Head, prototypes, and swapped prediction (eq. 1, 2 and 6) of two full views and of small ones, without the queue.

    The loss is the mean over the pairs of views, as in the authors' code, where the equations have their sum.
    """

    reads = ("first", "second", "small")
    weighs = True

    def __init__(self, num_features: int, settings: SwAVSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, settings.hidden_dim or num_features, settings.output_dim)
        self.prototypes = Prototypes(settings.output_dim, settings.prototypes)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs; the prototypes share out the valid pairs."""
        settings, rows = self.settings, {"valid": pairs.valid, "weight": pairs.weight}
        embeddings = self.head(torch.cat(pairs.views))
        scores = self.prototypes(embeddings, frozen=self.progress < settings.frozen_share)
        parts = scores.split([len(view) for view in pairs.views])
        codes = [sinkhorn(part, epsilon=settings.epsilon, iterations=settings.iterations, **rows) for part in parts[:2]]
        return {"loss": swapped_prediction([part / settings.temperature for part in parts], codes, **rows)}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Put the prototypes back to length 1, as the authors do, so that their learning rate stays what it is."""
        super().after_step(progress)
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


class SwAV(Framework):
    """SwAV: settings and branch, nothing else."""

    branch_type = SwAVBranch
    settings_type = SwAVSettings
