"""Runs in a real MLflow database are found again by their identity, and logged once and in the right place."""

import errno
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import mlflow.pyfunc
import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone, load_backbone, save_backbone
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.mlflow_runs import Run, Source, identity

LOGGED = ("loss", "view_loss", "twin_loss", "view_mutual_information", "learning_rate", "rank_me")  # of an epoch


def epoch(number: int, loss: float = 1.0) -> dict[str, float]:
    """Metrics of one epoch."""
    return {"epoch": number, "seconds": 3.0, **dict.fromkeys(LOGGED, 0.5), "loss": loss}


def history(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.id, name))


Make = Callable[..., ExperimentConfig]


# ---- one run per experiment


def test_the_same_experiment_resumes_the_same_run(config: Make, client: MlflowClient) -> None:
    first = Run(config("score.k=3"))
    first.finish("FAILED")
    again = Run(config("score.k=3", "store=elsewhere", "ray.cpus=1"))
    assert again.id == first.id
    assert client.get_run(first.id).info.status == "RUNNING"


def test_another_experiment_is_another_run(config: Make, client: MlflowClient) -> None:
    runs = [Run(config(o)) for o in ("seed=0", "seed=1", "score.k=3", "pretrain.twin_weight=0", "name=other")]
    assert len({run.id for run in runs}) == 5
    (experiment,) = {client.get_run(run.id).info.experiment_id for run in runs}
    assert len(client.search_runs([experiment])) == 5


def test_the_same_config_in_another_mlflow_experiment_is_another_run(config: Make) -> None:
    assert Run(config()).id != Run(config("tracking.experiment=elsewhere")).id


def test_a_deleted_run_is_not_resumed(config: Make, client: MlflowClient) -> None:
    first = Run(config())
    client.delete_run(first.id)
    assert Run(config()).id != first.id


@pytest.mark.parametrize(
    "override",
    [
        "store=elsewhere",
        "tracking.experiment=x",
        "ray.cpus=1",
        "pretrain.workers=2",
        "evaluate.data=there",
        "evaluate.domains=there",
        "evaluate.every=5",
    ],
)
def test_settings_of_where_an_experiment_runs_do_not_change_its_identity(override: str) -> None:
    assert identity(load(None, [override])) == identity(load(None))


@pytest.mark.parametrize(
    "override", ["name=x", "seed=1", "clips.path=x", "extract.window=32", "score.k=3", "pretrain.epochs=3"]
)
def test_every_other_setting_changes_the_identity(override: str) -> None:
    assert identity(load(None, [override])) != identity(load(None))


def test_a_run_carries_every_setting_its_name_and_its_tags(config: Make, client: MlflowClient) -> None:
    made = config("name=mine", "score.policy=random", "pretrain.framework_settings.temperature=0.2")
    stored = client.get_run(Run(made).id)
    assert stored.data.params == {key: str(value) for key, value in made.flat().items()}
    assert stored.info.run_name == "mine"
    assert stored.data.tags["framework"] == "simclr"
    assert stored.data.tags["policy"] == "random"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_with_the_given_status(config: Make, client: MlflowClient, status: str) -> None:
    run = Run(config())
    assert client.get_run(run.id).info.status == "RUNNING"
    run.finish(status)
    assert client.get_run(run.id).info.status == status


def test_a_run_has_the_given_key_name_tags_and_parent(config: Make, client: MlflowClient) -> None:
    whole = Run(config(), key="abc", name="the-sweep", tags={"infoaug.kind": "sweep"})
    part = Run(config(), name="a-part", tags={"negatives": "ring"}, parent=whole)
    assert whole.id == Run(config("seed=3"), key="abc").id
    assert part.id == Run(config(), parent=whole).id
    assert len({whole.id, part.id, Run(config()).id}) == 3
    stored = client.get_run(part.id)
    assert (stored.info.run_name, stored.data.tags["negatives"]) == ("a-part", "ring")
    assert stored.data.tags["mlflow.parentRunId"] == whole.id
    assert [run.info.run_id for run in whole.below()] == [part.id]


def test_all_children_are_listed_when_they_take_several_pages(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = MlflowClient.search_runs

    def two_at_a_time(self: MlflowClient, *arguments: object, max_results: int, **named: object) -> object:
        return search(self, *arguments, max_results=min(max_results, 2), **named)  # type: ignore[arg-type]

    whole = Run(config(), key="abc")
    parts = [Run(config(f"seed={seed}"), parent=whole).id for seed in range(5)]
    monkeypatch.setattr(MlflowClient, "search_runs", two_at_a_time)
    assert [run.info.run_id for run in whole.below()] == parts[::-1]


def test_an_arm_without_twins_has_the_weight_0(config: Make, client: MlflowClient) -> None:
    weights = [client.get_run(Run(config(f"score.policy={p}")).id).data.tags["twin_weight"] for p in ("none", "random")]
    assert weights == ["0", "0.5"]


def test_settings_that_could_not_be_logged_are_logged_when_the_run_is_resumed(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config("store=here")

    def down(*_: object, **__: object) -> None:
        raise MlflowException("the server is down")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", down)
        with pytest.raises(UsageError, match="server is down"):
            Run(made)
    again = config("store=there")
    assert {*client.get_run(Run(again).id).data.params} == {*made.flat()}


def test_the_reason_of_a_run_s_end_is_kept_until_it_is_resumed(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    run.finish("FAILED", "out of memory, " * 100)
    reason = client.get_run(run.id).data.tags["infoaug.ended"]
    assert reason.startswith("out of memory") and len(reason) == 500
    Run(config())
    assert "infoaug.ended" not in client.get_run(run.id).data.tags


def test_two_commands_that_begin_together_continue_the_same_run(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run

    def slowly(*arguments: object, **named: object) -> object:
        time.sleep(0.2)  # the other one searches in the meantime
        return create(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "create_run", slowly)
    made = config()
    with ThreadPoolExecutor(2) as commands:
        runs = list(commands.map(Run, [made, made]))
    assert runs[0].id == runs[1].id
    assert len(client.search_runs([client.get_run(runs[0].id).info.experiment_id])) == 1


def test_an_experiment_that_another_command_created_meanwhile_is_used(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Run(config())
    look, answers = MlflowClient.get_experiment_by_name, iter([None])

    def too_early(self: MlflowClient, name: str) -> object:
        return next(answers) if answers.__length_hint__() else look(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    assert Run(config()).id == expected.id


# ---- changed data or code


def test_a_run_of_changed_data_takes_the_place_of_the_old_one_which_keeps_its_epochs(
    config: Make, client: MlflowClient
) -> None:
    run = Run(config())
    old = run.id
    run.of_model("a")
    run.epochs([epoch(1, loss=1.0), epoch(2, loss=2.0)])
    run.finish("FINISHED", "all done")
    before = client.get_run(old).info
    run = Run(config())
    assert run.id == old and not run.new
    run.of_model("b")
    run.epochs([epoch(1, loss=3.0)])
    assert history(client, run, "train/loss") == [(1, 3.0)]
    assert [(m.step, m.value) for m in client.get_metric_history(old, "train/loss")] == [(1, 1.0), (2, 2.0)]
    kept, made = client.get_run(old), client.get_run(run.id)
    assert kept.data.tags["infoaug.replaced_by"] == run.id != old
    assert (kept.info.status, kept.info.end_time) == ("FINISHED", before.end_time)
    assert kept.data.tags["infoaug.ended"] == "all done"
    assert (made.info.run_name, made.data.params) == (kept.info.run_name, kept.data.params)
    assert Run(config()).id == run.id, "the next command continues the new one"


def test_the_same_model_keeps_its_run_and_one_without_epochs_becomes_that_of_any_model(
    config: Make, client: MlflowClient
) -> None:
    run = Run(config())
    first = run.id
    run.of_model("a", anew=True)
    run.epochs([epoch(1)])
    run = Run(config())
    run.of_model("a")
    assert run.id == first
    older = Run(config("name=of-an-older-version"))
    older.epochs([epoch(1)])
    older = Run(config("name=of-an-older-version"))
    older.of_model("a")  # the store has it, so its epochs are those of the run
    assert not client.search_runs([client.get_run(first).info.experiment_id], "tags.`infoaug.replaced_by` != ''")


def test_a_training_that_starts_anew_has_a_run_without_the_old_epochs(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    first = run.id
    run.of_model("a")
    run.epochs([epoch(1, loss=1.0)])
    run.of_model("a", anew=True)
    run.epochs([epoch(1, loss=2.0)])
    assert run.id != first and history(client, run, "train/loss") == [(1, 2.0)]
    assert client.get_run(first).data.tags["infoaug.replaced_by"] == run.id


def test_a_killed_run_that_is_replaced_does_not_stay_running(config: Make, client: MlflowClient) -> None:
    killed = Run(config())
    killed.of_model("a")
    again = Run(config())
    again.of_model("b")
    assert client.get_run(killed.id).info.status == "KILLED"


# ---- what is logged


def test_epochs_are_logged_by_step_under_train(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    for number in (1, 2):
        run.epochs([epoch(number, loss=3.0 - number)])
    assert history(client, run, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert set(client.get_run(run.id).data.metrics) == {f"train/{name}" for name in LOGGED}


def test_an_epoch_is_logged_once_even_after_a_restart(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    for number in (1, 2, 2, 1, 3):
        run.epochs([epoch(number, loss=float(number))])
    again = Run(config())
    for number in (2, 3, 4):
        again.epochs([epoch(number, loss=10.0 * number)])
    assert history(client, run, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_an_epoch_that_could_not_be_logged_is_logged_later_even_after_newer_epochs(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config())
    run.epochs([epoch(1, loss=1.0)])

    def down(*_: object, **__: object) -> None:
        raise MlflowException("the server is down")

    with monkeypatch.context() as patch:
        patch.setattr(run._client, "log_batch", down)
        with pytest.raises(StageError, match="server is down"):
            run.epochs([epoch(2, loss=2.0)])
    for number in (3, 1, 2, 3):
        run.epochs([epoch(number, loss=float(number))])
    assert sorted(history(client, run, "train/loss")) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_an_epoch_whose_acknowledgement_was_lost_is_stored_once(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config())
    log_batch = run._client.log_batch

    def answer_lost(*arguments: object, **named: object) -> None:
        log_batch(*arguments, **named)
        raise MlflowException("the connection was reset")

    with monkeypatch.context() as patch:
        patch.setattr(run._client, "log_batch", answer_lost)
        with pytest.raises(StageError, match="connection was reset"):
            run.epochs([epoch(1, loss=1.0)])
    run.epochs([epoch(1, loss=1.0), epoch(2, loss=2.0)])
    assert history(client, run, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_a_loss_of_nan_is_logged(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    run.epochs([epoch(1, loss=float("nan"))])
    assert [step for step, _ in history(client, run, "train/loss")] == [1]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("scenes", "scenes"),
        ("my/images/", "images"),
        ("a/b.npz", "b.npz"),
        ("photos (1) #2", "photos _1_ _2"),
        ("..", "dataset"),
        (".", "dataset"),
    ],
)
def test_accuracies_are_logged_by_data_set_whatever_its_name(
    config: Make, client: MlflowClient, dataset: str, name: str
) -> None:
    run = Run(config())
    values = {"knn": 0.5, "probe": 0.6, "floor_knn": 0.2, "floor_probe": 0.3}
    run.results([{"dataset": dataset, "train": 10, "test": 5, "classes": 2, **values}])
    assert client.get_run(run.id).data.metrics == {f"{name}/{key}": value for key, value in values.items()}


def test_data_sets_of_one_base_name_are_logged_under_names_of_their_own(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    run.results([{"dataset": f"{site}/images", "knn": knn} for site, knn in (("siteA", 0.5), ("siteB", 0.25))])
    assert client.get_run(run.id).data.metrics == {"siteA_images/knn": 0.5, "siteB_images/knn": 0.25}


def test_accuracies_across_domains_are_logged_by_the_domains_trained_and_tested_on(
    config: Make, client: MlflowClient
) -> None:
    run = Run(config())
    matrices = {"probe_matrix": [[0.9, 0.4], [0.3, 0.8]], "floor_probe_matrix": [[0.2, 0.1], [0.0, 1.0]]}
    means = {"probe": 0.35, "floor_probe": 0.05, "validation_probe": 0.85, "rank_me": 9.5}
    run.results([{"dataset": "data/pacs", "train": 10, "domains": ["art", "photo #1"], **means, **matrices}])
    logged = client.get_run(run.id).data.metrics
    assert {name: logged.pop(f"pacs/{name}") for name in means} == means
    assert logged == {
        "pacs/art to art/probe": 0.9,
        "pacs/art to photo _1/probe": 0.4,
        "pacs/photo _1 to art/probe": 0.3,
        "pacs/photo _1 to photo _1/probe": 0.8,
        "pacs/art to art/floor_probe": 0.2,
        "pacs/art to photo _1/floor_probe": 0.1,
        "pacs/photo _1 to art/floor_probe": 0.0,
        "pacs/photo _1 to photo _1/floor_probe": 1.0,
    }


def test_a_value_without_a_step_is_logged_again_only_when_it_changes(config: Make, client: MlflowClient) -> None:
    run = Run(config())
    for knn in (0.5, 0.5, 0.75):
        run.results([{"dataset": "scenes", "knn": knn, "probe": 0.25}])
    assert sorted(value for _, value in history(client, run, "scenes/knn")) == [0.5, 0.75]
    assert history(client, run, "scenes/probe") == [(0, 0.25)]
    assert client.get_run(run.id).data.metrics["scenes/knn"] == 0.75


def test_no_secret_of_a_url_reaches_mlflow(config: Make, client: MlflowClient) -> None:
    url = "https://key:hunter2@host/x?sig=hunter2"
    run = Run(config(f"clips.path={url}", f"store={url}"), tags={"infoaug.kind": "experiment"})
    run.sources([Source(url, "digest", url, "training")])
    run.finish("FAILED", f"no answer from {url}")
    kept = client.get_run(run.id)
    assert kept.data.params["clips.path"] == kept.data.params["store"] == "https://***@host/x?sig=***"
    assert "hunter2" not in str(kept.to_dictionary())
    (read,) = kept.inputs.dataset_inputs
    assert read.dataset.source == '{"path": "https://***@host/x?sig=***"}'


# ---- where it is stored


def test_artifacts_are_stored_beside_the_database_and_not_in_the_working_directory(
    config: Make, client: MlflowClient, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(config())
    run.files({"config.yaml": b"name: x\n", "b.bin": b"\x00\xff"})
    run.files({"backbone.json": b"{}"}, "backbone")
    assert {a.path for a in client.list_artifacts(run.id)} == {"config.yaml", "b.bin", "backbone"}
    (stored,) = database.parent.glob(f"mlruns/**/{run.id}/artifacts/backbone/backbone.json")
    assert stored.read_bytes() == b"{}"
    assert (stored.parents[1] / "b.bin").read_bytes() == b"\x00\xff"
    assert not any(tmp_path.iterdir())


def test_a_relative_database_is_relative_to_the_working_directory(
    config: Make, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Run(config())
    monkeypatch.chdir(database.parent)
    run = Run(config("tracking.uri=sqlite:///mlflow.db"))
    assert run.uri == f"sqlite:///{database}"
    assert run.id == expected.id


def test_the_default_uri_is_the_environment_s_or_a_database_in_the_working_directory(
    config: Make, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    assert Run(config("tracking.uri=null")).uri == f"sqlite:///{database}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(database.parent)
    assert Run(config("tracking.uri=null")).uri == f"sqlite:///{database}"
    assert not any(tmp_path.iterdir())


def test_the_folder_of_an_experiment_s_files_is_beside_the_database_whatever_its_name(
    database: Path, client: MlflowClient
) -> None:
    for name in ("/absolute/name", "what? #1 50%", "a//b"):
        run = Run(load(None, [f"tracking.uri=sqlite:///{database}", f"tracking.experiment='{name}'"]))
        run.files({"x.txt": b"x"})
        (stored,) = database.parent.glob(f"mlruns/**/{run.id}/artifacts/x.txt")
        assert stored.read_bytes() == b"x" and "mlruns" in stored.parts


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("(sqlite3.OperationalError) database or disk is full"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_a_full_disk_is_called_that_and_the_work_is_kept(
    config: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    run = Run(config())
    for name in ("log_batch", "log_artifacts", "search_runs"):
        monkeypatch.setattr(MlflowClient, name, full)
    for write in (lambda: run.metrics({"x": 1.0}), lambda: run.files({"x": b""})):
        with pytest.raises(
            StageError, match=r"cannot write to MLflow \(a disk is full, .*\): computed results are kept"
        ):
            write()
    with pytest.raises(UsageError, match="cannot be used: a disk is full"):
        Run(config())


# ---- unusable tracking URIs


def refused(uri: str) -> str:
    """The one-line error for an unusable tracking URI."""
    with pytest.raises(UsageError) as caught:
        Run(load(None, [f"tracking.uri={uri}"]))
    assert "\n" not in str(caught.value)
    assert uri.removeprefix("sqlite:///") in str(caught.value)
    return str(caught.value)


def test_a_server_that_does_not_answer_is_reported_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refused(f"http://127.0.0.1:{port}")
    assert "no MLflow server answers" in error
    assert "MLFLOW_TRACKING_URI" in error and "tracking.uri" in error


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b""])
def test_a_server_of_another_kind_is_refused(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert "no MLflow server answers at" in refused(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_url_with_an_invalid_port_is_refused() -> None:
    assert "no MLflow server answers at" in refused("http://127.0.0.1:port")


def test_a_database_that_cannot_be_opened_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.db").write_bytes(b"not a database, " * 100)
    assert "cannot be opened (unable to open database file): give another" in refused(f"sqlite:///{tmp_path}/folder")
    assert "cannot be opened (file is not a database)" in refused(f"sqlite:///{tmp_path}/junk.db")
    assert "cannot be opened" in refused(f"sqlite:///{tmp_path}/junk.db/mlflow.db")


def test_a_database_of_a_newer_mlflow_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("CREATE TABLE alembic_version (version_num TEXT)")
        newer.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        newer.commit()
    assert "cannot be used: Can't locate revision" in refused(f"sqlite:///{tmp_path}/newer.db")


def test_an_unknown_uri_scheme_is_refused() -> None:
    assert "MLflow at 'gopher://x' cannot be used" in refused("gopher://x")


def test_a_deleted_mlflow_experiment_is_refused_with_its_name(config: Make, client: MlflowClient) -> None:
    made = config()
    Run(made)
    experiment = client.get_experiment_by_name(made.tracking.experiment)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    remedy = (
        f"'{made.tracking.experiment}' is deleted: restore it by .* --experiment-id {experiment.experiment_id}`, or"
    )
    with pytest.raises(UsageError, match=remedy):
        Run(made)
    assert client.search_experiments(view_type=ViewType.DELETED_ONLY)


# ---- models


def test_what_the_machine_is_busy_with_is_logged_while_asked_and_goes_on_where_it_ended(
    config: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")

    def logged(run: Run) -> dict[str, float]:
        return {key: of for key, of in client.get_run(run.id).data.metrics.items() if key.startswith("system/")}

    for times in (1, 2):
        run = Run(config())
        with run.system_metrics():
            for _ in range(1000):
                if len(history(client, run, "system/cpu_utilization_percentage")) > 2 * times:
                    break
                time.sleep(0.05)
        steps = [step for step, _ in history(client, run, "system/cpu_utilization_percentage")]
        assert len(steps) > 2 * times and steps == [*range(len(steps))]
    assert {"system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= logged(run).keys()
    quiet = Run(config("tracking.system_metrics=false", "seed=9"))
    before = threading.active_count()
    with quiet.system_metrics():
        assert threading.active_count() == before
    assert not logged(quiet)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of the event files of a folder by tag: records of a length, its checksum, a message and its checksum."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            content = content[16 + size :]
    return found


def test_epochs_are_written_for_tensorboard_once_in_a_folder_of_the_run(config: Make, tmp_path: Path) -> None:
    asked = config(f"tracking.tensorboard='{tmp_path}/tb'", "name=mine")
    run = Run(asked)
    run.epochs([epoch(1, 3.0)])
    run.epochs([epoch(1, 3.0), epoch(2, 2.0)])
    Run(asked).epochs([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0)])
    (folder,) = (tmp_path / "tb").iterdir()
    assert folder.name.startswith("mine-") and run.id.startswith(folder.name.removeprefix("mine-"))
    assert events(folder)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert events(folder).keys() == {f"train/{name}" for name in LOGGED}
    Run(asked).epochs([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0)])
    assert len([*folder.iterdir()]) == 2, "nothing is new"
    later = config(f"tracking.tensorboard='{tmp_path}/later'", "name=mine")
    Run(later).epochs([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0)])
    (folder,) = (tmp_path / "later").iterdir()
    assert events(folder)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)], "of epochs that MLflow had before"
    (tmp_path / "file").touch()
    broken = Run(config(f"tracking.tensorboard='{tmp_path}/file'", "seed=9"))
    with pytest.raises(StageError, match="give another folder"):
        broken.epochs([epoch(1)])


def test_a_resumed_training_gives_tensorboard_the_epochs_of_before_it_was_asked_for(
    config: Make, tmp_path: Path
) -> None:
    Run(config()).epochs([epoch(1, 3.0), epoch(2, 2.0)])
    run = Run(config(f"tracking.tensorboard='{tmp_path}/tb'"))
    run.epochs([epoch(3, 1.0)])  # the others come with the end of the training, if it gets there
    run.epochs([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0)])
    (folder,) = (tmp_path / "tb").iterdir()
    assert events(folder)["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert events(folder)["train/learning_rate"] == [(n, epoch(n)["learning_rate"]) for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def backbone_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("backbone")
    small = create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
    save_backbone(small, folder, mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2])
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_model_is_logged_once_loads_without_pickles_and_has_its_accuracies(
    config: Make,
    client: MlflowClient,
    backbone_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for _ in range(2):
        run = Run(config())
        run.of_model("0123")
        run.files(backbone_files, "backbone")
        run.model(backbone_files, 16, register="features")
        run.results([{"dataset": "cifar10", "knn": 0.25, "classes": 10}])
        run.finish("FINISHED")
    experiment = client.get_run(run.id).info.experiment_id
    (logged,) = client.search_logged_models([experiment])
    assert (logged.source_run_id, logged.status.value, logged.tags["infoaug.model"]) == (run.id, "READY", "0123")
    assert [(metric.key, metric.value) for metric in logged.metrics] == [("cifar10/knn", 0.25)]
    kept = {Path(artifact.path).name for artifact in client.list_artifacts(run.id, "backbone")}
    assert kept == backbone_files.keys(), "the run's own files are found beside the model"
    (version,) = client.search_model_versions("name = 'features'")
    assert version.run_id == run.id and logged.model_id in (version.source or "")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", config().tracking.uri or "")
    model = mlflow.pyfunc.load_model("models:/features/1")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    for name, content in backbone_files.items():
        (tmp_path / name).write_bytes(content)
    backbone = load_backbone(tmp_path)
    expected = backbone(Augment.of(backbone).normalise(torch.from_numpy(images).permute(0, 3, 1, 2)))
    assert np.allclose(model.predict(images), expected.detach(), atol=1e-6)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    graph = mlflow.pytorch.load_model("models:/features/1")
    for count in (1, 5):
        pixels = torch.from_numpy(images[:count]).permute(0, 3, 1, 2)
        assert torch.allclose(graph(pixels), expected[:count], atol=1e-6)
    assert not [*Path(str(logged.artifact_location).removeprefix("file://")).rglob("*.pkl")]
    with pytest.raises(MlflowException, match="shape"):
        model.predict(images[..., :2])


def test_a_model_that_was_logged_before_is_registered_when_that_is_asked_for_and_once(
    config: Make, client: MlflowClient, backbone_files: dict[str, bytes]
) -> None:
    for name in (None, "asked later", "asked later", "asked too", "asked later"):
        run = Run(config())
        run.of_model("0123")
        run.model(backbone_files, 16, register=name)
    (logged,) = client.search_logged_models([client.get_run(run.id).info.experiment_id])
    for name in ("asked later", "asked too"):
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert version.run_id == run.id and logged.model_id in (version.source or "")


def test_a_model_of_other_data_is_another_one(
    config: Make, client: MlflowClient, backbone_files: dict[str, bytes]
) -> None:
    for model in ("0123", "4567"):
        run = Run(config())
        run.of_model(model)
        run.model(backbone_files, 16)
    found = client.search_logged_models([client.get_run(run.id).info.experiment_id])
    assert sorted(one.tags["infoaug.model"] for one in found) == ["0123", "4567"]
    assert len({one.source_run_id for one in found}) == 2
