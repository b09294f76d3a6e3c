"""The rules of the house that no tool checks: who may import whom, docstrings, and a map that is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("estimators", "models", "orchestrator")
# What the files under a folder may not import, by the longest name that fits.
FORBIDDEN = {
    "estimators": ("infoaug.models", "infoaug.orchestrator", "ray", "mlflow"),
    "models": ("infoaug.estimators", "infoaug.orchestrator", "ray", "mlflow"),
    "orchestrator/runtime": tuple(
        f"infoaug.orchestrator.{name}"
        for name in ("stages", "evaluation", "reporting", "exporting", "sweep", "comparison", "experiment", "cli")
    ),
    "orchestrator/evaluation": ("infoaug.orchestrator.stages", "infoaug.orchestrator.reporting", "ray"),
    "orchestrator/stages": (
        "infoaug.orchestrator.reporting",
        "infoaug.orchestrator.sweep",
        "infoaug.orchestrator.comparison",
        "infoaug.orchestrator.experiment",
    ),
    "orchestrator/comparison": ("ray", "infoaug.orchestrator.sweep", "infoaug.orchestrator.stages"),
}
ONLY_IN = {"mlflow": "orchestrator/runtime/"}
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(source: str) -> set[str]:
    """Dotted names of all that a module imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def complaints(file: str, source: str) -> list[str]:
    """What a module does against the rules."""

    def is_of(name: str, package: str) -> bool:
        return name == package or name.startswith(f"{package}.")

    names = imports(source)
    forbidden = [name for folder, them in FORBIDDEN.items() if file.startswith(f"{folder}/") for name in them]
    forbidden += [name for name, where in ONLY_IN.items() if not file.startswith(where)]
    found = [f"imports {package}" for package in forbidden if any(is_of(name, package) for name in names)]
    found += [f"imports {name}" for name in PACKAGES if any(is_of(imported, name) for imported in names)]
    if not ast.get_docstring(ast.parse(source)):
        found.append("has no docstring")
    return sorted(set(found))


@pytest.mark.parametrize("file", FILES)
def test_a_module_keeps_the_rules_of_the_house(file: str) -> None:
    assert complaints(file, (ROOT / file).read_text(encoding="utf-8")) == []


def test_the_package_is_made_of_the_top_level_folders() -> None:
    for name in (*PACKAGES, "configs"):
        assert (ROOT / "infoaug" / name).resolve() == ROOT / name


def test_the_map_in_contributing_names_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+)/`", text))
    assert {Path(file).parent.as_posix() for file in FILES} <= named


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("models/losses.py", "import ray.train", "imports ray"),
        ("models/losses.py", "from infoaug.estimators import video", "imports infoaug.estimators"),
        ("models/losses.py", "def f():\n    from infoaug.orchestrator import cli", "imports infoaug.orchestrator"),
        ("estimators/video/clips.py", "import numpy, infoaug.models.losses as losses", "imports infoaug.models"),
        ("orchestrator/reporting/report.py", "from mlflow.tracking import MlflowClient", "imports mlflow"),
        (
            "orchestrator/runtime/store.py",
            "from infoaug.orchestrator import stages",
            "imports infoaug.orchestrator.stages",
        ),
        ("orchestrator/reporting/report.py", "x = 1", "has no docstring"),
        ("orchestrator/reporting/report.py", "from models import losses", "imports models"),
    ],
)
def test_a_broken_rule_is_found(file: str, source: str, complaint: str) -> None:
    assert complaint in complaints(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("orchestrator/runtime/mlflow_runs.py", '"""MLflow."""\nimport mlflow\nfrom infoaug.models import losses\n'),
        (
            "orchestrator/stages/pretrain.py",
            '"""Pretrain."""\nimport ray.train\nfrom infoaug.estimators import video\n',
        ),
        (
            "models/two_branch.py",
            '"""Two branches."""\nfrom infoaug.models.frameworks import base\nimport raytracing\n',
        ),
    ],
)
def test_what_the_rules_allow_is_let_pass(file: str, source: str) -> None:
    assert complaints(file, source) == []
