"""SimSiam: BYOL without the momentum encoder, the gradient of the target stopped (Chen & He 2021)."""

from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import SimSiamSettings
from infoaug.models.heads import mlp
from infoaug.models.losses import cosine_distance


class SimSiamBranch(Branch):
    """Projector with a batch norm on its output, predictor, and the negative cosine both ways (eq. 2) plus 1."""

    weighs = True

    def __init__(self, num_features: int, settings: SimSiamSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, *[settings.output_dim] * settings.projection_layers, last_batch_norm=True)
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, 0–2: the paper's plus 1, so that no pairs cost 0."""
        first, second = self.head(pairs.first), self.head(pairs.second)
        rows = {"valid": pairs.valid, "weight": pairs.weight}
        distance = cosine_distance(self.predictor(first), second.detach(), **rows)
        distance = distance + cosine_distance(self.predictor(second), first.detach(), **rows)
        return {"loss": distance / 2}


class SimSiam(Framework):
    """SimSiam: settings and branch, nothing else."""

    branch_type = SimSiamBranch
    settings_type = SimSiamSettings
