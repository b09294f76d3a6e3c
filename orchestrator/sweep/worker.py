"""One trial of a sweep as Ray Tune runs it. It waits for its training, which has workers of its own."""

import json
import traceback
from typing import Any

from ray import tune

from infoaug.orchestrator.errors import StageError, UsageError, worth_retrying
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig


def work(parameters: dict[str, Any], config: SweepConfig) -> None:
    """Train and evaluate a trial, and report every epoch to Tune.

    Extraction and scoring must be complete; what is complete of the rest is not repeated. The last report has the
    accuracy that an adaptive search maximises, on held-out images of the first data set. If the trial fails, the last
    report says why, with the traceback for the log.

    Args:
        parameters: the trial's point, or its JSON, as `point`.
        config: the sweep.
    """
    try:
        _train_and_evaluate(parameters["point"], config)
    except Exception as error:
        expected = isinstance(error, UsageError | StageError)
        why = str(error) if expected else f"{type(error).__name__}: {error}"
        tune.report({"why": why, "retry": worth_retrying(error), "traceback": traceback.format_exc()})
        raise


def _train_and_evaluate(point: trials.Point | str, config: SweepConfig) -> None:
    trial = trials.make(config, json.loads(point) if isinstance(point, str) else point)
    scored = score.load(trial.config, extract.load(trial.config, Store(config.store)))
    trial = trials.budgeted(trial, config, scored.share_with_twin)
    epochs = trial.config.pretrain.epochs
    trained = pretrain.run(trial.config, scored, lambda m: tune.report({**_goal(m, epochs), "metrics": m}))
    results = evaluate.run(trial.config, trained).results
    tune.report({config.sweep.metric: results[0][config.sweep.metric]})


def _goal(metrics: dict[str, float], epochs: int) -> dict[str, float]:
    """What a scheduler decides by; nothing at the last epoch, so that a trial trained to its end is evaluated too."""
    return {
        name: metrics[name] for name in ("epoch", "validation_knn") if name in metrics and metrics["epoch"] < epochs
    }
