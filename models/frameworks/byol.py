"""BYOL: predict the momentum encoder's projection of the other view; no negatives (Grill et al. 2020)."""

from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import BYOLSettings
from infoaug.models.heads import mlp
from infoaug.models.losses import cosine_distance


class BYOLBranch(Branch):
    """Projector with its momentum copy, predictor, and the squared distance of unit vectors both ways (eq. 2)."""

    reads = ("first", "second", "momentum_first", "momentum_second")
    weighs = True

    def __init__(self, num_features: int, settings: BYOLSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, settings.hidden_dim, settings.output_dim)
        self.predictor = mlp(settings.output_dim, settings.hidden_dim, settings.output_dim)
        self.momentum_head = self.momentum_copy(self.head)

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, 0–8."""
        first, second = (self.predictor(self.head(features)) for features in (pairs.first, pairs.second))
        first_target, second_target = map(self.momentum_head, (pairs.momentum_first, pairs.momentum_second))
        distance = cosine_distance(first, second_target, valid=pairs.valid, weight=pairs.weight)
        distance = distance + cosine_distance(second, first_target, valid=pairs.valid, weight=pairs.weight)
        return {"loss": 2 * distance}


class BYOL(Framework):
    """BYOL: settings and branch, nothing else."""

    branch_type = BYOLBranch
    settings_type = BYOLSettings
