"""What several of these test files need."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator import figures


def decoded(figure: Figure) -> NDArray[np.uint8]:
    """The picture in a figure's PNG bytes, as u8[H, W, 3]."""
    image = cv2.imdecode(np.frombuffer(figures.png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


def words(figure: Figure) -> str:
    """All that is written in a figure beside its axes."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    return "\n".join([*(axes.get_title("left") for axes in figure.axes), *(text.get_text() for text in texts)])


@pytest.fixture
def in_another_process() -> Callable[[str], str]:
    """Run Python code in a process of its own, with another hash seed; what it printed."""

    def run(code: str) -> str:
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": "123"}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return ran.stdout.strip()

    return run
