"""Barlow Twins: correlate each dimension with itself across the views, and with no other (Zbontar et al. 2021)."""

from torch import Tensor

from infoaug.models.decorrelation import cross_correlation
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import BarlowTwinsSettings
from infoaug.models.heads import mlp


class BarlowTwinsBranch(Branch):
    """Projector, and the distance of the cross-correlation from the identity (eq. 1)."""

    def __init__(self, num_features: int, settings: BarlowTwinsSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, a sum over dimensions; 0 for a single pair, which correlates with nothing."""
        first, second = self.head(pairs.first), self.head(pairs.second)
        weight = self.settings.off_diagonal
        return {"loss": cross_correlation(first, second, off_diagonal=weight, valid=pairs.valid)}


class BarlowTwins(Framework):
    """Barlow Twins: settings and branch, nothing else."""

    branch_type = BarlowTwinsBranch
    settings_type = BarlowTwinsSettings
