"""Trials that differ only in their seed are one arm; arms have a fixed order and names."""

import random

import pytest

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import MI, Arm, Setting
from tests.orchestrator.comparison.sweeps import rich_sweep, trial, trials


def test_two_trials_of_the_same_arm_and_seed_are_refused_by_name() -> None:
    twice = [trial("random", 3, run="first"), trial("random", 3, run="second"), trial("random", 4)]
    with pytest.raises(ValueError, match=r"SimCLR, twins random at weight 0\.5, seed 3 \(runs 'first' and 'second'\)"):
        arms.grouped(twice)


def test_a_trial_without_twins_has_no_twin_weight() -> None:
    with pytest.raises(ValueError, match=r"twin_weight 0\.5: give it 0"):
        trial("none", twin_weight=0.5)


def test_the_order_of_the_trials_does_not_matter() -> None:
    made = list(rich_sweep().trials)
    shuffled = random.Random(0).sample(made, len(made))
    one, other = arms.grouped(made), arms.grouped(shuffled)
    assert [(arm, list(seeds)) for arm, seeds in one.items()] == [(arm, list(seeds)) for arm, seeds in other.items()]
    assert one == other


def test_frameworks_and_policies_stand_in_the_order_of_the_tables() -> None:
    names = ("dino", "mine", "nnclr", "simclr", "another", "moco")
    found = arms.grouped(trial(policy, framework=name) for policy in (MI, "none", "nearest") for name in names)
    order = [arms.framework_name(setting.framework) for setting in arms.settings(found)]
    assert order == ["SimCLR", "MoCo v2", "NNCLR", "DINO", "another", "mine"]
    assert arms.policies(found) == ["none", "nearest", MI]


def test_settings_are_called_by_what_tells_them_apart() -> None:
    found = arms.grouped(
        [
            trial(negatives="all", other={"pretrain.epochs": "9", "score.k": "3"}),
            trial(negatives="ring", other={"pretrain.epochs": "9", "score.k": "3"}),
            trial(negatives="ring", other={"pretrain.epochs": "9", "score.k": "5"}),
            trial(framework="moco", negatives="all"),
        ]
    )
    names = list(arms.setting_names(found).values())
    assert names == ["SimCLR, all, score.k = 3", "SimCLR, ring, score.k = 3", "SimCLR, ring, score.k = 5", "MoCo v2"]


def test_numbers_that_are_missing_or_not_finite_are_left_out() -> None:
    found = arms.grouped([trial(seed=0), trial(seed=1, probe=float("nan")), trial(seed=2, probe=None)])
    arm = Arm(Setting("simclr", "", ()), MI, 0.5)
    assert arms.values(found, arm, "cifar10", "probe") == {0: 0.5}
    assert arms.values(found, arm, "elsewhere", "probe") == {}
    assert arms.values(found, arm._replace(policy="none"), "cifar10", "probe") == {}


def test_data_sets_are_called_by_the_last_part_of_their_path_unless_two_share_it() -> None:
    titles = arms.dataset_titles(["scenes", "a/test", "b/test", "c/pets.npz"])
    assert list(titles.values()) == ["scenes (synthetic)", "a/test", "b/test", "pets.npz"]


def test_the_weights_of_a_policy_ascend() -> None:
    found = arms.grouped([*trials({MI: [0.5]}, twin_weight=2.0), *trials({MI: [0.5]}), *trials({"none": [0.5]})])
    assert arms.weights(found, Setting("simclr", "", ())) == [0.5, 2.0]
