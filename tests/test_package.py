"""The wheel: what is in it, and that it works beside a user's modules of the same names as the folders here."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("infoaug", "estimators", "models", "orchestrator", "configs", "LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree, built from a copy of it, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # links stay links, as in a clone
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A user's folder, with modules and packages of their own under the names that the folders here have."""
    for module in ("models", "estimators", "orchestrator", "configs"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise RuntimeError('the wrong package')\n", encoding="utf-8")
    (tmp_path / "models" / "backbones.py").write_text("raise RuntimeError('the wrong module')\n", encoding="utf-8")
    for module in ("models", "estimators", "utils", "cli", "settings", "twins"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('the wrong module')\n", encoding="utf-8")
    return tmp_path


def run_in(folder: Path, wheel: Path, *arguments: str) -> str:
    """Standard output of Python with the wheel alone on its path, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path, *suffixes: str) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found if not suffixes or path.suffix in suffixes}


def test_the_wheel_installs_one_package(wheel: Path) -> None:
    names = {path.name for path in wheel.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"infoaug"}


@pytest.mark.parametrize("folder", ["estimators", "models", "orchestrator"])
def test_the_wheel_has_every_module_and_template(wheel: Path, folder: str) -> None:
    kinds = (".py", ".html", ".css", ".js")
    assert files_below(wheel / "infoaug" / folder, *kinds) == files_below(ROOT / folder, *kinds)


def test_the_wheel_has_the_configs_and_the_marker_of_types(wheel: Path) -> None:
    configs = files_below(wheel / "infoaug" / "configs")
    assert {"demo.yaml", "recipes/simclr.yaml"} <= configs
    assert configs >= files_below(ROOT / "configs", ".yaml")
    assert (wheel / "infoaug" / "py.typed").is_file()


def test_the_wheel_has_its_licence_and_no_tests(wheel: Path) -> None:
    (about,) = wheel.glob("*.dist-info")
    assert (about / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    metadata = (about / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0" in metadata
    assert not [name for name in files_below(wheel) if "test" in name.rpartition("/")[2] or "/tests/" in name]
    assert not any(path.is_symlink() for path in wheel.rglob("*"))


def test_the_version_is_that_of_the_metadata(wheel: Path, tmp_path: Path) -> None:
    code = "import importlib.metadata as m, infoaug; print(infoaug.__version__, m.version('infoaug'))"
    ours, installed = run_in(tmp_path, wheel, "-c", code).split()
    assert ours == installed


def test_functions_work_beside_modules_of_the_same_names(wheel: Path, foreign: Path) -> None:
    code = (
        "import json, sys, numpy as np, infoaug\n"
        "x = np.random.default_rng(0).normal(size=(4, 30, 2))\n"
        "matrix = infoaug.pairwise_mutual_information(x, backend='reference')\n"
        "backbone = infoaug.create_backbone('resnet18', 32)\n"
        "framework = infoaug.frameworks.create('simclr', backbone)\n"
        "config = infoaug.load_config(None, {'score.k': 3})\n"
        "infoaug.run, infoaug.inspect, infoaug.extract_window, infoaug.scenes\n"
        "files = [m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'infoaug' and m.__file__]\n"
        "print(json.dumps([np.isfinite(matrix).sum().item(), backbone.num_features, config.score.k, files]))\n"
    )
    finite, features, k, files = json.loads(run_in(foreign, wheel, "-c", code).splitlines()[-1])
    assert (finite, features, k) == (12, 512, 3)
    assert len(files) > 30
    assert all(Path(file).is_relative_to(wheel) for file in files)


def test_the_command_works_beside_modules_of_the_same_names(wheel: Path, foreign: Path) -> None:
    packaged = wheel / "infoaug" / "configs" / "demo.yaml"
    output = run_in(foreign, wheel, "-m", "infoaug", "run", str(packaged), "--set", "score.k=3", "--dry-run")
    assert "k=3" in output
