"""Trainings so small that a test can run them."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from infoaug.models.training import Pairs, Training, TrainingSettings

CPU = torch.device("cpu")
PARTS = ("model", "optimizer", "schedule")  # of a state
SMALL: dict[str, dict[str, Any]] = {
    "barlow_twins": {"hidden_dim": 16, "output_dim": 16},
    "byol": {"hidden_dim": 16, "output_dim": 8},
    "dcl": {},
    "dino": {"hidden_dim": 16, "bottleneck_dim": 8, "output_dim": 16},
    "moco": {"queue_size": 32},
    "nnclr": {"hidden_dim": 16, "output_dim": 8, "predictor_dim": 16, "queue_size": 32},
    "simclr": {},
    "simsiam": {"output_dim": 16, "predictor_dim": 8},
    "swav": {"prototypes": 8},
    "vicreg": {"hidden_dim": 16, "output_dim": 16},
}


def small_settings(framework: str = "simclr", **changes: Any) -> TrainingSettings:
    """Three epochs of a ResNet of a thousandth of a ResNet-18's work."""
    values: dict[str, Any] = {
        "framework": framework,
        "framework_settings": SMALL[framework],
        "backbone_settings": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "drop_rate": 0.1},
        "image_size": 16,
        "epochs": 3,
        "warmup_epochs": 1,
        "batch_size": 8,
        "precision": "float32",
    }
    return TrainingSettings(**values | changes)


def random_pairs(count: int = 28) -> Pairs:
    """Random images, half of them with a random twin."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=random)
    twin = torch.randint(0, count, (count,), generator=random)
    return Pairs(images, torch.where(torch.rand(count, generator=random) < 0.5, twin, -1))


def pairs_with_stills(count: int = 28, stills: int = 10) -> Pairs:
    """Those random images with their twins, and as many still images beside them."""
    pairs = random_pairs(count)
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (stills, 3, 16, 16), dtype=torch.uint8, generator=random)
    return Pairs.from_arrays(pairs.images, pairs.twin, images)


def random_tracks(count: int = 28) -> Pairs:
    """Random images of up to three times of a track; a third of the patches has a random twin, a third is its own."""
    random = np.random.default_rng(0)
    frames = np.where(np.arange(3) < random.integers(1, 4, (count, 1)), np.arange(3) * 5, -1)
    twin = np.where(np.arange(count) % 3 == 0, random.integers(0, count, count), -1)
    twin = np.where(np.arange(count) % 3 == 1, np.arange(count), twin)
    images = random.integers(0, 256, (count, 3, 16, 16, 3), np.uint8)
    return Pairs.from_arrays(images, twin, frames=frames)


def several_partners(count: int = 28) -> Pairs:
    """Those tracks, of which those with a twin of another track have up to three partners of different strength."""
    tracks, random = random_tracks(count), np.random.default_rng(1)
    further = random.integers(0, count, (count, 2))
    further[(tracks.twin < 0) | (tracks.twin == torch.arange(count))] = -1
    further[::6, 1] = -1
    strength = torch.from_numpy(random.random((count, 3), np.float32))
    return replace(tracks, others=torch.from_numpy(further), strength=strength)


def trained(settings: TrainingSettings, data: Pairs, epochs: int = 3) -> Training:
    """A training after these epochs."""
    training = Training(settings, data, CPU)
    for _ in range(epochs):
        training.epoch()
    return training


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
