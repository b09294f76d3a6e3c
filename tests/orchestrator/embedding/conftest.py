"""Small backbones and images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infoaug.models.backbones import create_backbone, save_backbone

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved ResNet of 16 features, for 32 pixels."""
    torch.manual_seed(0)
    return save_backbone(create_backbone("resnet18", 32, **SMALL), tmp_path_factory.mktemp("net"), mean=MEAN, std=STD)


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved ViT of 24 features, for 32 pixels, with patches of 4."""
    torch.manual_seed(0)
    built = create_backbone("vit_tiny_patch16_224", 32, depth=1, embed_dim=24, num_heads=2)
    return save_backbone(built, tmp_path_factory.mktemp("vit"), mean=MEAN, std=STD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 images of different sizes in nested folders, `a/b/00.png` to `c/22.png`."""
    rng = np.random.default_rng(0)
    for i in range(23):
        path = tmp_path / "images" / ("a/b" if i < 9 else "c") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32 + i, 40, 3), np.uint8))
    return tmp_path / "images"


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[[str, int], Path]:
    """Write a lossless video of so many frames, of which each has one brightness of its own, ten times its number."""

    def write(name: str, count: int) -> Path:
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10, (48, 32))
        for number in range(count):
            writer.write(np.full((32, 48, 3), 10 * number, np.uint8))
        writer.release()
        return path

    return write
