"""What a failed trial is reported to have failed of, and that one command at a time runs a sweep."""

import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import interruption
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.sweep import checks, runner, trials
from infoaug.orchestrator.sweep.compared import folder
from tests.orchestrator.sweep.made import config


@pytest.mark.parametrize(
    ("last", "again"),
    [
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly. Its node was lost.", True),
        ("TypeError: 'NoneType' object is not callable", False),
    ],
)
def test_a_trial_that_could_not_report_its_end_is_judged_by_what_tune_wrote(
    last: str, again: bool, tmp_path: Path
) -> None:
    (tmp_path / "error.txt").write_text(f"Failure # 1\nTraceback:\n  frames\n{last}\n\n")
    death = runner._death(str(tmp_path / "error.txt"))
    assert death["retry"] is again
    assert last.partition(". ")[0] in death["why"] and "\n" not in death["why"]
    assert "frames" in death["traceback"]


def test_arms_that_show_several_twins_at_once_are_not_made_equal_by_passes() -> None:
    given = {"grid": [{"policy": ["none", "mutual-information"], "pretrain.twins": 2, "pretrain.twin_choice": "all"}]}
    for budget, refused in (("passes", True), ("steps", False)):
        of = config(**given, budget=budget)
        if not refused:
            checks.check(of, trials.planned(of), dry=True)
            continue
        with pytest.raises(
            UsageError, match=r"sweep\.budget passes is for arms that show one twin .*: set it to steps"
        ):
            checks.check(of, trials.planned(of), dry=True)


@pytest.mark.parametrize("path", [None, "/no/such/file"])
def test_a_trial_of_which_nothing_is_known_is_worth_another_try(path: str | None) -> None:
    death = runner._death(path)
    assert death["retry"] and death["why"] and death["traceback"] == ""


def test_a_second_command_is_told_who_works_on_the_sweep(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "check", lambda *_: None)
    of = config({"store": str(tmp_path), "tracking": {"uri": f"sqlite:///{database}"}}, grid=[{"seed": [0]}])
    told = r"the sweep 'experiment' in the store .* is in use by another command \(process"
    with Store(of.store).hold(folder(of), "it"), pytest.raises(UsageError, match=told):
        runner.run(of)


def test_a_folder_for_tensorboard_that_would_hold_up_all_that_is_tracked_is_refused(
    database: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "check", lambda *_: None)
    (tmp_path / "file").touch()
    tracking = {"uri": f"sqlite:///{database}", "experiment": "held up", "tensorboard": str(tmp_path / "file")}
    with pytest.raises(UsageError, match=r"tracking\.tensorboard"):
        runner.run(config({"store": str(tmp_path), "tracking": tracking}, grid=[{"seed": [0]}]))
    assert client.get_experiment_by_name("held up") is None, "nothing was begun"


def test_a_signal_while_the_run_of_a_sweep_is_created_leaves_no_run_that_seems_to_work(
    database: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "check", lambda *_: None)
    tracking = {"uri": f"sqlite:///{database}", "experiment": "signalled"}
    of = config({"store": str(tmp_path), "tracking": tracking}, grid=[{"seed": [0]}])
    create = MlflowClient.create_run

    def signalled(*args: Any, **kwargs: Any) -> Any:
        run = create(*args, **kwargs)
        signal.raise_signal(signal.SIGTERM)
        return run

    monkeypatch.setattr(MlflowClient, "create_run", signalled)
    with interruption.raised(), pytest.raises(interruption.Interrupted):
        runner.run(of)
    whole = client.get_experiment_by_name("signalled")
    assert [run.info.status for run in client.search_runs([whole.experiment_id])] == ["KILLED"]
