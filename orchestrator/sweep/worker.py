"""One trial of a sweep as Ray Tune runs it: it waits for its training, which has workers of its own on Ray Train."""

import json
from typing import Any

from ray import tune

from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, pretrain, score
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig


def work(parameters: dict[str, Any], config: SweepConfig) -> None:
    """Train and evaluate the trial of `parameters["point"]`, a point or its JSON, and tell Tune of every epoch.

    Extraction and scoring must be done. What is done of the rest is not repeated. The last report holds the accuracy
    that the sweep goes by, on held-out images of the first data set.
    """
    try:
        _train_and_evaluate(parameters["point"], config)
    except (UsageError, StageError) as error:
        tune.report({"why": str(error)})
        raise


def _train_and_evaluate(point: trials.Point | str, config: SweepConfig) -> None:
    trial = trials.make(config, json.loads(point) if isinstance(point, str) else point)
    scored = score.load(trial.config, Store(config.store))
    trial = trials.budgeted(trial, config, scored.share_with_twin)
    epochs = trial.config.pretrain.epochs
    trained = pretrain.run(trial.config, scored, lambda m: tune.report({**_goal(m, epochs), "metrics": m}))
    results = evaluate.run(trial.config, trained).results
    tune.report({config.sweep.metric: results[0][config.sweep.metric]})


def _goal(metrics: dict[str, float], epochs: int) -> dict[str, float]:
    """What a scheduler looks at: not at the last epoch, for what is trained to its end shall be evaluated too."""
    return {
        name: metrics[name] for name in ("epoch", "validation_knn") if name in metrics and metrics["epoch"] < epochs
    }
