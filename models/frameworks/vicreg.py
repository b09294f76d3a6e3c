"""VICReg: views alike, every dimension spread out, no two of them correlated (Bardes et al. 2022)."""

from torch import Tensor

from infoaug.models.decorrelation import variance_covariance
from infoaug.models.frameworks.base import Branch, Count, Framework, FrameworkSettings, Pairs, Weight, Width
from infoaug.models.heads import mlp


class VICRegSettings(FrameworkSettings, frozen=True):
    """Widths and number of `projection_layers` of the projector (the paper's expander), weights of the three terms.

    Three layers and the weights 25, 25, 1 are the paper's (section 4.2); 2048 units, where ImageNet has 8192, are those
    of solo-learn's recipe for CIFAR-10.
    """

    hidden_dim: Width = 2048
    output_dim: Width = 2048
    projection_layers: Count = 3
    invariance: Weight = 25.0
    variance: Weight = 25.0
    covariance: Weight = 1.0


class VICRegBranch(Branch):
    """Projector, and the weighted sum of invariance, variance and covariance (eq. 6)."""

    def __init__(self, num_features: int, settings: VICRegSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the pairs that count, and its three terms before they are weighted."""
        terms = variance_covariance(self.head(pairs.first), self.head(pairs.second), valid=pairs.valid)
        loss = sum(getattr(self.settings, name) * term for name, term in terms.items())
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}


class VICReg(Framework):
    """VICReg: settings and branch, nothing else."""

    settings_type, branch_type = VICRegSettings, VICRegBranch
