"""VICReg: views alike, every dimension spread out, no two of them correlated (Bardes et al. 2022)."""

from torch import Tensor

from infoaug.models.decorrelation import variance_covariance
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import VICRegSettings
from infoaug.models.heads import mlp


class VICRegBranch(Branch):
    """Projector, and the weighted sum of invariance, variance and covariance (eq. 6)."""

    def __init__(self, num_features: int, settings: VICRegSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, and its three terms before they are weighted."""
        terms = variance_covariance(self.head(pairs.first), self.head(pairs.second), valid=pairs.valid)
        loss = sum(getattr(self.settings, name) * term for name, term in terms.items())
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}


class VICReg(Framework):
    """VICReg: settings and branch, nothing else."""

    branch_type = VICRegBranch
    settings_type = VICRegSettings
