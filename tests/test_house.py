"""The rules of the house that no tool checks: who may import whom, docstrings, short files, and a map that is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("estimators", "models", "orchestrator")
FORBIDDEN = {
    "estimators": {"orchestrator", "models", "ray", "mlflow"},
    "models": {"orchestrator", "estimators", "ray", "mlflow"},
    "orchestrator": set(),
}
ONLY_IN = {"mlflow": ("orchestrator/tracking.py", "orchestrator/mlflow_client.py")}
LONGEST = 350  # lines; a longer file holds two things
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(source: str) -> set[str]:
    """Top-level names of all that a module imports from elsewhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def complaints(file: str, source: str) -> list[str]:
    """What a module of the house does against its rules."""
    imported = imports(source)
    found = [f"imports {name}" for name in sorted(imported & FORBIDDEN[file.partition("/")[0]])]
    found += [f"imports {name}" for name, where in ONLY_IN.items() if name in imported and file not in where]
    if not ast.get_docstring(ast.parse(source)):
        found.append("has no docstring")
    lines = source.count("\n")
    if lines >= LONGEST:
        found.append(f"has {lines} lines")
    return sorted(set(found))


@pytest.mark.parametrize("file", FILES)
def test_a_module_keeps_the_rules_of_the_house(file: str) -> None:
    assert complaints(file, (ROOT / file).read_text(encoding="utf-8")) == []


def test_all_three_packages_are_looked_at() -> None:
    assert {file.partition("/")[0] for file in FILES} == set(PACKAGES)
    assert {"models/frameworks/simclr.py", "orchestrator/tracking.py", "estimators/twins.py"} <= set(FILES)


def test_the_map_in_contributing_names_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE))
    assert named == {file for file in FILES if not file.endswith("__init__.py")}


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("models/losses.py", "import ray.train", "imports ray"),
        ("models/losses.py", "from estimators import twins", "imports estimators"),
        ("models/frameworks/simclr.py", "def f():\n    from orchestrator.store import Store", "imports orchestrator"),
        ("estimators/twins.py", "import numpy, models.losses as losses", "imports models"),
        ("estimators/twins.py", "import mlflow", "imports mlflow"),
        ("orchestrator/report.py", "from mlflow.tracking import MlflowClient", "imports mlflow"),
        ("orchestrator/report.py", "x = 1", "has no docstring"),
        ("orchestrator/report.py", '"""Report."""\n' + "x = 1\n" * 349, "has 350 lines"),
    ],
)
def test_a_broken_rule_is_found(file: str, source: str, complaint: str) -> None:
    assert complaint in complaints(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("orchestrator/tracking.py", '"""MLflow."""\nimport mlflow\nfrom models import losses\n'),
        ("orchestrator/pretrain.py", '"""Pretrain."""\nimport ray.train\nfrom estimators.twins import find_twins\n'),
        ("models/two_branch.py", '"""Two branches."""\nfrom models.frameworks import base\nimport raytracing\n'),
    ],
)
def test_what_the_rules_allow_is_let_pass(file: str, source: str) -> None:
    assert complaints(file, source) == []
