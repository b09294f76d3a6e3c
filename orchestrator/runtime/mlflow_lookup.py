"""What MLflow has of earlier commands: the backbone of a run, and the trials of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE
from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import scratch
from infoaug.orchestrator.runtime.mlflow_client import (
    all_runs,
    as_stage_error,
    connect_to_look,
    file_of,
    runs_called,
    unusable,
    upload,
    uri_of,
)
from infoaug.orchestrator.runtime.mlflow_runs import COMMIT, ENDED


def backbone(run: str, settings: TrackingConfig) -> tuple[str, dict[str, bytes]]:
    """Name and backbone files of a run, given by its id or name; nothing is written.

    Raises:
        UsageError: there is no such run, there are several with this name, or it has no backbone; or as `Run`.
    """
    uri = uri_of(settings)
    nowhere = f"MLflow at '{uri}' has no run of this id or name"
    client = connect_to_look(uri, nowhere)
    try:
        found = runs_called(client, run)
        if not found:
            raise UsageError(nowhere)
        if len(found) > 1:
            ids = ", ".join(one.info.run_id for one in found)
            raise UsageError(f"MLflow at '{uri}' has several runs of this name: give the id of one, of {ids}")
        (one,) = found
        kept = {Path(artifact.path).name for artifact in client.list_artifacts(one.info.run_id, "backbone")}
        if not {WEIGHTS_FILE, RECIPE_FILE} <= kept:
            raise UsageError(
                f"the MLflow run {one.info.run_id} has no backbone: run `infoaug pretrain` with its config"
            )
        with scratch.folder() as place:
            paths = [
                client.download_artifacts(one.info.run_id, f"backbone/{n}", str(place))
                for n in (WEIGHTS_FILE, RECIPE_FILE)
            ]
            return str(one.info.run_name), {Path(path).name: Path(path).read_bytes() for path in paths}
    except (MlflowException, OSError) as error:
        raise unusable(uri, error) from None


@dataclass(frozen=True)
class TrialRun:
    """The MLflow run of a trial.

    Attributes:
        id: MLflow run id.
        name: the trial's name.
        status: MLflow status, such as `FINISHED`.
        why: why it failed or was stopped early, empty otherwise.
        file: content of the artifact that was asked for, None if it has none.
    """

    id: str
    name: str
    status: str
    why: str
    file: bytes | None


@dataclass(frozen=True)
class SweepRun:
    """The MLflow run of a sweep, with those of its trials.

    Attributes:
        id: MLflow run id.
        config_yaml: the sweep's config, empty if it was not logged.
        commit: Git commit at the sweep's start, empty if unknown.
        trials: the oldest first.
        client: for `keep`.
    """

    id: str
    config_yaml: bytes
    commit: str
    trials: list[TrialRun]
    client: MlflowClient

    @as_stage_error
    def keep(self, contents: Mapping[str, bytes], folder: str) -> None:
        """Log files as artifacts of the sweep."""
        upload(self.client, self.id, contents, folder)


def sweep(name: str, settings: TrackingConfig, file: str) -> SweepRun:
    """Read a sweep's run, with one artifact of each of its trials.

    Args:
        name: an MLflow experiment, whose newest sweep is read, or the name or id of a sweep's run.
        settings: where MLflow is.
        file: name of the trials' artifact.

    Raises:
        UsageError: there is no such sweep, or as `Run`.
    """
    uri = uri_of(settings)
    nowhere = f"MLflow at '{uri}' has no sweep '{name}': give an MLflow experiment with one, or a sweep's run"
    client = connect_to_look(uri, nowhere)
    try:
        kind = "tags.`infoaug.kind` = 'sweep'"
        whole = client.get_experiment_by_name(name)
        found = all_runs(client, whole.experiment_id, kind) if whole else []
        found = found or runs_called(client, name, kind)
        if not found:
            raise UsageError(nowhere)
        run, experiment = found[0], found[0].info.experiment_id
        below = all_runs(client, experiment, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        trials = []
        for child in reversed(below):
            why = child.data.tags.get(ENDED, "")
            content = file_of(client, child, file)
            trials.append(TrialRun(child.info.run_id, child.info.run_name, child.info.status, why, content))
        config_yaml = file_of(client, run, "config.yaml") or b""
        return SweepRun(run.info.run_id, config_yaml, run.data.tags.get(COMMIT, ""), trials, client)
    except (MlflowException, OSError) as error:
        raise unusable(uri, error) from None
