"""Configs by name: what comes with infoaug, and what goes before it."""

from pathlib import Path

import pytest

from infoaug.orchestrator import config, named_configs
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep import config as sweep_config
from infoaug.orchestrator.sweep import trials


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder outside the clone."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "configs/demo.yaml", "./configs/demo.yaml"])
def test_a_config_of_the_package_is_found_by_its_name_anywhere(name: str) -> None:
    assert config.load(name).name == "demo"


def test_recipes_have_names_too() -> None:
    assert config.load("recipes/simclr").pretrain.framework == "simclr"
    assert {"clips", "demo", "laptop", "paper", "recipes/byol"} <= named_configs.known().keys()


def test_a_file_that_exists_goes_before_a_name(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("name: mine\n")
    assert config.load("demo").name == "mine"
    (tmp_path / "clips").mkdir()
    assert config.load("clips").name == "clips", "a folder is no config"


@pytest.mark.parametrize(
    ("name", "words"), [("dmeo", "did you mean 'demo'"), ("recipes/simcrl.yaml", "recipes/simclr")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one_and_how_to_list_all(name: str, words: str) -> None:
    with pytest.raises(UsageError, match="does not exist") as refused:
        config.load(name)
    assert words in str(refused.value) and "infoaug configs" in str(refused.value)


@pytest.mark.parametrize("name", ["../pyproject.toml", "..", "x" * 5000, "a\0b", "recipes"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        config.load(name)


def test_a_sweep_finds_its_recipes_outside_a_clone_and_is_the_same_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = trials.identity(sweep_config.load("laptop"))
    monkeypatch.chdir(Path(__file__).parents[2])
    assert trials.identity(sweep_config.load("configs/laptop.yaml")) == outside


def test_a_folder_of_recipes_that_exists_goes_before_the_package_s(tmp_path: Path) -> None:
    (tmp_path / "configs" / "recipes").mkdir(parents=True)
    (tmp_path / "configs" / "recipes" / "simclr.yaml").write_text("pretrain: {epochs: 7}\n")
    found = sweep_config.load(None, ["sweep.recipes=configs/recipes", "sweep.grid={seed: 0}"])
    assert found.sweep.recipes == {"simclr": {"epochs": 7}}


def test_every_config_says_in_its_first_sentence_what_it_is() -> None:
    summaries = {name: named_configs.summary(path) for name, path in named_configs.known().items()}
    assert all(10 < len(text) <= 100 for text in summaries.values()), summaries
