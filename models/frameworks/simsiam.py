"""SimSiam: BYOL without the momentum encoder, the gradient of the target stopped (Chen & He 2021)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, FrameworkSettings, Pairs, Width
from infoaug.models.heads import mlp
from infoaug.models.losses import cosine_distance


class SimSiamSettings(FrameworkSettings, frozen=True):
    """Width and number of `projection_layers` of the projector, and hidden width of the predictor, a bottleneck.

    2048 and 512 are the paper's (section 3), as are two layers of projection for CIFAR-10 (appendix D; ImageNet: 3).
    """

    output_dim: Width = 2048
    projection_layers: Annotated[int, Field(ge=1)] = 2
    predictor_dim: Width = 512


class SimSiamBranch(Branch):
    """Projector with a batch norm on its output, predictor, and the negative cosine both ways (eq. 2) plus 1."""

    def __init__(self, num_features: int, settings: SimSiamSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, *[settings.output_dim] * settings.projection_layers, last_batch_norm=True)
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the pairs that count, 0–2: the paper's plus 1, so that no pairs cost 0."""
        first, second = self.head(pairs.first), self.head(pairs.second)
        distance = cosine_distance(self.predictor(first), second.detach(), valid=pairs.valid)
        distance = distance + cosine_distance(self.predictor(second), first.detach(), valid=pairs.valid)
        return {"loss": distance / 2}


class SimSiam(Framework):
    """SimSiam: settings and branch, nothing else."""

    settings_type, branch_type = SimSiamSettings, SimSiamBranch
