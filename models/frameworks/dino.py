"""DINO: predict the momentum encoder's distribution over prototypes, centred and sharpened (Caron et al. 2021)."""

import torch
from torch import Tensor, nn

from infoaug.models.assignments import swapped_prediction
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import DINOSettings
from infoaug.models.heads import Prototypes, mlp
from infoaug.models.losses import counting
from infoaug.models.ranks import sum_over_ranks


class DINOBranch(Branch):
    """Student head, its momentum copy the teacher, the centre (eq. 4), and cross entropy of pairs of views (eq. 3).

    The teacher sees the two full views, the student the small ones too. The loss is the mean over the pairs, as in the
    authors' code. `center`: float[output_dim], the mean output of the teacher over past steps.
    """

    reads = ("first", "second", "momentum_first", "momentum_second", "small")
    weighs = True
    center: Tensor

    def __init__(self, num_features: int, settings: DINOSettings) -> None:
        super().__init__(num_features, settings)
        hidden = [settings.hidden_dim] * (settings.projection_layers - 1)
        self.head = mlp(num_features, *hidden, settings.bottleneck_dim, activation=nn.GELU)
        self.prototypes = Prototypes(settings.bottleneck_dim, settings.output_dim)
        self.momentum_head = self.momentum_copy(self.head)
        self.momentum_prototypes = self.momentum_copy(self.prototypes)
        self.register_buffer("center", torch.zeros(settings.output_dim))
        self.settings = settings

    def forward(self, pairs: Pairs) -> dict[str, Tensor]:
        """Loss of the valid pairs; the centre moves after, by the teacher's outputs for those pairs."""
        student = self.head(torch.cat(pairs.views))
        student = self.prototypes(student, frozen=self.progress < self.settings.frozen_share)
        teacher = self.momentum_head(torch.cat([pairs.momentum_first, pairs.momentum_second]))
        teacher = self.momentum_prototypes(teacher)
        targets = ((teacher - self.center) / self._teacher_temperature()).softmax(dim=1).chunk(2)
        parts = student.split([len(view) for view in pairs.views])
        logits = [part / self.settings.student_temperature for part in parts]
        if self.training:
            counts = counting(pairs.first, pairs.valid)
            shares = counts if pairs.weight is None else torch.where(counts, pairs.weight, 0.0)
            self._move_center(teacher, shares.repeat(2))
        return {"loss": swapped_prediction(logits, targets, valid=pairs.valid, weight=pairs.weight)}

    def _teacher_temperature(self) -> Tensor:
        start, end = self.settings.warmup_teacher_temperature, self.settings.teacher_temperature
        share = (self.progress / max(self.settings.warmup_share, 1e-12)).clamp(max=1)
        return start + (end - start) * share

    @torch.no_grad()
    def _move_center(self, outputs: Tensor, shares: Tensor) -> None:
        """Update the centre by the mean of the outputs of all ranks by their shares; if all are 0 it stays."""
        number = sum_over_ranks(shares.sum())
        total = torch.where(shares[:, None] > 0, outputs * shares[:, None], 0.0).sum(dim=0)
        mean = sum_over_ranks(total) / number.clamp(min=1)
        mean = torch.where(number > 0, mean, self.center)
        self.center = self.center.lerp(mean.to(self.center.dtype), 1 - self.settings.center_momentum)


class DINO(Framework):
    """DINO: settings and branch, nothing else."""

    branch_type = DINOBranch
    settings_type = DINOSettings
