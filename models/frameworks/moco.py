"""MoCo v2: tell an image's key from a queue of earlier keys (He et al. 2020; Chen et al. 2020, arXiv 2003.04297)."""

from torch import Tensor

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import MoCoSettings
from infoaug.models.heads import mlp
from infoaug.models.losses import info_nce
from infoaug.models.queue import Queue


class MoCoBranch(Branch):
    """Head Linear–ReLU–Linear, its momentum copy, and InfoNCE against the queue (eq. 1); only `first` takes gradients.

    The paper shuffles batches between devices, so that a key's batch statistics do not give its query away. Here they
    are the global batch's instead, where `infoaug.models.batch_norm.synchronise` has been applied.
    """

    reads = ("first", "momentum_second")
    weighs = True

    def __init__(self, num_features: int, settings: MoCoSettings) -> None:
        super().__init__(num_features, settings)
        self.head = mlp(num_features, settings.hidden_dim or num_features, settings.output_dim, batch_norm=False)
        self.momentum_head = self.momentum_copy(self.head)
        self.queue = Queue(settings.queue_size, settings.output_dim)
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs, and the lower bound of their mutual information; keys join the queue after.

        While the queue still holds its initial random keys, it is not a bound: they are too easy to tell apart.
        """
        keys = self.momentum_head(pairs.momentum_second)
        output = info_nce(
            self.head(pairs.first),
            keys,
            temperature=self.settings.temperature,
            bank=self.queue.keys,
            bank_image=self.queue.image,
            valid=pairs.valid,
            weight=pairs.weight,
            anchor_identity=pairs.first_identity,
            negatives=self.settings.negatives,
            progress=self.progress,
        )
        if self.training:
            self.queue.push(keys, pairs.second_image, pairs.valid)
        return output


class MoCo(Framework):
    """MoCo v2: settings and branch, nothing else."""

    branch_type = MoCoBranch
    settings_type = MoCoSettings
