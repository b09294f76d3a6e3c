"""Figures say what they were given, and say so in words where there is nothing to draw."""

import cv2
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator import figures

T = 24
HEIGHT, WIDTH = 120, 160


def window(
    columns: int = 8, rows: int = 6, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], list[str]]:
    """Made-up tracks on a made-up frame: random walks of several sizes, some still, some lost half-way."""
    rng = np.random.default_rng(seed)
    frame = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    count = columns * rows
    grid = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1).reshape(-1, 1, 2)
    start = grid * (WIDTH / columns, HEIGHT / rows)
    size = np.exp(rng.uniform(-2, 0.7, count))
    size[rng.random(count) < 0.3] = 0.02
    steps = rng.normal(size=(count, T, 2)) * size[:, None, None]
    position = start + np.cumsum(steps, 1) - steps[:, :1]
    visible = np.ones((count, T), bool)
    lost = rng.random(count) < 0.1
    visible[lost, 5:] = False
    visible[1, 8:12] = False
    spread = np.sqrt((position - position.mean(1, keepdims=True)).var(1).sum(-1))
    has = rng.random(count) < 0.5
    reason = ["lost" if g else "static" if s < 0.3 else "" if h else "not significant" for g, s, h in zip(lost, spread, has, strict=True)]
    return frame, position.astype(np.float32), visible, spread, reason
