"""What several of these test files need."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from PIL import Image

from infoaug.orchestrator.config import load
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, score
from infoaug.orchestrator.synthetic.textures import labelled_images


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow for all tests, since making one takes seconds; each test has its own experiment in it."""
    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    mlflow_runs.Run(load(None, [f"tracking.uri=sqlite:///{path}"]))
    return path


@pytest.fixture
def client(database: Path) -> MlflowClient:
    """What is in the database, not through our own code."""
    return MlflowClient(tracking_uri=f"sqlite:///{database}")


def decoded(figure: Figure) -> NDArray[np.uint8]:
    """The picture in a figure's PNG bytes, as u8[H, W, 3]."""
    image = cv2.imdecode(np.frombuffer(figures.png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8)


def words(figure: Figure) -> str:
    """All that is written in a figure beside its axes."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    return "\n".join([*(axes.get_title("left") for axes in figure.axes), *(text.get_text() for text in texts)])


def scored_windows(folder: Path, clips: dict[str, Sequence[tuple[NDArray[np.uint8], Sequence[int]]]]) -> score.Scored:
    """What the stages before training leave on a store in `folder`: for each window of each clip its images
    u8[N, S, S, 3], or u8[N, K, S, S, 3] of the frames 0 to K − 1, and the patch's twin within the window, −1 where it
    has none."""
    store = Store(str(folder))
    table = pa.table(
        {
            "clip_id": [f"{clip}.mp4" for clip in clips],
            "folder": list(clips),
            "windows": [list(range(len(windows))) for windows in clips.values()],
        }
    )
    count = sum(map(len, clips.values()))
    extracted = extract.Extracted(StageFolder(store, "extract", {}), table, resumed=0, computed=count)
    ledger = pa.table({"patches": [len(twin) for windows in clips.values() for _, twin in windows]})
    found = score.Scored(StageFolder(store, "score", {}), extracted, ledger, resumed=0, computed=count)
    for clip, windows in clips.items():
        for number, (images, twin) in enumerate(windows):
            shown = images if images.ndim == 5 else images[:, None]
            at = np.tile(np.arange(shown.shape[1], dtype=np.int32), (len(shown), 1))
            table = extract.trajectories_table(clip, number, {"crops": shown, "crop_frames": at})
            store.write_table(extract.trajectory_path(extracted.stage, clip, number), table)
            names = pa.array([t if t >= 0 else None for t in twin], pa.int32())
            store.write_table(score.twins_path(found.stage, clip, number), pa.table({"twin": names}))
    return found


def write_domains(root: Path, count: int = 120, size: int = 16) -> None:
    """The rendered textures as three domains: plain, with inverted colours, and grey."""
    changes: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        "plain": lambda image: image,
        "inverted": lambda image: 255 - image,
        "grey": lambda image: np.repeat(image.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1),
    }
    for seed, (name, change) in enumerate(changes.items()):
        images, labels = labelled_images(seed, count, size)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / name / f"class-{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(image)).save(folder / f"{number:04d}.png")


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
