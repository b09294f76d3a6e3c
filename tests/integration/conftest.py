"""One real, small Ray for all integration tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import cluster
from orchestrator.config import ExperimentConfig, RayConfig, load

# A whole experiment in seconds: two scenes of one window, a backbone of a thousandth of a ResNet-18's work.
TINY = [
    "name=tiny",
    "scenes.count=2",
    "scenes.frames=48",
    "extract.patch_size=40",
    "extract.image_size=16",
    "score.surrogates=200",
    "score.min_distance=60",
    "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    "pretrain.epochs=2",
    "pretrain.warmup_epochs=0",
    "pretrain.batch_size=32",
    "evaluate.limit=200",
    "ray.cpus=2",
    "ray.object_store_mb=100",
]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    with cluster.session(RayConfig()):
        cluster.connect(RayConfig(cpus=2, object_store_mb=100))
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> ExperimentConfig:
    """A tiny experiment whose store and database lie in the test's own folder."""
    return load(None, [*TINY, f"store={tmp_path / 'store'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"])
