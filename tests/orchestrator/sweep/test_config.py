"""A sweep's config: reading, writing, and errors that name the setting."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from infoaug.orchestrator import config as experiment_config
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import Range, SweepConfig, load
from tests.orchestrator.sweep.made import config

SPACE = {"pretrain.learning_rate": [0.1, 0.2]}


def refused(sweep: Any, **experiment: Any) -> str:
    """The one-line message that refuses a section."""
    with pytest.raises(UsageError) as caught:
        config(experiment, **sweep)
    assert "\n" not in str(caught.value)
    assert "(got {" not in str(caught.value)
    return str(caught.value)


def file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- what is read


def test_a_value_that_stands_alone_is_a_list_of_one_and_a_grid_that_stands_alone_a_list_of_one() -> None:
    assert config(grid={"policy": "none", "seed": [0, 1]}).sweep.grid == [{"policy": ["none"], "seed": [0, 1]}]
    assert config(grid=[{"negatives": {"kind": "ring"}}]).sweep.grid == [{"negatives": [{"kind": "ring"}]}]


def test_a_mapping_in_a_space_is_a_range_and_all_else_are_values() -> None:
    space = {"a": {"low": 1, "high": 9}, "b": {"low": 0.1, "high": 1, "log": True}, "c": [1, 2], "d": "x"}
    read = config(search="random", space=space).sweep.space
    assert read == {"a": Range(low=1, high=9), "b": Range(low=0.1, high=1, log=True), "c": [1, 2], "d": ["x"]}


@pytest.mark.parametrize(
    "sweep",
    [
        {"grid": [{"policy": ["none", "random"], "twin_weight": [0.1]}, {"negatives": [{"kind": "ball"}, "all"]}]},
        {"search": "optuna", "space": {"pretrain.learning_rate": {"low": 0.01, "high": 1, "log": True}, "seed": [0]}},
        {"grid": [{"seed": [0]}], "scheduler": "asha", "grace_epochs": 3},
    ],
)
def test_yaml_reads_back_to_an_equal_config_with_the_same_trials(sweep: dict[str, Any], tmp_path: Path) -> None:
    made = config({"name": "mine", "evaluate": {"every": 5}}, **sweep)
    again = load(file(tmp_path, made.to_yaml()))
    assert again == made
    assert trials.planned(again) == trials.planned(made)
    assert trials.identity(again) == trials.identity(made)


def test_yaml_leaves_to_recipes_what_was_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "simclr.yaml").write_text("pretrain: {epochs: 7, learning_rate: 0.5}")
    made = config({"pretrain": {"learning_rate": 0.25}}, grid=[{"seed": [0]}], recipes=str(tmp_path))
    again = load(file(tmp_path, made.to_yaml()))
    (trial,) = trials.planned(again)
    assert (trial.config.pretrain.epochs, trial.config.pretrain.learning_rate) == (7, 0.25)
    assert trials.identity(again) == trials.identity(made)


def test_overrides_reach_into_the_section(tmp_path: Path) -> None:
    path = file(tmp_path, "sweep: {grid: [{seed: [0]}]}")
    read = load(path, ["sweep.budget=passes", "sweep.grid=[{policy: [none, random]}]", "pretrain.epochs=3"])
    assert (read.sweep.budget, read.sweep.grid) == ("passes", [{"policy": ["none", "random"]}])
    assert read.pretrain.epochs == 3


# ---- mistakes


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ({}, "sweep: search 'grid' needs values in `grid`"),
        ({"grid": []}, "sweep: search 'grid' needs values in `grid`"),
        ({"grid": [{"seed": [0]}], "space": SPACE}, "search 'grid' needs values in `grid`, and none in `space`"),
        ({"search": "random", "grid": [{"seed": [0]}]}, "search 'random' needs values in `space`"),
        ({"search": "optuna", "grid": [{"seed": [0]}], "space": SPACE}, "'optuna' needs values in `space`"),
        ({"grid": [{"seed": []}]}, "sweep.grid.0.seed: value should have at least 1 item"),
        ({"grid": 3}, "sweep.grid: input should be a valid list (got 3)"),
        ({"gird": [{"seed": [0]}]}, "unknown key 'sweep.gird'; did you mean 'sweep.grid'?"),
        ({"grid": [{"seed": [0]}], "search": "bayes"}, "sweep.search: input should be 'grid', 'random' or 'optuna'"),
        ({"search": "random", "space": {"x": {"low": 3, "high": 1}}}, "sweep.space.x.range: a range needs low < high"),
        ({"search": "random", "space": {"x": {"low": 1, "high": 1}}}, "sweep.space.x.range: a range needs low < high"),
        ({"search": "random", "space": {"x": {"low": 0, "high": 1, "log": True}}}, "0 < low if log, got 0 to 1"),
        ({"search": "random", "space": {"x": {"low": 1}}}, "'sweep.space.x.range.high' is missing"),
        ({"search": "random", "space": {"x": {"low": 1, "hihg": 2}}}, "unknown key 'sweep.space.x.range.hihg'"),
        ({"search": "random", "space": {"x": {"low": 1, "high": "much"}}}, "sweep.space.x.range.high"),
        ({"search": "random", "space": SPACE, "samples": 0}, "sweep.samples: input should be greater than"),
        ({"grid": [{"seed": [0]}], "concurrent": 0}, "sweep.concurrent: input should be greater than"),
        ({"grid": [{"seed": [0]}], "reduction": 1}, "sweep.reduction: input should be greater than"),
        ({"grid": [{"seed": [0]}], "scheduler": "asha"}, "sweep.scheduler 'asha' compares accuracies"),
    ],
)
def test_an_error_names_the_setting_and_the_remedy(sweep: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(sweep)


def test_a_sweep_needs_something_to_compare_on() -> None:
    told = refused({"grid": [{"seed": [0]}]}, evaluate={"datasets": []})
    assert told == "a sweep compares accuracies: name a data set, as in evaluate.datasets"


def test_asha_is_taken_where_accuracy_is_measured_while_training() -> None:
    made = config({"evaluate": {"every": 2}}, grid=[{"seed": [0]}], scheduler="asha")
    assert made.sweep.scheduler == "asha"


def test_settings_of_the_experiment_are_checked() -> None:
    assert "unknown key 'score.kk'; did you mean 'score.k'?" in refused({"grid": [{"seed": [0]}]}, score={"kk": 1})


def test_a_misspelt_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'sweeep'; did you mean 'sweep'\?") as caught:
        load(file(tmp_path, "sweeep: {grid: [{seed: [0]}]}"))
    assert "(got {" not in str(caught.value)


@pytest.mark.parametrize("text", ["name: mine", "", "score: {k: 3}"])
def test_an_experiment_s_config_is_no_sweep_s(tmp_path: Path, text: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path)
    told = str(caught.value)
    assert told == f"{path}: has no section sweep, which says what is varied: `infoaug run` runs one experiment"


def test_a_sweep_s_config_is_no_experiment_s(tmp_path: Path) -> None:
    path = file(tmp_path, yaml.safe_dump({"sweep": {"grid": [{"seed": [0]}]}}))
    with pytest.raises(UsageError) as caught:
        experiment_config.load(path)
    assert str(caught.value) == f"{path}: this is the config of a sweep: run `infoaug sweep` with it"
    assert isinstance(load(path), SweepConfig)


# ---- settings of frameworks


def refused_file(folder: Path, text: str, *overrides: str) -> str:
    """The one-line message that refuses a file."""
    with pytest.raises(UsageError) as caught:
        load(file(folder, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GRID = "sweep: {grid: [{framework: [simclr, moco]}]}\n"
WRONG_SETTINGS = [
    (GRID + "pretrain: {framework_settings: {temprature: 1}}", ["temprature'; did you mean", "settings.temperature'"]),
    (GRID + "pretrain: {framework_settings: {temperature: hot}}", ["pretrain.framework_settings.temperature", "'hot'"]),
    (
        GRID + "pretrain: {framework_settings: {queue_size: 9}}",
        ["unknown key 'pretrain.framework_settings.queue_size'"],
    ),
    (GRID + "pretrain: {augment: {flipp: 1}}", ["pretrain.augment.flipp", "pretrain.augment.flip'"]),
    (
        "sweep: {grid: [{framework: simclr}], frameworks: {byol: {framework_settings: {hiden_dim: 9}}}}",
        ["sweep.frameworks.byol", "pretrain.framework_settings.hiden_dim", "hidden_dim'"],
    ),
    ("sweep: {grid: [{seed: 0}], frameworks: {simclrr: {epochs: 3}}}", ["sweep.frameworks.simclrr", "'simclr'"]),
    (
        "sweep: {grid: [{seed: 0}], recipes: {byol: {augment: {flipp: 1}}}}",
        ["sweep.recipes.byol", "pretrain.augment.flipp"],
    ),
    (
        "sweep: {search: optuna, space: {framework: [dcl, byol]}}\npretrain: {framework_settings: {temperature: 1}}",
        ["unknown key 'pretrain.framework_settings.temperature'"],
    ),
    (
        "sweep: {search: optuna, space: {pretrain.framework: [dino]}}\npretrain: {framework_settings: {momentum: 1}}",
        ["pretrain.framework_settings.momentum"],
    ),
]


@pytest.mark.parametrize(("text", "words"), WRONG_SETTINGS)
def test_wrong_settings_of_a_framework_are_refused_when_the_sweep_is_loaded(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    message = refused_file(tmp_path, text)
    assert all(word in message for word in [str(tmp_path), *words]), message


def test_wrong_settings_of_a_framework_in_an_override_are_refused(tmp_path: Path) -> None:
    assert "did you mean" in refused_file(tmp_path, GRID, "pretrain.framework_settings.temprature=1")


def test_settings_that_all_frameworks_of_a_sweep_share_need_not_fit_the_default_framework(tmp_path: Path) -> None:
    text = "sweep: {grid: [{framework: [byol, moco]}]}\npretrain: {framework_settings: {momentum: {base: 1}}}"
    settings = load(file(tmp_path, text))
    assert settings.pretrain.model_dump(exclude_unset=True) == {"framework_settings": {"momentum": {"base": 1}}}
    assert [t.config.pretrain.framework_settings.momentum.base for t in trials.planned(settings)] == [1.0, 1.0]


def test_negatives_may_be_set_although_some_frameworks_of_a_sweep_have_none(tmp_path: Path) -> None:
    text = "sweep: {grid: [{framework: [byol, moco]}]}\npretrain: {framework_settings: {negatives: {kind: ring}}}"
    assert [trial.negatives for trial in trials.planned(load(file(tmp_path, text)))] == ["", "ring"]


# ---- settings of earlier versions


@pytest.mark.parametrize(
    ("old", "new"), [("extract.patience", "extract.read_timeout"), ("pretrain.resident", "pretrain.images_on_device")]
)
def test_an_old_name_is_refused_with_the_new_one_wherever_it_is_given(tmp_path: Path, old: str, new: str) -> None:
    section, _, name = old.partition(".")
    sweep = "sweep: {grid: [{seed: [0]}]}\n"
    messages = [refused_file(tmp_path, f"{sweep}{section}: {{{name}: 3}}"), refused_file(tmp_path, sweep, f"{old}=3")]
    for varied in ("grid: [{%s: [1, 2]}]", "search: random, space: {%s: [1, 2]}"):
        with pytest.raises(UsageError) as caught:
            trials.planned(load(file(tmp_path, f"sweep: {{{varied % old}}}")))
        messages.append(str(caught.value))
    assert all(f"'{old}' is now called '{new}'" in message for message in messages), messages


def test_an_old_name_among_the_settings_of_one_framework_is_refused_with_the_new_one(tmp_path: Path) -> None:
    message = refused_file(tmp_path, "sweep: {grid: [{seed: [0]}], frameworks: {simclr: {resident: true}}}")
    assert "sweep.frameworks.simclr: 'pretrain.resident' is now called 'pretrain.images_on_device'" in message
