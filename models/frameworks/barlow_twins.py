"""Barlow Twins: correlate each dimension with itself across the views, and with no other (Zbontar et al. 2021)."""

from torch import Tensor

from infoaug.models.decorrelation import cross_correlation
from infoaug.models.frameworks.base import Branch, Count, Framework, FrameworkSettings, Pairs, Weight, Width
from infoaug.models.heads import mlp


class BarlowTwinsSettings(FrameworkSettings, frozen=True):
    """Widths and number of `projection_layers` of the projector, and λ, the weight `off_diagonal`.

    Three layers and λ are the paper's (section 2.2: 0.005; 0.0051 in the authors' code); 2048 units, where ImageNet has
    8192, are those of solo-learn's recipe for CIFAR-10.
    """

    hidden_dim: Width = 2048
    output_dim: Width = 2048
    projection_layers: Count = 3
    off_diagonal: Weight = 0.0051


class BarlowTwinsBranch(Branch):
    """Projector, and the distance of the cross-correlation from the identity (eq. 1)."""

    def __init__(self, num_features: int, settings: BarlowTwinsSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the pairs that count, a sum over dimensions; 0 for a single pair, which correlates with nothing."""
        first, second = self.head(pairs.first), self.head(pairs.second)
        weight = self.settings.off_diagonal
        return {"loss": cross_correlation(first, second, off_diagonal=weight, valid=pairs.valid)}


class BarlowTwins(Framework):
    """Barlow Twins: settings and branch, nothing else."""

    settings_type, branch_type = BarlowTwinsSettings, BarlowTwinsBranch
