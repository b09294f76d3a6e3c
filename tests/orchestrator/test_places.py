"""Relative paths of a config are found where the user stands, and beside the config, and change no identity."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from infoaug.orchestrator import named_configs, places
from infoaug.orchestrator.config import load
from infoaug.orchestrator.runtime.mlflow_runs import identity
from infoaug.orchestrator.stages import extract, masks
from infoaug.orchestrator.sweep.config import load as load_sweep
from tests.orchestrator.test_cli import infoaug


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a config in its folder `configs`, seen from an empty folder."""
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (here, project / "configs" / "mine", project / "videos" / "a", project / "configs" / "data" / "cat"):
        folder.mkdir(parents=True)
    (project / "configs" / "mine" / "simclr.yaml").write_text("pretrain: {epochs: 17}\n")
    for number in range(2):
        cv2.imwrite(str(project / "videos" / "a" / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    config = project / "configs" / "try.yaml"
    config.write_text("clips: {path: videos}\nsweep: {recipes: configs/mine, grid: {seed: [0]}}\n")
    monkeypatch.setenv(places.VARIABLE, "")
    monkeypatch.chdir(here)
    return config


def test_paths_are_found_beside_the_config_and_above_and_keep_the_identity(elsewhere: Path) -> None:
    config = load(None, ["clips.path=videos"])
    before = identity(config), extract.clips_digest(config)
    places.look_beside(elsewhere)
    assert load_sweep(elsewhere).sweep.recipes == {"simclr": {"epochs": 17}}
    (clip,) = extract.find(config, None)  # type: ignore[arg-type]
    assert (clip.clip_id, Path(clip.path)) == ("a", elsewhere.parents[1] / "videos" / "a")
    assert (identity(config), extract.clips_digest(config)) == before
    assert places.located("data") == elsewhere.parent / "data"
    assert places.located("videos/*/0.png") == elsewhere.parents[1] / "videos" / "*" / "0.png"
    assert masks.files_of("videos", "a") == sorted((elsewhere.parents[1] / "videos" / "a").iterdir())


def test_what_is_where_the_user_stands_comes_first_and_what_is_nowhere_keeps_its_name(elsewhere: Path) -> None:
    places.look_beside(elsewhere)
    Path("videos").mkdir()
    assert places.found("videos") == "videos"
    for name in ("nowhere", "https://host/videos", "cifar10", "x\0y", "~nobody/x", str(elsewhere.parent)):
        assert places.found(name) == name
    assert named_configs.folder("configs/recipes") == named_configs.FOLDER / "recipes"
    places.look_beside("demo")  # the name of a config is no file
    assert os.environ[places.VARIABLE] == str(elsewhere.parent)


def test_a_sweep_is_planned_from_anywhere(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"
    assert infoaug(monkeypatch, "sweep", str(elsewhere), "--dry-run", "--set", small) == 0
    told = capsys.readouterr().out
    assert told.startswith("trials    1, 0 done") and "\nclips     1 clips, about 2 frames" in told
    assert told.index("disk  ") < told.index("store: outputs"), "the config comes last"
