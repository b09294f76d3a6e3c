"""Who chooses a sweep's trials, and who stops them: Ray Tune's searchers and schedulers, by name."""

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

TRAINING = ("pretrain.", "score.policy", "seed")  # what an adaptive search may vary
ASKED = 50  # times that Optuna is asked for a trial that it has not had


def example(config: SweepConfig) -> Trial:
    """A trial of an adaptive search, of the first values, before it has chosen one.

    Raises:
        UsageError: values that no experiment takes, or settings that such a search may not vary.
    """
    for key in config.sweep.space:
        if not trials.full_name(key).startswith(TRAINING):
            raise UsageError(f"sweep.space: optuna varies what training does, not '{key}': take search 'random'")
    first = {key: v.low if isinstance(v, Range) else v[0] for key, v in config.sweep.space.items()}
    return trials.make(config, first)


def space(config: SweepConfig, todo: Sequence[Trial]) -> dict[str, Any]:
    """What Tune itself draws from: the trials that are left, their points as JSON; nothing in an adaptive search."""
    if config.sweep.search == "optuna":
        return {}
    return {"point": tune.grid_search([json.dumps(trial.point) for trial in todo])}


def searcher(config: SweepConfig, begun: Sequence[Trial], known: Mapping[str, float | None]) -> Searcher | None:
    """The adaptive search that a config names, gone on with.

    Args:
        config: the sweep.
        begun: trials that it has chosen and that did not come to their end: they are first.
        known: accuracies of those that did, by their points as JSON; None for those that were stopped.

    Raises:
        UsageError: Optuna is not there.
    """
    if config.sweep.search != "optuna":
        return None
    try:
        import optuna
    except ImportError:
        raise UsageError("sweep.search 'optuna' needs Optuna: pip install 'infoaug[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():  # values that are mappings are not for a database, and go into none
        warnings.filterwarnings("ignore", "Choices for a categorical", UserWarning)
        domains = _Optuna.convert_search_space({"point": {key: _domain(v) for key, v in config.sweep.space.items()}})
    found = _Optuna(
        domains,
        metric=config.sweep.metric,
        mode="max",
        points_to_evaluate=[_flat(trial.point) for trial in begun],
        seed=config.sweep.seed + len(known),
    )
    found.identity = partial(_identity, config)
    for point, value in known.items():
        if value is not None:
            found.add_evaluated_point(_flat(json.loads(point)), value)
        found.values[found.identity(json.loads(point))] = value
    return found


def scheduler(config: SweepConfig) -> TrialScheduler | None:
    """Who stops trials that lag behind."""
    settings = config.sweep
    if settings.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="epoch",
        metric="validation_knn",  # also if the search goes by another: epochs have no other
        mode="max",
        # A trial that reaches it is stopped before it is evaluated.
        max_t=max(10 * config.pretrain.epochs, settings.grace_epochs),
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction,
    )


class _Optuna(OptunaSearch):
    """Optuna that never has the same trial twice, though several points may be one, and waits for none in between."""

    identity: Callable[[Point], str]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.values: dict[str, float | None] = {}  # by the trial's identity
        self.running: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        for _ in range(ASKED):
            found = super().suggest(trial_id)
            if not found:
                return found
            identity = self.identity(found["point"])
            if identity not in self.values and identity not in self.running.values():
                self.running[trial_id] = identity
                return found
            super().on_trial_complete(trial_id, {self.metric: self.values.get(identity)}, error=True)
            del self._ot_trials[trial_id]
            self._completed_trials.discard(trial_id)
        return None if self.running else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.metric in result:  # epochs without validation have none
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        self.values[self.running.pop(trial_id)] = (result or {}).get(self.metric)


def _identity(config: SweepConfig, point: Point) -> str:
    return trials.make(config, point).identity


def _flat(point: Point) -> dict[str, Any]:
    return {f"point/{key}": value for key, value in point.items()}


def _domain(values: Range | list[Any]) -> Any:
    if isinstance(values, list):
        return tune.choice(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return (tune.lograndint if values.log else tune.randint)(values.low, values.high + 1)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
