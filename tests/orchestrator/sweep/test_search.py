"""Searchers and schedulers: Optuna, called here as Tune calls it, and the search space of Tune itself."""

import builtins
import json
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep import search, trials
from infoaug.orchestrator.sweep.config import Range, SweepConfig
from tests.orchestrator.sweep.made import ALL_POLICIES, config

# 12 points that are 7 trials: without twins there is no weight.
SPACE = {"policy": ["none", "random", "nearest"], "twin_weight": [0.25, 0.5, 1.0], "seed": 0}
WIDE = {"pretrain.learning_rate": {"low": 0.01, "high": 1.0, "log": True}, "seed": {"low": 0, "high": 9}}
Point = dict[str, Any]


def optuna(space: dict[str, Any], **sweep: Any) -> SweepConfig:
    return config(search="optuna", space=space, **sweep)


def asked(of: SweepConfig, count: int, begun: list[trials.Trial] | None = None, known: Any = None) -> list[Any]:
    """What a search answers when it is asked so often, each trial at its end before the next; accuracies differ."""
    searcher = search.searcher(of, begun or [], known or {})
    assert searcher is not None
    found = []
    for number in range(count):
        answer = searcher.suggest(f"t{number}")
        found.append(answer["point"] if isinstance(answer, dict) else answer)
        if isinstance(answer, dict):
            searcher.on_trial_complete(f"t{number}", {"validation_knn": 1 / (2 + number)})
    return found


def identities(of: SweepConfig, points: list[Point]) -> list[str]:
    return [trials.make(of, point).identity for point in points]


# ---- adaptive


@pytest.mark.parametrize("seed", range(3))
def test_no_trial_is_chosen_twice_and_the_search_ends_when_a_small_space_is_exhausted(seed: int) -> None:
    of = optuna(SPACE, seed=seed)
    found = asked(of, 9)
    assert found[7:] == [Searcher.FINISHED] * 2
    assert len(set(identities(of, found[:7]))) == 7


def test_a_trial_that_runs_is_not_chosen_again_and_the_search_waits_for_it() -> None:
    searcher = search.searcher(optuna({"policy": ["none"], "twin_weight": [0.1, 0.2, 0.3]}), [], {})
    assert searcher is not None
    assert isinstance(searcher.suggest("first"), dict)
    assert [searcher.suggest(name) for name in ("second", "third")] == [None, None]
    searcher.on_trial_complete("first", {"validation_knn": 0.5})
    assert searcher.suggest("fourth") == Searcher.FINISHED


def test_a_trial_that_failed_is_not_chosen_again() -> None:
    searcher = search.searcher(optuna({"seed": [0, 1]}), [], {})
    assert searcher is not None
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first is not None and second is not None and first != second
    searcher.on_trial_complete("a", None, error=True)
    searcher.on_trial_complete("b", {"why": "out of memory"}, error=True)
    assert searcher.suggest("c") == Searcher.FINISHED


def test_what_was_begun_is_first_and_in_order() -> None:
    of = optuna(WIDE)
    begun = [{"pretrain.learning_rate": rate, "seed": seed} for rate, seed in ((0.5, 3), (0.02, 8))]
    found = asked(of, 4, begun=[trials.make(of, json.loads(json.dumps(point))) for point in begun])
    assert found[:2] == begun
    assert len(set(identities(of, found))) == 4


def test_what_is_known_or_was_stopped_is_not_chosen_again_and_is_gone_on_from() -> None:
    of = optuna(SPACE)
    first = asked(of, 4)
    known = {json.dumps(point): 0.1 * number if number else None for number, point in enumerate(first)}
    rest = asked(of, 4, known=known)
    assert rest[3] == Searcher.FINISHED
    assert len(set(identities(of, first + rest[:3]))) == 7


def test_a_search_goes_where_accuracy_was_higher() -> None:
    of = optuna({"pretrain.learning_rate": {"low": 0.0001, "high": 1.0}}, samples=60)
    points = [{"pretrain.learning_rate": 0.02 + 0.04 * n} for n in range(24)]
    known = {json.dumps(point): 1 - abs(point["pretrain.learning_rate"] - 0.8) for point in points}
    rates = [point["pretrain.learning_rate"] for point in asked(of, 12, known=known)]
    assert sum(rate > 0.6 for rate in rates) > 8


def test_the_same_seed_chooses_the_same() -> None:
    assert asked(optuna(WIDE, seed=4), 5) == asked(optuna(WIDE, seed=4), 5)
    assert asked(optuna(WIDE, seed=4), 5) != asked(optuna(WIDE, seed=5), 5)


def test_points_are_of_the_space_and_make_trials() -> None:
    space = {**WIDE, "pretrain.warmup_epochs": {"low": 1, "high": 4, "log": True}, "pretrain.momentum": 0.5}
    of = optuna({**space, "policy": ALL_POLICIES})
    for point in asked(of, 12):
        assert json.loads(json.dumps(point)) == point
        made = trials.make(of, point).config
        assert 0.01 <= made.pretrain.learning_rate <= 1
        assert (made.seed, made.pretrain.warmup_epochs) == (point["seed"], point["pretrain.warmup_epochs"])
        assert made.seed in range(10) and made.pretrain.warmup_epochs in range(1, 5)
        assert made.pretrain.momentum == 0.5


def test_both_ends_of_a_range_of_whole_numbers_are_chosen() -> None:
    assert sorted(point["seed"] for point in asked(optuna({"seed": {"low": 1, "high": 3}}), 3)) == [1, 2, 3]


def test_a_value_may_be_a_mapping_or_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    space = {
        "negatives": ["ball", {"kind": "ring", "outer": 0.2}],
        "pretrain.augment.crop_scale": [[0.1, 1.0], [0.2, 1.0]],
    }
    of = optuna(space)
    found = asked(of, 5)
    assert found[4] == Searcher.FINISHED
    assert {trials.make(of, point).negatives for point in found[:4]} == {"ball", "ring(outer=0.2)"}
    begun = [trials.make(of, json.loads(json.dumps(point))) for point in found[:4]]
    assert asked(of, 4, begun=begun) == found[:4]
    assert capfd.readouterr().err == ""


def test_nothing_is_said_while_choosing(capfd: pytest.CaptureFixture[str]) -> None:
    of = optuna(WIDE)
    asked(of, 4, begun=[trials.make(of, {"pretrain.learning_rate": 0.5, "seed": 1})])
    told = capfd.readouterr()
    assert told.out + told.err == ""


def test_epochs_without_validation_are_passed_over_and_others_are_told_of() -> None:
    searcher = search.searcher(optuna(WIDE), [], {})
    assert searcher is not None and searcher.suggest("a")
    searcher.on_trial_result("a", {"epoch": 1, "training_iteration": 1})
    searcher.on_trial_result("a", {"epoch": 2, "training_iteration": 2, "validation_knn": 0.4})
    searcher.on_trial_complete("a", {"validation_knn": 0.5})
    (trial,) = searcher._ot_study.trials
    assert (trial.intermediate_values, trial.value) == ({2: 0.4}, 0.5)


def test_a_search_can_be_kept_and_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    of = optuna(SPACE)
    searchers = [search.searcher(of, [], {}), search.searcher(of, [], {})]
    one, other = (searcher for searcher in searchers if searcher)
    for number in range(3):
        one.suggest(f"t{number}")
        one.on_trial_complete(f"t{number}", {"validation_knn": 0.3})
    one.suggest("runs")
    one.save(str(tmp_path / "kept"))
    other.restore(str(tmp_path / "kept"))
    copy = pickle.loads(pickle.dumps(one.__dict__))  # noqa: S301
    assert copy["running"].keys() == {"runs"}
    assert [other.suggest(f"u{n}") for n in range(4)] == [one.suggest(f"u{n}") for n in range(4)]


def test_only_an_adaptive_search_has_a_searcher_and_a_space_of_its_own() -> None:
    of = config(grid=[{"policy": ["none", "random"]}])
    assert search.searcher(of, [], {}) is None
    planned = trials.planned(of)
    drawn = search.space(of, planned)["point"]["grid_search"]
    assert [json.loads(point) for point in drawn] == [trial.point for trial in planned]
    assert search.space(optuna(SPACE), []) == {}


def test_without_optuna_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "optuna")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'infoaug\[search\]'"):
        search.searcher(optuna(SPACE), [], {})


# ---- random search and Optuna


def test_random_search_draws_integers_on_a_logarithmic_scale_as_often_as_optuna() -> None:
    import optuna

    values, count = Range(low=1, high=4, log=True), 4000
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = OptunaSearch.convert_search_space({"x": search._domain(values)})
    theirs = Counter(study.ask(fixed_distributions=distributions).params["x"] for _ in range(count))
    random = np.random.default_rng(0)
    ours = Counter(trials._draw(values, random) for _ in range(count))
    assert set(ours) == set(theirs) == {1, 2, 3, 4}
    for value in ours:
        share = (ours[value] + theirs[value]) / (2 * count)
        error = (2 * share * (1 - share) / count) ** 0.5  # standard error of the difference
        assert abs(ours[value] - theirs[value]) / count < 4 * error
    # The interval that is rounded to 1, relative to the whole: ln(1.5 / 0.5) / ln(4.5 / 0.5).
    assert ours[1] / count == pytest.approx(0.5, abs=0.035)


# ---- before it has chosen


def test_the_example_is_of_the_first_values() -> None:
    space = {"policy": ["random", "none"], "pretrain.learning_rate": {"low": 0.25, "high": 1}, "twin_weight": 0.1}
    made = trials.example(optuna(space)).config
    assert (made.score.policy, made.pretrain.learning_rate, made.pretrain.twin_weight) == ("random", 0.25, 0.1)


@pytest.mark.parametrize("key", ["score.k", "extract.window", "scenes.seed", "clips.path", "evaluate.neighbours"])
def test_an_adaptive_search_varies_nothing_that_comes_before_training(key: str) -> None:
    with pytest.raises(UsageError, match=f"'{key}'"):
        trials.example(optuna({key: [1, 2]}))


# ---- who stops


def test_asha_knows_nothing_of_epochs_before_its_grace_and_takes_any_length_of_it() -> None:
    experiment = {"evaluate": {"every": 1}, "pretrain": {"epochs": 1, "warmup_epochs": 0}}
    for grace in (1, 10, 50):
        assert search.scheduler(config(experiment, grid=[{}], scheduler="asha", grace_epochs=grace)) is not None
    assert search.scheduler(config(grid=[{}])) is None
