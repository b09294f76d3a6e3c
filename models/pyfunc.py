"""A backbone, from images to features, as MLflow loads it: `pyfunc` and `pytorch`. MLflow is not needed here."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infoaug.models.augment import Augment
from infoaug.models.backbones import load_backbone

BATCH = 256  # images that pass through the backbone at a time


class _OfPixels(nn.Module):
    """A backbone with the normalisation that it was trained with, for RGB images u8[N, 3, S, S]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.normalise = backbone, Augment.of(backbone).normalise

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(self.normalise(images))
        return features


def save_exported(backbone: nn.Module, image_size: int, path: Path) -> bool:
    """Write a backbone as a graph of PyTorch that `mlflow.pytorch.load_model` loads where infoaug is not installed.

    Args:
        backbone: as `load_backbone` gives it.
        image_size: S, pixels. The graph gives features f32[N, D] of RGB images u8[N, 3, S, S], any N.
        path: of the file, `model.pt2`.

    Returns:
        False, and there is no file, if this backbone cannot be exported, or this PyTorch would pickle its weights.
    """
    images = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)  # of one image the number would be fixed
    try:
        dynamic = ({0: torch.export.Dim("images")},)
        program = torch.export.export(_OfPixels(backbone.eval()), (images,), dynamic_shapes=dynamic)
        torch.export.save(program, path)
    except Exception:  # it raises errors of many kinds, for any code of a backbone that it cannot trace
        path.unlink(missing_ok=True)
        return False
    with zipfile.ZipFile(path) as archive:  # older versions have no such description, and pickle
        told = [name for name in archive.namelist() if name.endswith("weights_config.json")]
        plain = bool(told) and not any(b'"use_pickle": true' in archive.read(name) for name in told)
    if not plain:
        path.unlink()
    return plain


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
