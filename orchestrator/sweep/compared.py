"""What a sweep came to: from its trials' outcomes to the comparison, which is kept and shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.table import Table

from orchestrator import evaluate, pretrain, report, score, settings, tracking
from orchestrator.comparison import estimation_time, page, tables
from orchestrator.comparison.arms import Sweep
from orchestrator.comparison.arms import Trial as Outcome
from orchestrator.config import TrackingConfig
from orchestrator.errors import StageError
from orchestrator.mlflow_client import uri_of
from orchestrator.store import Store
from orchestrator.sweep import trials
from orchestrator.sweep.config import SHORT, SweepConfig
from orchestrator.sweep.trials import Trial

RESULT = "trial.json"  # what a trial came to, as an artifact of its MLflow run
FOLDER = "comparison"  # of the sweep's MLflow run
COLUMNS = {*SHORT.values(), "seed"} - {"pretrain.backbone"}  # of the table: what else varies is named beside


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


def outcome_of(trial: Trial, store: Store) -> Outcome | None:
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
    full = {trials.full_name(key): value for key, value in trial.point.items()}
    return Outcome(
        framework=config.pretrain.framework,
        policy=config.score.policy,
        twin_weight=0.0 if config.score.policy == "none" else config.pretrain.twin_weight,
        negatives=trial.negatives,
        seed=config.seed,
        results={result["dataset"]: result for result in results},
        seconds=sum(epoch["seconds"] for epoch in history),
        epochs=len(history),
        passes=images * (2 * len(history) + twins),
        other={key: str(value) for key, value in full.items() if key not in COLUMNS},
    )


def compare(
    config: SweepConfig,
    outcomes: Sequence[Outcome],
    failed: Mapping[str, str],
    stopped: Mapping[str, str],
    planned: int,
    place: Store,
) -> Compared:
    """Compare the trials of a sweep, and leave the files in `place`; `failed` and `stopped` say why, by name.

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
        twin_weight=config.pretrain.twin_weight,
        budget=config.sweep.budget,
        source=f"{config.scenes.count} scenes that infoaug renders" if synthetic else f"Video from {config.clips.path}",
        synthetic=synthetic,
        planned=planned,
        stopped=[*stopped.items()],
        failed=[*failed.items()],
        config_yaml=config.to_yaml(),
        packages=report.versions(),
        commit=tracking.commit(),
    )
    files = page.files(sweep, estimation_time.estimation_times())
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
        UsageError: MLflow has no such sweep.
        StageError: no trial has come to its end, or MLflow cannot be written to.
    """
    found = tracking.sweep(name, kept, RESULT)
    config = settings.checked(SweepConfig, yaml.safe_load(found.config_yaml), f"the config of '{name}'")
    outcomes = [Outcome(**json.loads(child.file)) for child in found.trials if child.file]
    ended = {child.name: child for child in found.trials if not child.file}
    failed = {n: child.why for n, child in ended.items() if child.status == "FAILED"}
    stopped = {n: child.why for n, child in ended.items() if child.status == "FINISHED"}
    planned = len(trials.planned(config)) or config.sweep.samples
    config = config.model_copy(update={"tracking": kept})
    compared = compare(config, outcomes, failed, stopped, planned, Store(str(out)))
    found.keep(compared.files, FOLDER)
    return compared
