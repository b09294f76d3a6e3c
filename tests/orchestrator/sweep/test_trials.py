"""The trials of a sweep: each experiment once, each with a unique name, and errors that name the setting."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.models import frameworks
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import load
from tests.orchestrator.sweep.made import ALL_POLICIES, config, grid

RECIPES = Path(__file__).parents[3] / "configs" / "recipes"


def names(*blocks: dict[str, Any], **settings: Any) -> list[str]:
    return [trial.name for trial in grid(*blocks, **settings)]


def refused(point: dict[str, Any], **settings: Any) -> str:
    """The one sentence that a point is refused with."""
    with pytest.raises(UsageError) as caught:
        trials.make(config(grid=[{"seed": [0]}], **settings), point)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- which trials


def test_trials_without_twins_of_other_tracks_are_not_repeated_for_another_time_of_them() -> None:
    policies = ["none", "later", "mutual-information", "later+mutual-information"]
    found = grid({"policy": policies, "pretrain.twin_time": ["nearest", "same"]})
    assert [(trial.config.score.policy, trial.config.pretrain.twin_time) for trial in found] == [
        ("none", "own"),
        ("later", "own"),
        *((policy, time) for policy in policies[2:] for time in ("nearest", "same")),
    ]


def test_trials_without_other_tracks_are_not_repeated_for_more_of_them_nor_one_twin_for_how_it_is_chosen() -> None:
    found = grid({
        "policy": ["later", "mutual-information"], "pretrain.twins": [1, 3], "pretrain.twin_choice": ["uniform", "all"],
    })  # fmt: skip
    assert [
        (trial.config.score.policy, trial.config.pretrain.twins, trial.config.pretrain.twin_choice) for trial in found
    ] == [
        ("later", 1, "uniform"),
        ("mutual-information", 1, "uniform"),
        ("mutual-information", 3, "uniform"),
        ("mutual-information", 3, "all"),
    ]


def test_a_grid_is_all_combinations_and_grids_are_put_together_in_order() -> None:
    assert names({"framework": ["byol", "simclr"], "seed": [0, 1]}, {"framework": "vicreg", "seed": 7}) == [
        "byol-mutual-information-w0.5-s0",
        "byol-mutual-information-w0.5-s1",
        "simclr-mutual-information-w0.5-s0",
        "simclr-mutual-information-w0.5-s1",
        "vicreg-mutual-information-w0.5-s7",
    ]


def test_without_twins_the_weight_makes_no_other_trial() -> None:
    found = grid({"policy": ["none", "random"], "twin_weight": [0.25, 0.5, 1]})
    assert [trial.name for trial in found] == [
        "simclr-none-s0",
        *(f"simclr-random-w{w}-s0" for w in ("0.25", "0.5", "1")),
    ]
    assert len({trial.identity for trial in found}) == 4


@pytest.mark.parametrize("nothing", [0, 0.0, "0", "0.0"])
def test_the_weight_0_is_a_trial_without_twins(nothing: Any) -> None:
    (trial,) = grid({"policy": ALL_POLICIES, "twin_weight": nothing})
    assert (trial.name, trial.config.score.policy) == ("simclr-none-s0", "none")
    assert trial.identity == grid({"policy": "none"})[0].identity


def test_trials_without_twins_are_one_whatever_weight_the_sweep_starts_from() -> None:
    found = grid({"policy": "none", "twin_weight": [0, 1]}, experiment={"pretrain": {"twin_weight": 0}})
    assert [trial.name for trial in found] == ["simclr-none-s0"]


def test_negatives_of_a_framework_without_negatives_make_no_other_trial() -> None:
    found = grid({"framework": ["simclr", "byol"], "negatives": ["all", "ball", "ring"]})
    assert [(trial.config.pretrain.framework, trial.negatives) for trial in found] == [
        ("simclr", "all"),
        ("simclr", "ball"),
        ("simclr", "ring"),
        ("byol", ""),
    ]
    assert "negatives" not in found[-1].config.pretrain.framework_settings.written()


def test_negatives_of_the_sweep_s_config_are_for_the_frameworks_that_have_them() -> None:
    experiment = {"pretrain": {"framework_settings": {"negatives": {"kind": "ring", "outer": 0.2}}}}
    found = grid({"framework": ["moco", "vicreg"]}, experiment=experiment)
    assert [trial.negatives for trial in found] == ["ring(outer=0.2)", ""]


def test_a_kind_of_negatives_is_as_good_as_a_mapping_with_it() -> None:
    (trial,) = grid({"negatives": ["ring", {"kind": "ring"}, {"kind": "ring", "inner": 0.01}]})
    assert trial.config.pretrain.framework_settings.written() == {"negatives": {"kind": "ring"}}


def test_all_negatives_are_those_of_a_framework_of_which_none_are_named() -> None:
    found = grid({"policy": "none"}, {"policy": "none", "negatives": ["all", {"kind": "all", "outer": 0.5}, "ball"]})
    assert [trial.negatives for trial in found] == ["all", "ball"]


def test_the_same_experiment_in_two_grids_is_one_trial() -> None:
    assert len(grid({"seed": [0, 1]}, {"policy": "mutual-information", "seed": [1, 2]})) == 3
    assert len(grid({"seed": [0], "pretrain.learning_rate": [0.12, "1.2e-1"]}, {"seed": [0]})) == 1
    assert len(grid({}, {})) == 1


def test_the_seed_is_the_config_s_where_it_is_not_varied() -> None:
    (trial,) = grid({"policy": "none"}, experiment={"seed": 5})
    assert (trial.config.seed, trial.name) == (5, "simclr-none-s5")


def test_any_setting_of_what_a_training_depends_on_can_be_varied() -> None:
    (trial,) = grid(
        {
            "pretrain.optimizer_settings.trust_coeff": 0.1,
            "score.k": 3,
            "extract.window": 32,
            "scenes.seed": 4,
            "seed": 2,
        }
    )
    made = trial.config
    assert made.pretrain.optimizer_settings == {"trust_coeff": 0.1}
    assert (made.score.k, made.extract.window, made.scenes.seed, made.seed) == (3, 32, 4, 2)


def test_a_trial_keeps_all_that_is_not_varied() -> None:
    experiment = {"name": "mine", "store": "there", "pretrain": {"epochs": 3}, "evaluate": {"datasets": ["cifar10"]}}
    made = grid({"policy": "none"}, experiment=experiment)[0].config
    assert (made.name, made.store, made.pretrain.epochs, made.evaluate.datasets) == ("mine", "there", 3, ["cifar10"])


def test_what_lies_deeper_is_set_on_top_of_what_it_lies_in() -> None:
    deep, flat = "pretrain.framework_settings.temperature", "pretrain.framework_settings"
    for point in ({deep: 0.1, flat: {"output_dim": 16}}, {flat: {"output_dim": 16}, deep: 0.1}):
        made = trials.make(config(grid=[point]), point)
        assert made.config.pretrain.framework_settings.written() == {"output_dim": 16, "temperature": 0.1}


def test_what_else_is_varied_is_told_of_every_trial_also_of_those_that_do_not_name_it() -> None:
    found = grid({"backbone": ["resnet34"], "pretrain.framework_settings.temperature": [0.1]}, {"policy": "none"})
    key = "pretrain.framework_settings.temperature"
    assert [trial.other for trial in found] == [
        {"pretrain.backbone": "resnet34", key: "0.1"},
        {"pretrain.backbone": "resnet18", key: "default"},
    ]
    assert not grid({"framework": "byol", "policy": "none", "twin_weight": 1, "negatives": "all", "seed": 1})[0].other


# ---- mistakes


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"framwork": "simclr"}, ["unknown key 'framwork'", "framework"]),
        ({"pretrain.epoch": 3}, ["unknown key 'pretrain.epoch'; did you mean 'pretrain.epochs'"]),
        ({"pretrian.epochs": 3}, ["unknown key 'pretrian'; did you mean 'pretrain'"]),
        ({"pretrain.epochs": "many"}, ["sweep: pretrain.epochs=many", "integer"]),
        ({"pretrain.epochs.more": 3}, ["pretrain.epochs"]),
        ({"framework": "simclrr"}, ["unknown framework 'simclrr', did you mean 'simclr'?"]),
        ({"framework": None}, ["pretrain.framework", "got None"]),
        ({"framework": ["simclr"]}, ["pretrain.framework", "string"]),
        ({"policy": "nearst"}, ["score.policy", "'nearest'"]),
        ({"twin_weight": -1}, ["pretrain.twin_weight", "greater than or equal to 0"]),
        ({"negatives": "rings"}, ["pretrain.framework_settings.negatives.kind", "'ring'", "got 'rings'"]),
        (
            {"negatives": {"knd": "ring"}},
            ["unknown key 'pretrain.framework_settings.negatives.knd'", "negatives.kind'"],
        ),
        ({"negatives": {"kind": "ring", "inner": 0.5}}, ["a ring needs 0 < inner < outer"]),
        ({"negatives": 3}, ["pretrain.framework_settings.negatives", "got 3"]),
        ({"negatives": None}, ["pretrain.framework_settings.negatives", "got None"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0"]),
        ({"name": "other"}, ["'name' cannot be varied", "clips, scenes, extract, score, pretrain"]),
        ({"store": "there"}, ["'store' cannot be varied"]),
        ({"ray.cpus": 1}, ["'ray.cpus' cannot be varied"]),
        ({"tracking.uri": "x"}, ["'tracking.uri' cannot be varied"]),
        ({"evaluate.neighbours": 5}, ["'evaluate.neighbours' cannot be varied"]),
        ({"pretrain.workers": 2}, ["'pretrain.workers' cannot be varied"]),
        ({"extract.gpus_per_task": 1}, ["'extract.gpus_per_task' cannot be varied"]),
        ({"score.backend": "cuda"}, ["'score.backend' cannot be varied"]),
        ({"pretrain.framework_settings.temprature": 1}, ["framework_settings.temprature'", "settings.temperature'"]),
        (
            {"framework": "byol", "pretrain.framework_settings.temperature": 1},
            ["unknown key", "framework_settings.temperature"],
        ),
        ({"pretrain": {"epochs": 3}}, ["'pretrain' cannot be varied"]),
        ({"sweep.budget": "passes"}, ["'sweep.budget' cannot be varied"]),
        ({"policy": "none", "score.policy": "random"}, ["'score.policy' is given twice"]),
    ],
)
def test_an_invalid_point_is_refused_with_the_setting(point: dict[str, Any], words: list[str]) -> None:
    told = refused(point)
    assert all(word in told for word in words), told


def test_a_grid_of_which_one_trial_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown framework 'simclrr'"):
        grid({"framework": ["simclr", "simclrr"]})


# ---- names


def test_names_are_short_where_that_is_enough() -> None:
    assert names(
        {"framework": "moco", "negatives": "ring", "backbone": "resnet34", "pretrain.learning_rate": 1e-5}
    ) == ["moco-mutual-information-w0.5-ring-backbone=resnet34-learning_rate=1e-05-s0"]


def test_weights_that_are_written_alike_have_other_names() -> None:
    assert names({"twin_weight": [0.1234567, 0.12345671]}) == [
        "simclr-mutual-information-w0.1234567-s0",
        "simclr-mutual-information-w0.12345671-s0",
    ]


def test_settings_whose_last_part_is_the_same_are_told_apart_by_all_of_it() -> None:
    (name,) = names({"scenes.seed": 1, "score.seed": 2, "score.k": 3})
    assert name == "simclr-mutual-information-w0.5-scenes.seed=1-score.seed=2-k=3-s0"


def test_the_same_trial_has_the_same_name_by_whatever_point() -> None:
    made = config(grid=[{"policy": ["none"], "twin_weight": [0.1, 0.5], "negatives": ["all", "ring"]}])
    points = [
        {"twin_weight": 0},
        {"policy": "none", "negatives": "all"},
        {"negatives": {"kind": "all"}, "twin_weight": 0},
    ]
    assert len({trials.make(made, point).name for point in points}) == 1


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "framework": st.sampled_from(frameworks.available()),
    "policy": st.sampled_from(ALL_POLICIES),
    "twin_weight": st.sampled_from([0, 0.5, 0.1234567, 0.12345671, 1e-7]),
    "negatives": st.sampled_from(["all", "ring", {"kind": "ball", "outer": 0.2}, {"kind": "ball", "outer": 0.3}]),
    "backbone": st.text(max_size=4),
    "clips.path": st.text(alphabet="a-=/[]s0 k", max_size=5) | st.none(),
    "scenes.seed": st.integers(0, 3),
    "score.seed": st.integers(0, 3),
    "score.k": st.integers(1, 3),
    "score.min_entropy": st.none() | st.sampled_from([-1.5, 1.5]),
    "pretrain.augment": st.dictionaries(st.sampled_from(["flip", "grey"]), st.sampled_from([1, 1.0, "1"]), max_size=2),
    "pretrain.backbone_settings": st.dictionaries(st.text("ab", max_size=1), st.sampled_from([1, [1]]), max_size=2),
    "pretrain.backbone_settings.x": st.sampled_from([1, 1.0, True, "1", "true", None, "None", [1, 2], "[1, 2]"]),
    "pretrain.framework_settings.output_dim": st.sampled_from([1, 2]),
    "seed": st.integers(0, 2),
}  # fmt: skip


@settings(max_examples=150)
@given(st.data())
def test_two_trials_never_have_the_same_name_and_names_are_safe(data: st.DataObject) -> None:
    keys = st.lists(st.sampled_from([*VALUES]), unique=True, max_size=4)
    blocks = []
    for _ in range(data.draw(st.integers(1, 2))):
        blocks.append({key: data.draw(st.lists(VALUES[key], min_size=1, max_size=3)) for key in data.draw(keys)})
    found = grid(*blocks)
    assert len({trial.name for trial in found}) == len(found) == len({trial.identity for trial in found})
    assert all(re.fullmatch(r"[A-Za-z0-9_.=+-]{1,200}", trial.name) for trial in found)


def test_a_long_value_does_not_make_a_long_name() -> None:
    found = names({"clips.path": ["a" * 300 + "1", "a" * 300 + "2"]})
    assert len(set(found)) == 2
    assert max(map(len, found)) <= trials.LONGEST


# ---- recipes


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Recipes of two frameworks."""
    for name, temperature, rate in (("simclr", 0.2, 0.3), ("moco", 0.1, 0.03)):
        pretrain = {"framework": name, "framework_settings": {"temperature": temperature, "output_dim": 64}}
        pretrain |= {"learning_rate": rate, "epochs": 9, "augment": {"flip": 0.1}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": "x", "seed": 9, "pretrain": pretrain}))
    return tmp_path


def test_a_recipe_holds_where_the_sweep_s_config_says_nothing(recipes: Path) -> None:
    experiment = {"pretrain": {"epochs": 4, "augment": {"crop_scale": [0.2, 1.0]}}}
    block = {"framework": ["simclr", "moco"], "pretrain.framework_settings.output_dim": [32]}
    simclr, moco = grid(block, experiment=experiment, recipes=str(recipes))
    assert (simclr.config.pretrain.learning_rate, moco.config.pretrain.learning_rate) == (0.3, 0.03)
    assert simclr.config.pretrain.framework_settings.written() == {"temperature": 0.2, "output_dim": 32}
    assert moco.config.pretrain.framework_settings.written() == {"temperature": 0.1, "output_dim": 32}
    for trial in (simclr, moco):
        assert trial.config.pretrain.epochs == 4, "the sweep's config wins over a recipe"
        assert trial.config.pretrain.augment.written() == {"flip": 0.1, "crop_scale": [0.2, 1.0]}
        assert (trial.config.name, trial.config.seed) == ("experiment", 0), "of a recipe only `pretrain` is taken"


def test_what_is_varied_wins_over_all_else(recipes: Path) -> None:
    experiment = {"pretrain": {"epochs": 4, "framework": "moco"}}
    (trial,) = grid({"framework": "simclr", "pretrain.epochs": 2}, experiment=experiment, recipes=str(recipes))
    assert (trial.config.pretrain.framework, trial.config.pretrain.epochs) == ("simclr", 2)
    assert trial.config.pretrain.learning_rate == 0.3


def test_a_recipe_is_the_one_of_the_config_s_framework_where_that_is_not_varied(recipes: Path) -> None:
    (trial,) = grid({"seed": 0}, experiment={"pretrain": {"framework": "moco"}}, recipes=str(recipes))
    assert trial.config.pretrain.learning_rate == 0.03


def test_a_trial_leaves_recipes_as_they_are_for_the_next(recipes: Path) -> None:
    blocks = {"framework": "simclr", "negatives": "ring", "pretrain.augment.flip": 0.9}, {"framework": "simclr"}
    first, second = grid(*blocks, recipes=str(recipes))
    assert (first.negatives, second.negatives) == ("ring", "all")
    assert second.config.pretrain.augment.written() == {"flip": 0.1}


def test_the_same_settings_written_out_are_another_sweep_than_those_of_recipes(recipes: Path) -> None:
    left, said = ({}, {"pretrain": {"epochs": 100}})
    a, b = (config(of, grid=[{"seed": [0]}], recipes=str(recipes)) for of in (left, said))
    assert [trials.planned(c)[0].config.pretrain.epochs for c in (a, b)] == [9, 100]
    assert trials.identity(a) != trials.identity(b)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no"), ("[1]", "has no section"), ("name: x", "has no section"), ("a: [", "cannot be read"),
     ("pretrain:", "has no section pretrain")],
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused(content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "byol.yaml").write_text(content)
    with pytest.raises(UsageError) as caught:
        grid({"framework": "byol"}, recipes=str(tmp_path))
    named = "byol.yaml" if content is not None else str(tmp_path)
    assert all(word in str(caught.value) for word in ("sweep.recipes", words, named))
    assert "\n" not in str(caught.value)


def test_a_framework_without_a_recipe_is_refused_where_others_have_one(recipes: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep\.recipes: there is none for 'byol', only for moco, simclr"):
        grid({"framework": "byol"}, recipes=str(recipes))


def test_settings_of_one_framework_come_over_recipe_and_config_and_under_what_is_varied(recipes: Path) -> None:
    own = {"moco": {"epochs": 5, "learning_rate": 0.7, "framework_settings": {"output_dim": 16}}}
    block = {"framework": ["simclr", "moco"], "pretrain.learning_rate": 0.9}
    simclr, moco = grid(block, experiment={"pretrain": {"epochs": 4}}, recipes=str(recipes), frameworks=own)
    assert (simclr.config.pretrain.epochs, moco.config.pretrain.epochs) == (4, 5)
    assert {t.config.pretrain.learning_rate for t in (simclr, moco)} == {0.9}
    assert moco.config.pretrain.framework_settings.written() == {"temperature": 0.1, "output_dim": 16}
    assert simclr.config.pretrain.framework_settings.written() == {"temperature": 0.2, "output_dim": 64}


def test_a_misspelt_framework_is_named_though_there_is_no_recipe_either(recipes: Path) -> None:
    with pytest.raises(UsageError, match="unknown framework 'simclrr', did you mean 'simclr'"):
        grid({"framework": "simclrr"}, recipes=str(recipes))


def test_the_shipped_recipes_make_a_trial_of_every_framework() -> None:
    found = grid({"framework": frameworks.available(), "policy": ["none", "random"]}, recipes=str(RECIPES))
    assert len(found) == 2 * len(frameworks.available())
    assert {trial.config.pretrain.framework for trial in found if trial.config.pretrain.augment.written()} == {
        *frameworks.available()
    }


# ---- drawn at random


def test_a_random_search_draws_the_same_every_time_and_other_things_with_another_seed() -> None:
    space = {"pretrain.learning_rate": {"low": 1e-3, "high": 1, "log": True}, "policy": ALL_POLICIES}
    drawn = [trials.planned(config(search="random", space=space, samples=5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert not {trial.identity for trial in drawn[0]} & {trial.identity for trial in drawn[2]}


def test_more_samples_begin_with_those_of_fewer() -> None:
    space = {"pretrain.learning_rate": {"low": 0.1, "high": 1}, "seed": {"low": 0, "high": 99}}
    few, many = (trials.planned(config(search="random", space=space, samples=n)) for n in (5, 8))
    assert [trial.point for trial in many[:5]] == [trial.point for trial in few]


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 50), st.booleans(), st.integers(0, 3))
def test_whole_numbers_are_drawn_from_the_whole_range_and_no_others(low: int, width: int, log: bool, seed: int) -> None:
    space = {"score.k": {"low": low, "high": low + width, "log": log}}
    found = {t.config.score.k for t in trials.planned(config(search="random", space=space, samples=60, seed=seed))}
    assert all(isinstance(k, int) and low <= k <= low + width for k in found)


def test_both_ends_of_a_range_of_whole_numbers_are_drawn() -> None:
    for log in (False, True):
        space = {"score.k": {"low": 2, "high": 4, "log": log}}
        found = trials.planned(config(search="random", space=space, samples=60))
        assert {trial.config.score.k for trial in found} == {2, 3, 4}


def test_a_range_of_numbers_is_drawn_from_evenly_or_evenly_in_its_logarithm() -> None:
    def share_below(middle: float, log: bool) -> float:
        space = {"pretrain.learning_rate": {"low": 0.01, "high": 1.0, "log": log}}
        found = trials.planned(config(search="random", space=space, samples=400))
        rates = [trial.config.pretrain.learning_rate for trial in found]
        assert 0.01 <= min(rates) < max(rates) <= 1.0
        return sum(rate < middle for rate in rates) / len(rates)

    assert share_below(0.505, log=False) == pytest.approx(0.5, abs=0.1)
    assert share_below(0.1, log=True) == pytest.approx(0.5, abs=0.1)


def test_points_that_are_one_trial_are_drawn_once() -> None:
    space = {"policy": ["none"], "twin_weight": {"low": 0.1, "high": 1.0}}
    assert len(trials.planned(config(search="random", space=space, samples=9))) == 1


def test_an_adaptive_search_has_no_trials_before_it_begins() -> None:
    assert trials.planned(config(search="optuna", space={"seed": [0, 1]})) == []


# ---- budgets


def test_with_the_budget_of_passes_arms_without_twins_train_for_as_much_longer() -> None:
    made = config({"pretrain": {"epochs": 10}}, grid=[{"policy": ALL_POLICIES}], budget="passes")
    found = [trials.budgeted(trial, made, 0.6).config.pretrain.epochs for trial in trials.planned(made)]
    assert found == [13, 10, 10, 10]  # 10 epochs of 2.6 images a patch, or 13 of 2


def test_images_have_no_twin_and_so_take_none_of_the_passes() -> None:
    pretrain = {"epochs": 10, "images": "cifar10", "image_share": 0.5}
    made = config({"pretrain": pretrain}, grid=[{"policy": ["none", "random"]}], budget="passes")
    found = [trials.budgeted(trial, made, 0.4).config.pretrain.epochs for trial in trials.planned(made)]
    assert found == [11, 10]  # a fifth of the rows has a twin: 10 epochs of 2.2 images a row, or 11 of 2


def test_a_share_of_twins_says_how_many_passes_an_arm_takes() -> None:
    pretrain = {"epochs": 10, "twin_share": 0.5}
    made = config({"pretrain": pretrain}, grid=[{"policy": ["none", "random"]}], budget="passes")
    found = [trials.budgeted(trial, made, 0.1).config.pretrain.epochs for trial in trials.planned(made)]
    assert found == [12, 10]  # 10 epochs of 2.5 images a row, or 12.5 of 2, rounded to even


def test_small_views_are_passes_of_every_arm_by_their_pixels() -> None:
    pretrain = {"epochs": 10, "framework": "dino", "framework_settings": {"small_views": 8}}
    made = config({"pretrain": pretrain}, grid=[{"policy": ["none", "random"]}], budget="passes")
    found = [trials.budgeted(trial, made, 0.6).config.pretrain.epochs for trial in trials.planned(made)]
    assert found == [12, 10]  # 10 epochs of 2 + 8/4 + 0.6 images a patch, or 11.5 without the 0.6


def test_a_share_of_images_is_varied_only_where_there_are_images() -> None:
    block = {"pretrain.images": [None, "cifar10"], "pretrain.image_share": [0.25, 0.5]}
    found = grid(block)
    assert [trial.other["pretrain.images"] for trial in found] == ["None", "cifar10", "cifar10"]
    assert [trial.other["pretrain.image_share"] for trial in found] == ["0.5", "0.25", "0.5"]
    assert found[0].identity == grid({"seed": [0]})[0].identity, "as before there were images"


def test_with_the_budget_of_steps_all_arms_train_for_the_same() -> None:
    made = config({"pretrain": {"epochs": 10}}, grid=[{"policy": ALL_POLICIES}])
    assert all(trials.budgeted(trial, made, 0.6) == trial for trial in trials.planned(made))


def test_a_longer_training_keeps_its_trial_s_name_point_and_all_else() -> None:
    made = config(grid=[{"policy": "none", "score.k": 3}], budget="passes")
    (trial,) = trials.planned(made)
    longer = trials.budgeted(trial, made, 1.0)
    assert (longer.name, longer.point, longer.other) == (trial.name, trial.point, trial.other)
    assert longer.config.pretrain.epochs == 150
    assert longer.identity != trial.identity


# ---- the sweep itself


def test_a_sweep_is_the_same_wherever_it_runs_and_is_kept() -> None:
    block = {"grid": [{"seed": [0, 1]}]}
    same = [
        config(**block),
        config(**block, concurrent=3, gpu_tflops=100),
        config({"store": "there", "tracking": {"experiment": "x"}, "ray": {"cpus": 1}}, **block),
        config({"pretrain": {"workers": 2, "gpu": False}, "evaluate": {"data": "there", "every": 5}}, **block),
    ]
    assert len({trials.identity(one) for one in same}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"grid": [{"seed": [0, 2]}]},
        {"grid": [{"seed": [0, 1]}], "budget": "passes"},
        {"grid": [{"seed": [0, 1]}], "scheduler": "asha"},
        {"search": "random", "space": {"seed": [0, 1]}},
        {"grid": [{"seed": [0, 1]}], "recipes": {"simclr": {"epochs": 3}}},
        {"grid": [{"seed": [0, 1]}], "frameworks": {"simclr": {"epochs": 3}}},
        {"experiment": {"name": "x"}, "grid": [{"seed": [0, 1]}]},
        {"experiment": {"score": {"k": 3}}, "grid": [{"seed": [0, 1]}]},
    ],
)
def test_another_sweep_is_another(other: dict[str, Any]) -> None:
    experiment = {"evaluate": {"every": 5}, **other.pop("experiment", {})}
    assert trials.identity(config(experiment, **other)) != trials.identity(config(grid=[{"seed": [0, 1]}]))


@pytest.mark.parametrize("name", ["laptop", "paper"])
def test_the_shipped_sweeps_have_seven_frameworks_four_policies_and_three_seeds_of_each(name: str) -> None:
    found = trials.planned(load(RECIPES.parent / f"{name}.yaml"))
    table = {(t.config.pretrain.framework, t.config.score.policy, t.config.seed) for t in found}
    seven = {"simclr", "moco", "byol", "simsiam", "barlow_twins", "vicreg", "nnclr"}
    assert table == set(itertools.product(seven, ALL_POLICIES, range(3)))
    assert len({t.config.pretrain.twin_weight for t in found}) >= 4, "and weights beside the table's"
