"""NNCLR: contrast with the nearest neighbour of a view instead of the view (Dwibedi et al. 2021)."""

import torch
from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import NNCLRSettings
from infoaug.models.heads import mlp
from infoaug.models.losses import counting, info_nce
from infoaug.models.queue import Queue


class NNCLRBranch(Branch):
    """Projector with a batch norm on its output, predictor, support set, and eq. 4 both ways (its algorithm 1).

    A neighbour may be an earlier projection of the same image or of its twin: the paper's support set is of all images
    as well. As the anchor is the neighbour, embeddings that show the neighbour's image are not negatives either.
    """

    weighs = True

    def __init__(self, num_features: int, settings: NNCLRSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.output_dim, last_batch_norm=True)
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)
        self.queue = Queue(settings.queue_size, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, and the lower bound of the mutual information of neighbour and prediction.

        Afterwards the projections of `first` join the support set.
        """
        first, second = self.head(pairs.first), self.head(pairs.second)
        forward = self._contrast(first, pairs.first_identity, second, pairs.second_image, pairs)
        backward = self._contrast(second, pairs.second_identity, first, pairs.first_image, pairs, pairs.repeated)
        if self.training:
            once = pairs.valid if pairs.repeated is None else counting(first, pairs.valid) & ~pairs.repeated
            self.queue.push(first.detach(), pairs.first_image, once)
        return {name: (forward[name] + backward[name]) / 2 for name in forward}

    def _contrast(
        self,
        own: Tensor,
        identity: Tensor | None,
        other: Tensor,
        other_image: Tensor | None,
        pairs: Pairs,
        repeated: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """InfoNCE of one side's neighbours with the predictions of the other side, which `repeated` rows repeat."""
        neighbour, image = self.queue.nearest(own)
        return info_nce(
            neighbour,
            self.predictor(other),
            temperature=self.settings.temperature,
            valid=pairs.valid,
            weight=pairs.weight,
            repeated=repeated,
            anchor_identity=None if identity is None else torch.cat([identity, image[:, None]], dim=1),
            positive_image=other_image,
            negatives=self.settings.negatives,
            progress=self.progress,
        )


class NNCLR(Framework):
    """NNCLR: settings and branch, nothing else."""

    branch_type = NNCLRBranch
    settings_type = NNCLRSettings
