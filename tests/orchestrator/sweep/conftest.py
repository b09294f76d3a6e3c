"""What the tests of sweeps in MLflow need."""

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def experiment(database: Path, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of an experiment that is tracked into the test's own, with a store of its own."""
    name = re.sub(r"\W", "-", request.node.name)
    tracked = {"uri": f"sqlite:///{database}", "experiment": name}
    return {"name": "mine", "store": str(tmp_path / "store"), "tracking": tracked}
