"""SimCLR: pull two views of an image together, push all other images of the batch away (Chen et al. 2020)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from models.frameworks.base import Branch, Framework, FrameworkSettings
from models.losses import nt_xent

Width = Annotated[int, Field(ge=1)]


class SimCLRSettings(FrameworkSettings, frozen=True):
    """Widths of the projection head (`hidden_dim=None`: as the backbone's features) and the temperature of the loss."""

    hidden_dim: Width | None = None
    output_dim: Width = 128
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5


class SimCLRBranch(Branch):
    """Projection head Linear–BatchNorm–ReLU–Linear (section 4.2 of the paper) and NT-Xent (eq. 1)."""

    def __init__(self, num_features: int, settings: SimCLRSettings) -> None:
        super().__init__(num_features, settings)
        hidden = settings.hidden_dim or num_features
        self.head = nn.Sequential(
            nn.Linear(num_features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, settings.output_dim),
        )
        self.temperature = settings.temperature

    def forward(self, first_features: Tensor, second_features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of the pairs that count; see `Branch.forward`."""
        first, second = self.head(torch.cat([first_features, second_features])).chunk(2)
        return nt_xent(first, second, temperature=self.temperature, valid=valid)


class SimCLR(Framework):
    """SimCLR: settings and branch, nothing else."""

    settings_type, branch_type = SimCLRSettings, SimCLRBranch
