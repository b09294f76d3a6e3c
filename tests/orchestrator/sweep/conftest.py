"""What the tests of sweeps in MLflow need: one real database, since making one takes seconds."""

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.config import load
from infoaug.orchestrator.runtime import mlflow_runs


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database; each test has an experiment of its own in it."""
    path = tmp_path_factory.mktemp("sweeps") / "mlflow.db"
    mlflow_runs.Run(load(None, [f"tracking.uri=sqlite:///{path}"]))
    return path


@pytest.fixture
def client(database: Path) -> MlflowClient:
    """What is in the database, not through our own code."""
    return MlflowClient(tracking_uri=f"sqlite:///{database}")


@pytest.fixture
def experiment(database: Path, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of an experiment that is tracked into the test's own, with a store of its own."""
    name = re.sub(r"\W", "-", request.node.name)
    tracked = {"uri": f"sqlite:///{database}", "experiment": name}
    return {"name": "mine", "store": str(tmp_path / "store"), "tracking": tracked}
