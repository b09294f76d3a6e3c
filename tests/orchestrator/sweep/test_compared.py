"""What a sweep came to: its trials' outcomes from the store, and the comparison, also from what MLflow has."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.comparison import page
from infoaug.orchestrator.comparison.arms import TrialResult
from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.sweep import compared, trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.tracking import Tracked
from infoaug.orchestrator.sweep.trials import Trial
from tests.orchestrator.comparison import sweeps
from tests.orchestrator.sweep.made import config, epoch, grid, leave_done, leave_scored, scored_of

BLOCK = {"policy": ["none", "random", "mutual-information"], "seed": [0, 1]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons without figures, which take seconds and have tests of their own."""
    monkeypatch.setattr(page, "files", lambda sweep: {"comparison.html": page.page(sweep, {}).encode()})


def outcome(trial: Trial, probe: float = 0.5) -> TrialResult:
    """What a trial came to, made up."""
    made = trial.config
    weight = 0.0 if made.score.policy == "none" else made.pretrain.twin_weight
    arm = {"negatives": trial.negatives, "twin_weight": weight, "other": trial.other}
    return sweeps.trial(made.score.policy, made.seed, probe, made.pretrain.framework, **arm)


# ---- an outcome


def trained(of: dict[str, Any], store: Store, **done: Any) -> TrialResult:
    """The outcome of the only trial of a grid."""
    experiment = {"pretrain": {"batch_size": 16, "warmup_epochs": 0}}
    (trial,) = grid(of, experiment=experiment)
    leave_done(trial, store, **done)
    found = compared.outcome_of(trial, scored_of(trial, store))
    assert found is not None
    return found


def test_passes_and_seconds_are_those_counted_by_hand(store: Store) -> None:
    found = trained({"policy": "random"}, store, patches=100, shares=(0.5, 0.25, 0.25))
    # 6 batches of 16 are an epoch's 96 images; 3 epochs of two views, and of twins for 0.5 + 0.25 + 0.25 of the images.
    assert found.passes == 96 * (3 * 2 + 1)
    assert (found.seconds, found.epochs) == (9.0, 3)


def test_several_twins_of_a_row_take_as_many_passes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.orchestrator.sweep.made.epoch",
        lambda number, share: epoch(number, share) | {"twins_of_a_row": 2 * share},
    )
    found = trained({"policy": "mutual-information"}, store, patches=100, shares=(0.5, 0.25, 0.25))
    assert found.passes == 96 * (3 * 2 + 2)


def test_without_twins_there_are_two_passes_an_image_and_no_weight(store: Store) -> None:
    found = trained({"policy": "none", "twin_weight": 0.7}, store, patches=100, shares=(0.5, 0.25, 0.25))
    assert found.passes == 96 * 3 * 2
    assert (found.policy, found.twin_weight) == ("none", 0.0)


def test_small_views_pass_by_their_pixels(store: Store) -> None:
    small = {"framework": "swav", "pretrain.framework_settings.small_views": 4}
    assert trained(small | {"policy": "none"}, store, patches=100, shares=(0.0, 0.0)).passes == 96 * 2 * 3


def test_an_outcome_says_which_arm_it_is_of(store: Store) -> None:
    block = {"framework": "moco", "policy": "nearest", "twin_weight": 0.25, "negatives": "ring", "seed": 3}
    found = trained({**block, "backbone": "resnet34", "score.k": 7}, store, probe=0.75)
    assert (found.framework, found.policy, found.twin_weight) == ("moco", "nearest", 0.25)
    assert (found.negatives, found.seed) == ("ring", 3)
    assert found.other == {"pretrain.backbone": "resnet34", "score.k": "7"}
    assert found.results["scenes"]["probe"] == 0.75


def test_an_outcome_goes_through_json_unchanged(store: Store) -> None:
    found = trained({"backbone": "resnet34"}, store)
    assert TrialResult(**json.loads(json.dumps(asdict(found)))) == found


def test_a_trial_that_has_not_come_to_its_end_has_no_outcome(store: Store) -> None:
    (trial,) = grid({"policy": "none"})
    leave_scored(trial, store)
    scored = scored_of(trial, store)
    assert compared.outcome_of(trial, scored) is None
    (other,) = grid({"policy": "none", "seed": 1})
    leave_done(other, store)
    assert compared.outcome_of(trial, scored) is None
    leave_done(trial, store)
    assert compared.outcome_of(trial, scored) is not None


# ---- a comparison


def test_a_comparison_is_kept_where_it_is_told(store: Store, tmp_path: Path) -> None:
    of = config({"name": "mine"}, grid=[BLOCK])
    outcomes = [outcome(trial, 0.4 + 0.01 * number) for number, trial in enumerate(trials.planned(of))]
    told = compared.compare(of, outcomes, {"a": "out of memory"}, {"b": "stopped early, after epoch 3"}, 8, store)
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == told.files
    assert told.page == str(tmp_path / "store" / "comparison.html")
    assert told.tables()
    assert (told.sweep.planned, told.sweep.failed) == (8, [("a", "out of memory")])
    assert told.sweep.stopped == [("b", "stopped early, after epoch 3")]
    assert told.sweep.synthetic and "8 scenes" in told.sweep.source
    text = told.files["comparison.html"].decode()
    assert "out of memory" in text and "stopped early, after epoch 3" in text


def test_tables_are_at_the_config_s_weight_or_else_at_one_that_there_is(store: Store) -> None:
    def weight(*weights: float) -> float:
        of = config(grid=[{"policy": ["none", "random"], "twin_weight": [*weights]}])
        outcomes = [outcome(trial) for trial in trials.planned(of)]
        return compared.compare(of, outcomes, {}, {}, len(outcomes), store).sweep.twin_weight

    assert weight(0.25, 0.5, 1.0) == 0.5
    assert weight(0.25) == 0.25
    assert weight(0.0) == 0.5


def test_where_no_trial_has_come_to_its_end_that_is_told_with_the_first_reason(store: Store) -> None:
    of = config({"name": "mine"}, grid=[BLOCK])
    with pytest.raises(StageError, match=r"no trial of the sweep 'mine' is complete$"):
        compared.compare(of, [], {}, {}, 6, store)
    with pytest.raises(StageError, match="'mine' is complete: out of memory"):
        compared.compare(of, [], {"x": "out of memory"}, {}, 6, store)


def test_a_sweep_s_folder_is_told_by_its_name_and_what_it_is() -> None:
    one, other = (config({"name": "mine"}, grid=[{"seed": [seed]}]) for seed in (0, 1))
    assert compared.folder(one) == f"sweeps/mine-{trials.identity(one)}"
    assert compared.folder(one) != compared.folder(other)


# ---- again, from MLflow


@pytest.fixture
def leave(experiment: dict[str, Any]) -> Callable[..., SweepConfig]:
    """A function that leaves a sweep in MLflow: all trials done but so many that failed, were stopped, or still run."""

    def make(failed: int = 0, stopped: int = 0, running: int = 0, name: str = "mine", **sweep: Any) -> SweepConfig:
        of = config({**experiment, "name": name}, **(sweep or {"grid": [BLOCK]}))
        made, planned = Tracked(of), trials.planned(of)
        made.describe()
        for number, trial in enumerate(planned):
            if number < failed:
                made.end(trial, "FAILED", why="out of memory")
            elif number < failed + stopped:
                made.end(trial, "FINISHED", why="stopped early, after epoch 3")
            elif number < failed + stopped + running:
                made.begin(trial)
            else:
                made.end(trial, "FINISHED", outcome(trial, 0.4 + 0.01 * number))
        made.finish("FINISHED", {}, 30.0)
        time.sleep(0.002)  # MLflow tells runs apart by the millisecond
        return of

    return make


def tracked_at(of: SweepConfig) -> TrackingConfig:
    """Where MLflow is, as somebody else gives it."""
    return TrackingConfig(uri=of.tracking.uri, experiment="of-another")


def test_a_sweep_is_compared_again_from_what_mlflow_has(
    leave: Callable[..., SweepConfig], client: MlflowClient, tmp_path: Path
) -> None:
    of = leave(failed=1, stopped=1, running=1)
    whole = client.get_experiment_by_name(of.tracking.experiment)
    (run,) = client.search_runs([whole.experiment_id], "tags.`infoaug.kind` = 'sweep'")
    client.set_tag(run.info.run_id, "mlflow.source.git.commit", "that of the sweep")
    found = compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out")
    sweep, planned = found.sweep, trials.planned(of)
    assert [replace(one, run="") for one in sweep.trials] == [
        outcome(trial, 0.4 + 0.01 * number) for number, trial in enumerate(planned) if number > 2
    ]
    assert {client.get_run(one.run).info.run_name for one in sweep.trials} == {trial.name for trial in planned[3:]}
    assert (sweep.name, sweep.planned, sweep.commit) == ("mine", 6, "that of the sweep")
    assert sweep.failed == [(planned[0].name, "out of memory")]
    assert sweep.stopped == [(planned[1].name, "stopped early, after epoch 3")]
    assert found.page == str(tmp_path / "out" / "comparison.html")
    assert Path(found.page).read_bytes() == found.files["comparison.html"]
    assert [a.path for a in client.list_artifacts(run.info.run_id, "comparison")] == ["comparison/comparison.html"]
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def test_of_several_sweeps_the_newest_is_taken_and_others_by_their_run_s_name_or_id(
    leave: Callable[..., SweepConfig], client: MlflowClient, tmp_path: Path
) -> None:
    old = leave(name="old", grid=[{"policy": "none"}])
    new = leave(name="new", grid=[{"policy": ["none", "random"]}])
    place = tracked_at(old)

    def name_of(what: str) -> str:
        return compared.from_mlflow(what, place, tmp_path / "out").sweep.name

    assert name_of(new.tracking.experiment) == "new"
    assert name_of("old") == "old"
    whole = client.get_experiment_by_name(old.tracking.experiment)
    runs = client.search_runs([whole.experiment_id], "tags.`infoaug.kind` = 'sweep'")
    assert {name_of(run.info.run_id) for run in runs} == {"old", "new"}


def test_a_sweep_is_found_though_newer_experiments_have_its_name(
    leave: Callable[..., SweepConfig], tmp_path: Path, experiment: dict[str, Any]
) -> None:
    of = leave(name="shared-name", grid=[{"policy": "none"}])
    for seed in range(6):
        mlflow_runs.Run(config({**experiment, "name": "shared-name", "seed": seed}, grid=[{}]))
    assert compared.from_mlflow("shared-name", tracked_at(of), tmp_path / "out").sweep.name == "shared-name"


def test_a_sweep_of_recipes_is_compared_where_they_are_not(
    leave: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "simclr.yaml").write_text("pretrain: {epochs: 30}")
    monkeypatch.chdir(tmp_path)
    of = leave(grid=[BLOCK], recipes="recipes")
    Path("recipes").rename("elsewhere")
    assert compared.from_mlflow("mine", tracked_at(of), tmp_path / "out").sweep.planned == 6


def test_an_adaptive_search_was_to_have_as_many_trials_as_samples(
    leave: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    of = leave(search="optuna", space={"seed": [0, 1]}, samples=9)
    trial = trials.make(of, {"seed": 1})
    made = Tracked(of)
    made.describe()
    made.end(trial, "FINISHED", outcome(trial))
    made.finish("FINISHED", {}, 30.0)
    found = compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out").sweep
    assert (found.planned, len(found.trials)) == (9, 1)


def test_a_trial_that_has_failed_since_it_was_done_has_failed(
    leave: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    of = leave()
    leave(failed=1)
    found = compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out").sweep
    assert (len(found.trials), len(found.failed)) == (5, 1)


def test_of_two_runs_of_a_trial_the_newer_is_taken(leave: Callable[..., SweepConfig], tmp_path: Path) -> None:
    """With the budget of passes more clips make another training of the same trial."""
    of = leave(grid=[{"policy": ["none", "random"]}], budget="passes")
    longer = trials.budgeted(trials.planned(of)[0], of, 0.5)
    made = Tracked(of)
    made.describe()
    made.end(longer, "FINISHED", outcome(longer, 0.875))
    made.finish("FINISHED", {}, 30.0)
    found = compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out").sweep
    assert sorted(one.results["cifar10"]["probe"] for one in found.trials) == [pytest.approx(0.41), 0.875]


def test_a_sweep_of_which_nothing_came_is_told_with_its_reason(
    leave: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    of = leave(failed=6)
    with pytest.raises(StageError, match="is complete: out of memory"):
        compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out")


def test_a_file_that_is_not_ours_is_named_with_its_run(
    leave: Callable[..., SweepConfig], client: MlflowClient, tmp_path: Path
) -> None:
    of = leave()
    whole = client.get_experiment_by_name(of.tracking.experiment)
    run = client.search_runs([whole.experiment_id], "tags.`infoaug.kind` = 'trial'")[0].info.run_id
    client.log_text(run, '{"colour": "red"}', "trial.json")
    with pytest.raises(StageError, match=f"run {run} has a trial.json that infoaug did not write"):
        compared.from_mlflow(of.tracking.experiment, tracked_at(of), tmp_path / "out")


@pytest.mark.parametrize("unknown", ["nobody", "0" * 32, "' OR 1", "both ' and \""])
def test_what_mlflow_does_not_have_is_refused(unknown: str, database: Path, tmp_path: Path) -> None:
    place = TrackingConfig(uri=f"sqlite:///{database}")
    with pytest.raises(UsageError, match="MLflow at 'sqlite"):
        compared.from_mlflow(unknown, place, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_experiment_without_a_sweep_is_refused(experiment: dict[str, Any], tmp_path: Path) -> None:
    run = mlflow_runs.Run(config({**experiment, "name": "no-sweep"}, grid=[{}]))
    place = TrackingConfig(uri=run.uri)
    for what in (experiment["tracking"]["experiment"], "no-sweep", run.id):
        with pytest.raises(UsageError, match=f"has no sweep '{what}': give an MLflow experiment with one"):
            compared.from_mlflow(what, place, tmp_path / "out")


def test_looking_for_a_sweep_makes_no_database(tmp_path: Path) -> None:
    place = TrackingConfig(uri=f"sqlite:///{tmp_path / 'sub' / 'mlflow.db'}")
    with pytest.raises(UsageError, match="has no sweep 'x'"):
        compared.from_mlflow("x", place, tmp_path / "out")
    assert not list(tmp_path.iterdir())
