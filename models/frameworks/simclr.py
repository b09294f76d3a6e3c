"""SimCLR: pull two views of an image together, push all other images of the batch away (Chen et al. 2020)."""

import torch
from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import SimCLRSettings
from infoaug.models.heads import mlp
from infoaug.models.losses import nt_xent


class SimCLRBranch(Branch):
    """Projection head Linear–BatchNorm–ReLU–Linear (section 4.2 of the paper) and NT-Xent (eq. 1)."""

    weighs = True
    decoupled = False

    def __init__(self, num_features: int, settings: SimCLRSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, settings.hidden_dim or num_features, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, and the lower bound of their mutual information."""
        first, second = self.head(torch.cat([pairs.first, pairs.second])).chunk(2)
        return nt_xent(
            first,
            second,
            temperature=self.settings.temperature,
            valid=pairs.valid,
            weight=pairs.weight,
            repeated=pairs.repeated,
            first_identity=pairs.first_identity,
            second_identity=pairs.second_identity,
            negatives=self.settings.negatives,
            progress=self.progress,
            decoupled=self.decoupled,
        )


class SimCLR(Framework):
    """SimCLR: settings and branch, nothing else."""

    branch_type = SimCLRBranch
    settings_type = SimCLRSettings
