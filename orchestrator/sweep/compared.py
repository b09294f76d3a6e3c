"""The comparison of a sweep's trials: from their results to tables, figures and a page, in the store and in MLflow."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.table import Table

from infoaug.models.frameworks.settings import views_of_a_row
from infoaug.orchestrator import settings
from infoaug.orchestrator.comparison import captions, page, tables
from infoaug.orchestrator.comparison.arms import Sweep, TrialResult
from infoaug.orchestrator.comparison.curves import CURVES
from infoaug.orchestrator.comparison.effects import effect_tables
from infoaug.orchestrator.config import TrackingConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import report
from infoaug.orchestrator.runtime import mlflow_lookup
from infoaug.orchestrator.runtime.mlflow_client import uri_of
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, pretrain, score
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

RESULT = "trial.json"  # a trial's result, an artifact of its MLflow run
FOLDER = "comparison"  # of the sweep's MLflow run


@dataclass(frozen=True)
class Compared:
    """A comparison.

    Attributes:
        sweep: the trials and what was varied.
        files: the comparison's files, by name.
        page: path or URL of its page.
        tracking_uri: of MLflow.
    """

    sweep: Sweep
    files: Mapping[str, bytes]
    page: str
    tracking_uri: str

    def verdict(self) -> list[str]:
        """The verdict for each data set, a sentence each, and what to try next."""
        effects = effect_tables(self.sweep)
        return [*captions.headlines(effects, self.sweep), captions.next_step(effects)]

    def tables(self) -> list[Table]:
        """The comparison for the terminal."""
        return tables.terminal_tables(self.sweep)


def folder(config: SweepConfig) -> str:
    """The folder of a sweep's state and comparison, relative to the store."""
    return f"sweeps/{config.name}-{trials.identity(config)}"


def outcome_of(trial: Trial, scored: score.Scored) -> TrialResult | None:
    """The result of a trial that trained on these patches; None if it is not complete."""
    config = trial.config
    try:
        trained = pretrain.load(config, scored)
        results = evaluate.load(config, trained).results
    except StageError:
        return None
    history = trained.history
    # Images of an epoch: a rest that is smaller than a batch is left out.
    images = scored.counts["patches"] // config.pretrain.batch_size * config.pretrain.batch_size
    views = views_of_a_row(config.pretrain.framework_settings, config.extract.image_size)
    shown = [epoch.get("twins_of_a_row", epoch["share_with_twin"]) for epoch in history]
    twins = 0.0 if config.score.policy == "none" else sum(shown)
    return TrialResult(
        framework=config.pretrain.framework,
        policy=config.score.policy,
        twin_weight=0.0 if config.score.policy == "none" else config.pretrain.twin_weight,
        negatives=trial.negatives,
        seed=config.seed,
        results={result["dataset"]: result for result in results},
        seconds=sum(epoch["seconds"] for epoch in history),
        epochs=len(history),
        passes=images * (views * len(history) + twins),
        other=trial.other,
        curves={key: [epoch[key] for epoch in history if key in epoch] for key in CURVES if key in history[-1]},
    )


def compare(
    config: SweepConfig,
    outcomes: Sequence[TrialResult],
    failed: Mapping[str, str],
    stopped: Mapping[str, str],
    planned: int,
    target: Store,
    commit: str = "",
) -> Compared:
    """Compare the trials of a sweep and write the comparison.

    Args:
        config: the sweep.
        outcomes: results of the complete trials.
        failed: why trials failed, by name.
        stopped: why trials were stopped early, by name.
        planned: number of trials of the sweep.
        target: where to write the files.
        commit: of the code that ran the trials, empty if unknown.

    Raises:
        StageError: no trial is complete, or `target` cannot be written to.
    """
    if not outcomes:
        why = f": {next(iter(failed.values()))}" if failed else ""
        raise StageError(f"no trial of the sweep '{config.name}' is complete{why}")
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
        target.write_bytes(name, content)
    return Compared(sweep, files, target.url("comparison.html"), uri_of(config.tracking))


def from_mlflow(name: str, tracking: TrackingConfig, out: Path) -> Compared:
    """Compare the trials of a sweep by what MLflow has, and log the comparison to the sweep's run.

    Args:
        name: an MLflow experiment, whose newest sweep is taken; or the name or id of a sweep's run.
        tracking: where MLflow is.
        out: a folder for the files.

    Raises:
        UsageError: MLflow has no such sweep, or no config of it.
        StageError: no trial is complete, or MLflow cannot be written to.
    """
    run = mlflow_lookup.sweep(name, tracking, RESULT)
    if not run.config_yaml:
        raise UsageError(f"the sweep '{name}' has no config.yaml in MLflow: run `infoaug sweep` with its config again")
    config = settings.checked(SweepConfig, yaml.safe_load(run.config_yaml), f"the config of '{name}'")
    # If clips or recipes have changed, two trials have the same name: the newest counts.
    newest = {child.name: child for child in run.trials}
    failed = {n: child.why for n, child in newest.items() if child.status == "FAILED"}
    outcomes = [_result_of(child) for n, child in newest.items() if child.file and n not in failed]
    stopped = {n: child.why for n, child in newest.items() if child.status == "FINISHED" and not child.file}
    planned = len(trials.planned(config)) or config.sweep.samples
    config = config.model_copy(update={"tracking": tracking})
    compared = compare(config, outcomes, failed, stopped, planned, Store(str(out)), run.commit)
    run.keep(compared.files, FOLDER)
    return compared


def _result_of(child: mlflow_lookup.TrialRun) -> TrialResult:
    try:
        return TrialResult(**{**json.loads(child.file or b""), "run": child.id})
    except (ValueError, TypeError) as error:
        raise StageError(f"MLflow's run {child.id} has a {RESULT} that infoaug did not write: {error}") from error


def _compared_at(outcomes: Sequence[TrialResult], wanted: float) -> float:
    """The twin weight of the tables: the config's; if no trial has it, the most frequent one."""
    weights = Counter(outcome.twin_weight for outcome in outcomes if outcome.policy != "none")
    return wanted if wanted in weights or not weights else weights.most_common(1)[0][0]
