"""A sweep in a real MLflow database: a run for it and one for each trial, whatever the server does meanwhile."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.sweep import tracking, trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.runner import SweepRunner
from infoaug.orchestrator.sweep.tracking import Tracked
from infoaug.orchestrator.sweep.trials import Trial
from tests.orchestrator.comparison import sweeps
from tests.orchestrator.sweep.made import config, epoch, leave_done, scored_of

BLOCK = {"framework": ["simclr", "byol"], "policy": ["none", "random"], "negatives": "ring"}
LONG = 30.0  # seconds that no test takes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PAUSE", 0.01)


@pytest.fixture
def sweep(experiment: dict[str, Any]) -> SweepConfig:
    """Four trials."""
    return config(experiment, grid=[BLOCK])


def parent_of(client: MlflowClient, of: SweepConfig) -> Run:
    """The sweep's run, of which there is one."""
    whole = client.get_experiment_by_name(of.tracking.experiment)
    (found,) = client.search_runs([whole.experiment_id], "tags.`infoaug.kind` = 'sweep'")
    return found


def children_of(client: MlflowClient, of: SweepConfig) -> dict[str, Run]:
    """The trials' runs by name."""
    parent = parent_of(client, of).info
    found = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


def steps(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, metric)]


class Away:
    """A server that is away for its next calls, or for as long as it is told to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.failed, self.back = 0, 0, threading.Event()
        for name in (
            "log_batch",
            "create_run",
            "set_terminated",
            "log_artifacts",
            "log_inputs",
            "search_runs",
            "set_tag",
        ):
            monkeypatch.setattr(MlflowClient, name, self._failing(getattr(MlflowClient, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.calls:
                self.calls, self.failed = self.calls - 1, self.failed + 1
                raise MlflowException("the server is away")
            return real(*arguments, **named)

        return call


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    made = Away(monkeypatch)
    yield made
    made.calls = 0  # a thread that still tries comes to its end


# ---- changed data


def test_a_trial_of_changed_clips_has_a_run_of_its_own_and_the_old_one_keeps_its_epochs(
    experiment: dict[str, Any], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = config(experiment, grid=[{"policy": "random"}])
    (trial,), store = trials.planned(of), Store(of.store)
    monkeypatch.setattr(SweepRunner, "_score", lambda self, trial: scored_of(trial, store))
    for clip, epochs in (("a", 3), ("b", 2), ("b", 2)):
        leave_done(trial, store, shares=(0.25,) * epochs, clip=clip, knn=epochs / 10)
        made = Tracked(of)
        made.describe()
        SweepRunner(of, made).prepare([trial], resume=True)
        made.finish("FINISHED", {}, LONG)
    parent = parent_of(client, of).info
    found = client.search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    old, new = sorted(found, key=lambda run: run.info.start_time)
    assert [step for step, _ in steps(client, old, "train/loss")] == [1, 2, 3]
    assert [step for step, _ in steps(client, new, "train/loss")] == [1, 2]
    assert (old.data.metrics["scenes/knn"], new.data.metrics["scenes/knn"]) == (0.3, 0.2)
    assert old.data.tags["infoaug.replaced_by"] == new.info.run_id
    assert old.info.status == new.info.status == "FINISHED"


# ---- what the machine is busy with


BUSY = "system/cpu_utilization_percentage"


def test_the_machine_is_watched_for_a_trial_from_its_start_to_its_end(
    sweep: SweepConfig, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    first, second, third, fourth = trials.planned(sweep)
    made = Tracked(sweep)
    for trial in (first, second, third):
        made.begin(trial)
    wait_for(lambda: BUSY in run_of(client, sweep, first).data.metrics)
    made.end(first, "FINISHED", sweeps.trial())
    made.end(second, "FAILED", why="out of memory")
    made.end(fourth, "FINISHED", sweeps.trial())  # it was complete before
    made.finish("KILLED", {}, LONG)
    runs = children_of(client, sweep)
    logged = {name: steps(client, run, BUSY) for name, run in runs.items()}
    assert logged[first.name] and not logged[fourth.name]
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert [runs[trial.name].info.status for trial in (first, second, third)] == ["FINISHED", "FAILED", "KILLED"]


@pytest.mark.parametrize("wanted", [True, False])
def test_the_machine_is_watched_unless_the_config_says_no(
    experiment: dict[str, Any], client: MlflowClient, wanted: bool
) -> None:
    experiment["tracking"]["system_metrics"] = wanted
    of = config(experiment, grid=[BLOCK])
    first, second, *_ = trials.planned(of)
    made = Tracked(of)
    made.begin(first)
    made.begin(second)
    run_of(client, of, second)  # what is written of the first is written before
    watching = any(thread.name == "SystemMetricsMonitor" for thread in threading.enumerate())
    made.finish("FINISHED", {}, LONG)
    assert watching == wanted


def run_of(client: MlflowClient, of: SweepConfig, trial: Trial) -> Run:
    """A trial's run, once there is one."""
    wait_for(lambda: trial.name in children_of(client, of))
    return children_of(client, of)[trial.name]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for no longer than a test may take."""
    ends = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


# ---- what is there


def test_a_sweep_is_a_run_with_one_below_it_for_each_trial(sweep: SweepConfig, client: MlflowClient) -> None:
    made = Tracked(sweep)
    made.describe()
    for trial in trials.planned(sweep):
        made.begin(trial)
        made.end(trial, "FINISHED", sweeps.trial())
    made.finish("FINISHED", {"comparison.md": b"# It"}, LONG)
    parent = parent_of(client, sweep)
    assert (parent.info.run_name, parent.info.status) == ("mine", "FINISHED")
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} == {"config.yaml", "comparison"}
    assert [a.path for a in client.list_artifacts(parent.info.run_id, "comparison")] == ["comparison/comparison.md"]
    children = children_of(client, sweep)
    assert set(children) == {trial.name for trial in trials.planned(sweep)}
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert "mlflow.parentRunId" not in parent.data.tags


def test_a_trial_s_run_is_found_by_its_arm_its_settings_and_its_code(sweep: SweepConfig, client: MlflowClient) -> None:
    planned = {trial.name: trial for trial in trials.planned(sweep)}
    made = Tracked(sweep)
    made.describe()
    for trial in planned.values():
        made.begin(trial)
    made.finish("FINISHED", {}, LONG)
    children = children_of(client, sweep)
    wanted = {
        "simclr-random-w0.5-ring-s0": ("simclr", "random", "0.5", "ring"),
        "byol-random-w0.5-s0": ("byol", "random", "0.5", ""),
        "simclr-none-ring-s0": ("simclr", "none", "0", "ring"),
        "byol-none-s0": ("byol", "none", "0", ""),
    }
    tags = {name: run.data.tags for name, run in children.items()}
    keys = ("framework", "policy", "twin_weight", "negatives")
    assert {name: tuple(of[key] for key in keys) for name, of in tags.items()} == wanted
    for name, of in tags.items():
        trial = planned[name]
        assert (of["seed"], of["backbone"], of["infoaug.kind"]) == ("0", "resnet18", "trial")
        assert of["infoaug.config"] == trial.identity
        assert json.loads(of["infoaug.point"]) == trial.point
        assert of.get("mlflow.source.git.commit", "") == mlflow_runs.commit()
        assert children[name].data.params == {key: str(value) for key, value in trial.config.flat().items()}


def test_data_sets_are_inputs_of_the_sweep_and_of_its_trials(experiment: dict[str, Any], client: MlflowClient) -> None:
    evaluated = {"evaluate": {"datasets": ["scenes", "cifar10"]}}
    of = config({**experiment, **evaluated}, grid=[{"policy": "none"}])
    (trial,) = trials.planned(of)
    for _ in range(2):
        made = Tracked(of)
        made.describe()
        made.begin(trial)
        made.finish("FINISHED", {}, LONG)
    for run in (parent_of(client, of), *children_of(client, of).values()):
        inputs = client.get_run(run.info.run_id).inputs.dataset_inputs
        found = sorted((one.dataset.name, one.tags[0].value) for one in inputs)
        assert found == [("cifar10", "evaluation"), ("scenes", "evaluation"), ("scenes (synthetic)", "training")]
        assert all(one.dataset.digest for one in inputs)


def test_what_a_trial_came_to_is_logged_and_kept(sweep: SweepConfig, client: MlflowClient) -> None:
    trial, made = trials.planned(sweep)[0], Tracked(sweep)
    made.describe()
    made.epochs(trial, [epoch(1)])
    made.epochs(trial, [epoch(2, validation_knn=0.4)])
    outcome = sweeps.trial("none", seconds=12.0, passes=34.0, results={"a/b": {"knn": 0.5}})
    made.end(trial, "FINISHED", outcome)
    made.finish("FINISHED", {}, LONG)
    run = children_of(client, sweep)[trial.name]
    assert run.data.metrics["b/knn"] == 0.5
    assert (run.data.metrics["pretrain/seconds"], run.data.metrics["pretrain/passes"]) == (12.0, 34.0)
    assert steps(client, run, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert steps(client, run, "train/validation_knn") == [(2, 0.4)]
    kept = json.loads(Path(client.download_artifacts(run.info.run_id, "trial.json")).read_bytes())
    assert sweeps.TrialResult(**kept) == outcome


# ---- how it ends


def test_trials_end_as_they_did_with_why(sweep: SweepConfig, client: MlflowClient) -> None:
    done, failed, stopped, running = trials.planned(sweep)
    made = Tracked(sweep)
    made.describe()
    made.end(done, "FINISHED", sweeps.trial())
    made.end(failed, "FAILED", why="out of memory\n" * 100)
    made.end(stopped, "FINISHED", why="stopped early, after epoch 3")
    made.begin(running)
    made.finish("KILLED", {}, LONG)
    children = children_of(client, sweep)
    ended = {name: run.info.status for name, run in children.items()}
    assert [ended[trial.name] for trial in (done, failed, stopped, running)] == [
        "FINISHED",
        "FAILED",
        "FINISHED",
        "KILLED",
    ]
    assert children[stopped.name].data.tags["infoaug.ended"] == "stopped early, after epoch 3"
    assert children[failed.name].data.tags["infoaug.ended"].startswith("out of memory")
    assert parent_of(client, sweep).info.status == "KILLED"


def test_a_trial_that_ends_well_after_all_has_no_reason_left(sweep: SweepConfig, client: MlflowClient) -> None:
    trial = trials.planned(sweep)[0]
    for status, outcome, why in (("FAILED", None, "out of memory"), ("FINISHED", sweeps.trial(), "")):
        made = Tracked(sweep)
        made.describe()
        made.end(trial, status, outcome, why)
        made.finish("FINISHED", {}, LONG)
    (run,) = children_of(client, sweep).values()
    assert run.info.status == "FINISHED"
    assert not run.data.tags.get("infoaug.ended")


def test_trials_that_a_killed_sweep_left_running_are_ended_by_the_next(
    sweep: SweepConfig, client: MlflowClient
) -> None:
    orphan, other = trials.planned(sweep)[:2]
    first = Tracked(sweep)
    first.describe()
    first.begin(orphan)
    first._todo.put(None)  # its process is gone
    first._thread.join(LONG)
    assert children_of(client, sweep)[orphan.name].info.status == "RUNNING"
    second = Tracked(sweep)
    second.end(other, "FINISHED", sweeps.trial())
    second.finish("FINISHED", {}, LONG)
    ended = {name: run.info.status for name, run in children_of(client, sweep).items()}
    assert ended == {orphan.name: "KILLED", other.name: "FINISHED"}


# ---- gone on with


def test_the_same_sweep_goes_on_in_the_same_runs_and_logs_nothing_twice(
    sweep: SweepConfig, client: MlflowClient
) -> None:
    trial = trials.planned(sweep)[0]
    result = {"knn": 0.5, "probe": 0.75}
    histories = [epoch(1), epoch(2)], [epoch(1), epoch(2), epoch(3)]
    runs = []
    for number, history in enumerate(histories):
        of = sweep.model_copy(update={"store": f"store-{number}"})
        made = Tracked(of)
        made.describe()
        for one in history:
            made.epochs(trial, [one])
        made.epochs(trial, history)
        made.end(trial, "FINISHED", sweeps.trial(results={"scenes": result}))
        made.finish("FINISHED", {}, LONG)
        runs.append([parent_of(client, sweep).info.run_id, children_of(client, sweep)[trial.name].info.run_id])
    assert runs[0] == runs[1]
    child = children_of(client, sweep)[trial.name]
    assert steps(client, child, "train/loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert steps(client, child, "scenes/probe") == [(0, 0.75)]
    assert len(steps(client, child, "pretrain/seconds")) == 1


def test_another_sweep_has_runs_of_its_own_though_trials_be_the_same(
    sweep: SweepConfig, client: MlflowClient, experiment: dict[str, Any]
) -> None:
    trial = trials.planned(sweep)[0]
    for of in (sweep, config(experiment, grid=[{**BLOCK, "seed": [0, 1]}])):
        made = Tracked(of)
        made.describe()
        made.begin(trial)
        made.finish("FINISHED", {}, LONG)
    whole = client.get_experiment_by_name(sweep.tracking.experiment)
    found = client.search_runs([whole.experiment_id], "tags.`infoaug.kind` = 'trial'")
    assert [run.info.run_name for run in found] == [trial.name] * 2
    assert len({run.data.tags["mlflow.parentRunId"] for run in found}) == 2


# ---- a server that is away


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8, 20])
def test_a_server_that_was_away_has_all_of_it_in_order(
    calls: int, sweep: SweepConfig, client: MlflowClient, away: Away
) -> None:
    made = Tracked(sweep)
    made.describe()
    away.calls = calls
    first, second = trials.planned(sweep)[:2]
    made.begin(first)
    for number in range(1, 6):
        made.epochs(first, [epoch(number)])
        made.epochs(second, [epoch(number)])
    made.end(first, "FINISHED", sweeps.trial(results={"scenes": {"knn": 0.5}}))
    made.end(second, "FAILED", why="out of memory")
    made.finish("FAILED", {"comparison.md": b"#"}, LONG)
    assert away.failed == calls
    children = children_of(client, sweep)
    assert {name: run.info.status for name, run in children.items()} == {first.name: "FINISHED", second.name: "FAILED"}
    for trial in (first, second):
        run = children[trial.name]
        assert [step for step, _ in steps(client, run, "train/loss")] == [1, 2, 3, 4, 5]
        written = [m.timestamp for m in client.get_metric_history(run.info.run_id, "train/loss")]
        assert written == sorted(written)
        assert run.data.params == {key: str(value) for key, value in trial.config.flat().items()}
        assert client.get_run(run.info.run_id).inputs.dataset_inputs
    assert steps(client, children[first.name], "scenes/knn") == [(0, 0.5)]
    assert {a.path for a in client.list_artifacts(children[first.name].info.run_id)} == {"trial.json"}
    assert parent_of(client, sweep).info.status == "FAILED"


def test_nobody_waits_for_a_server_that_is_away_until_the_end(
    sweep: SweepConfig, client: MlflowClient, away: Away
) -> None:
    made = Tracked(sweep)
    made.describe()
    away.calls = 10**9
    trial = trials.planned(sweep)[0]
    made.epochs(trial, [epoch(1)])
    with pytest.raises(StageError, match=r"the server is away.*run the same command again"):
        made.finish("FINISHED", {}, 0.2)
    away.calls = 0
    made._thread.join(LONG)
    assert steps(client, children_of(client, sweep)[trial.name], "train/loss") == [(1, 2.0)]
    assert parent_of(client, sweep).info.status == "FINISHED"


def test_what_cannot_be_written_keeps_nothing_else_from_it_and_is_told_of(
    sweep: SweepConfig, client: MlflowClient
) -> None:
    first, second = trials.planned(sweep)[:2]
    made = Tracked(sweep)
    made.describe()
    made.end(first, "FINISHED", sweeps.trial(results={"x": {"domains": ["a"], "knn_matrix": []}}))
    made.end(second, "FINISHED", sweeps.trial())
    with pytest.raises(StageError, match="MLflow does not have all of the sweep: ValueError"):
        made.finish("FINISHED", {}, LONG)
    assert children_of(client, sweep)[second.name].info.status == "FINISHED"


def test_a_server_that_is_away_at_the_start_is_told_of(sweep: SweepConfig, away: Away) -> None:
    away.calls = 10**9
    with pytest.raises(UsageError, match="cannot be used: the server is away"):
        Tracked(sweep)


# ---- the code


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    ran = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def commit_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit that is told where the code lies there."""
    monkeypatch.setattr(mlflow_runs, "__file__", str(path))
    return mlflow_runs.commit.__wrapped__()


def test_the_commit_is_told_in_a_checkout_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "orchestrator" / "tracking.py"
    path.parent.mkdir()
    path.write_text("x = 1\n")
    assert commit_at(path, monkeypatch) == ""
    git(tmp_path, "init", "-q")
    assert commit_at(path, monkeypatch) == "", "the checkout of something else, in which this is installed"
    (tmp_path / "README.md").write_text("of something else\n")
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "-q", "-m", "one")
    assert commit_at(path, monkeypatch) == ""
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "two")
    git(tmp_path, "tag", "v1.0")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_at(path, monkeypatch) == head
    path.write_text("x = 2\n")
    assert commit_at(path, monkeypatch) == f"{head}-dirty"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit_at(Path(mlflow_runs.__file__), monkeypatch) == ""
