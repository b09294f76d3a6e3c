"""What the tests of MLflow need."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from infoaug.orchestrator.config import ExperimentConfig, load


@pytest.fixture
def config(database: Path, request: pytest.FixtureRequest) -> Callable[..., ExperimentConfig]:
    """Make configs that track into the test's own experiment."""
    experiment = re.sub(r"\W", "-", request.node.name)

    def make(*overrides: str) -> ExperimentConfig:
        return load(None, [f"tracking.uri=sqlite:///{database}", f"tracking.experiment={experiment}", *overrides])

    return make
