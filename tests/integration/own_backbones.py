"""A backbone whose worker dies once, in the middle of a training."""

import os
from pathlib import Path

from torch import Tensor

from tests.models.own_models import Tiny


class Dying(Tiny):
    """Ends its process at a pass of the training, unless it did so before."""

    def __init__(self, image_size: int, marker: str, at: int) -> None:
        super().__init__(image_size)
        self.marker, self.at, self.passes = Path(marker), at, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images) > 2  # two are those of a check before the training
        if self.passes == self.at and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return super().forward(images)
