"""A saved backbone as `mlflow.pyfunc.load_model` loads it, from images to features; MLflow is not needed here."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infoaug.models.augment import Augment
from infoaug.models.backbones import load_backbone

BATCH = 256  # images that pass through the backbone at a time


class Features:
    """The frozen backbone on the CPU, with the normalisation that it was trained with."""

    def __init__(self, backbone: nn.Module) -> None:
        """`backbone`: as `load_backbone` gives it."""
        self._backbone, self._normalise = backbone.eval(), Augment.of(backbone).normalise

    @torch.no_grad()
    def predict(self, images: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Features f32[N, D] of RGB images u8[N, S, S, 3]; `params` are MLflow's, there are none.

        Raises:
            ValueError: another shape or dtype.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be u8[N, S, S, 3], not {images.dtype}{list(images.shape)}")
        parts = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(BATCH)
        found: NDArray[np.float32] = torch.cat([self._backbone(self._normalise(part)) for part in parts]).numpy()
        return found


def _load_pyfunc(path: str) -> Features:
    """What MLflow calls with the folder of the backbone's two files."""
    return Features(load_backbone(path))
