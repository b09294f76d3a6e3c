"""What a sweep came to: from its trials' outcomes to the comparison, which is kept and shown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.table import Table

from infoaug.orchestrator import settings
from infoaug.orchestrator.comparison import page, tables
from infoaug.orchestrator.comparison.arms import Sweep, TrialResult
from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import report
from infoaug.orchestrator.runtime import mlflow_runs
from infoaug.orchestrator.runtime.mlflow_client import uri_of
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, pretrain, score
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

RESULT = "trial.json"  # what a trial came to, as an artifact of its MLflow run
FOLDER = "comparison"  # of the sweep's MLflow run


@dataclass(frozen=True)
class Compared:
    """A comparison, the same as files by name, and where its page lies and MLflow keeps the rest."""

    sweep: Sweep
    files: Mapping[str, bytes]
    page: str
    tracking_uri: str

    def tables(self) -> list[Table]:
        """For the terminal."""
        return tables.terminal_tables(self.sweep)


def folder(config: SweepConfig) -> str:
    """The folder of what is told of a sweep, relative to the store."""
    return f"sweeps/{config.name}-{trials.identity(config)}"


def outcome_of(trial: Trial, store: Store) -> TrialResult | None:
    """What a trial came to, None where it has not come to its end."""
    config = trial.config
    try:
        counts = score.load(config, store).counts
        history = pretrain.load(config, store).history
        results = evaluate.load(config, store).results
    except StageError:
        return None
    images = counts["patches"] // config.pretrain.batch_size * config.pretrain.batch_size  # of an epoch
    twins = 0.0 if config.score.policy == "none" else sum(epoch["share_with_twin"] for epoch in history)
    return TrialResult(
        framework=config.pretrain.framework,
        policy=config.score.policy,
        twin_weight=0.0 if config.score.policy == "none" else config.pretrain.twin_weight,
        negatives=trial.negatives,
        seed=config.seed,
        results={result["dataset"]: result for result in results},
        seconds=sum(epoch["seconds"] for epoch in history),
        epochs=len(history),
        passes=images * (2 * len(history) + twins),
        other=trial.other,
    )


def compare(
    config: SweepConfig,
    outcomes: Sequence[TrialResult],
    failed: Mapping[str, str],
    stopped: Mapping[str, str],
    planned: int,
    place: Store,
    commit: str = "",
) -> Compared:
    """Compare the trials of a sweep, and leave the files in `place`; `failed` and `stopped` say why, by name.

    `commit` is that of the code that ran them, where it is known.

    Raises:
        StageError: there is nothing to compare, or `place` cannot be written to.
    """
    if not outcomes:
        why = f": {next(iter(failed.values()))}" if failed else ""
        raise StageError(f"no trial of the sweep '{config.name}' has come to its end{why}")
    synthetic = config.clips.path is None
    sweep = Sweep(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        trials=outcomes,
        twin_weight=_compared_at(outcomes, config.pretrain.twin_weight),
        budget=config.sweep.budget,
        source=f"{config.scenes.count} scenes that infoaug renders" if synthetic else f"Video from {config.clips.path}",
        synthetic=synthetic,
        planned=planned,
        stopped=[*stopped.items()],
        failed=[*failed.items()],
        config_yaml=config.to_yaml(),
        packages=report.versions(),
        commit=commit,
    )
    files = page.files(sweep)
    for name, content in files.items():
        place.write_bytes(name, content)
    return Compared(sweep, files, place.url("comparison.html"), uri_of(config.tracking))


def again(name: str, kept: TrackingConfig, out: Path) -> Compared:
    """Compare what MLflow has of a sweep, and log the comparison with it.

    Args:
        name: an MLflow experiment, of which the newest sweep is taken, or a sweep's run by its name or id.
        kept: where MLflow is.
        out: a folder for the files.

    Raises:
        UsageError: MLflow has no such sweep, or no config of it.
        StageError: no trial has come to its end, or MLflow cannot be written to.
    """
    found = mlflow_runs.sweep(name, kept, RESULT)
    if not found.config_yaml:
        raise UsageError(f"the sweep '{name}' has no config.yaml in MLflow: run `infoaug sweep` with its config again")
    config = settings.checked(SweepConfig, yaml.safe_load(found.config_yaml), f"the config of '{name}'")
    newest = {child.name: child for child in found.trials}  # of the same name where clips or recipes have changed
    failed = {n: child.why for n, child in newest.items() if child.status == "FAILED"}
    outcomes = [_told(child) for n, child in newest.items() if child.file and n not in failed]
    stopped = {n: child.why for n, child in newest.items() if child.status == "FINISHED" and not child.file}
    planned = len(trials.planned(config)) or config.sweep.samples
    config = config.model_copy(update={"tracking": kept})
    compared = compare(config, outcomes, failed, stopped, planned, Store(str(out)), found.commit)
    found.keep(compared.files, FOLDER)
    return compared


def _told(child: mlflow_runs.TrialRun) -> TrialResult:
    try:
        return TrialResult(**{**json.loads(child.file or b""), "run": child.id})
    except (ValueError, TypeError) as error:
        raise StageError(f"MLflow's run {child.id} has a {RESULT} that infoaug did not write: {error}") from None


def _compared_at(outcomes: Sequence[TrialResult], wanted: float) -> float:
    """The twin weight of the tables: the config's, or the one that most trials have if none has that."""
    weights = Counter(outcome.twin_weight for outcome in outcomes if outcome.policy != "none")
    return wanted if wanted in weights or not weights else weights.most_common(1)[0][0]
