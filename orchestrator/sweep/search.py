"""Searchers that choose the trials of a sweep, and schedulers that stop them: those of Ray Tune."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import Range, SweepConfig
from infoaug.orchestrator.sweep.trials import Point, Trial

ASKED = 50  # attempts to get a new trial from Optuna


def space(config: SweepConfig, todo: Sequence[Trial]) -> dict[str, Any]:
    """Tune's own search space: the points of the remaining trials as JSON; empty for an adaptive search."""
    if config.sweep.search == "optuna":
        return {}
    return {"point": tune.grid_search([json.dumps(trial.point) for trial in todo])}


def searcher(config: SweepConfig, begun: Sequence[Trial], known: Mapping[str, float | None]) -> Searcher | None:
    """The adaptive search of a config, continued from earlier trials; None for other searches.

    Args:
        config: the sweep.
        begun: trials that were chosen and are not finished; they come first.
        known: accuracies of finished trials by their points as JSON; None for trials that were stopped.

    Raises:
        UsageError: Optuna is not installed.
    """
    if config.sweep.search != "optuna":
        return None
    try:
        import optuna
    except ImportError:
        raise UsageError("sweep.search 'optuna' needs Optuna: pip install 'infoaug[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():  # mappings as values do not suit Optuna's database, which is not used
        warnings.filterwarnings("ignore", "Choices for a categorical", UserWarning)
        domains = _Optuna.convert_search_space({"point": {key: _domain(v) for key, v in config.sweep.space.items()}})
    optuna_search = _Optuna(
        domains,
        metric=config.sweep.metric,
        mode="max",
        points_to_evaluate=[_flat(trial.point) for trial in begun],
        seed=config.sweep.seed + len(known),
    )
    optuna_search.identity = partial(_identity, config)
    for point, value in known.items():
        if value is not None:
            optuna_search.add_evaluated_point(_flat(json.loads(point)), value)
        optuna_search.values[optuna_search.identity(json.loads(point))] = value
    return optuna_search


def scheduler(config: SweepConfig) -> TrialScheduler | None:
    """The scheduler that stops trials of low accuracy; None if the config names none."""
    settings = config.sweep
    if settings.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="epoch",
        metric="validation_knn",  # whatever the search maximises: it is the only accuracy of an epoch
        mode="max",
        # Beyond every trial's last epoch: a trial that reached max_t would be stopped before it is evaluated.
        max_t=max(10 * config.pretrain.epochs, settings.grace_epochs),
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction,
    )


class _Optuna(OptunaSearch):
    """Optuna without duplicate trials: several points may be the same trial, and one of them is run."""

    identity: Callable[[Point], str]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.values: dict[str, float | None] = {}  # by the trial's identity
        self.running: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        for _ in range(ASKED):
            suggestion = super().suggest(trial_id)
            if not suggestion:
                return suggestion
            identity = self.identity(suggestion["point"])
            if identity not in self.values and identity not in self.running.values():
                self.running[trial_id] = identity
                return suggestion
            # A duplicate: give Optuna the value that is known, so that the sampler moves on.
            super().on_trial_complete(trial_id, {self.metric: self.values.get(identity)}, error=True)
            del self._ot_trials[trial_id]
            self._completed_trials.discard(trial_id)
        return None if self.running else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:  # absent from epochs without validation
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.values[self.running.pop(trial_id)] = (result or {}).get(self.metric)


def _identity(config: SweepConfig, point: Point) -> str:
    return trials.make(config, point).identity


def _flat(point: Point) -> dict[str, Any]:
    return {f"point/{key}": value for key, value in point.items()}


def _domain(values: Range | list[Any]) -> Any:
    """Tune's domain of a varied setting, which `OptunaSearch` converts; `trials._draw` draws as Optuna does."""
    if isinstance(values, list):
        return tune.choice(values)
    if values.of_integers:
        return (tune.lograndint if values.log else tune.randint)(int(values.low), int(values.high) + 1)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
