"""What a sweep would do, and what that would cost, before anything is computed."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import score, training
from infoaug.orchestrator.sweep import runner, search, trials
from infoaug.orchestrator.sweep.compared import outcome_of
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

COUNTED = 4  # patches of the batch whose operations are counted
UNKNOWN = 1_000_000  # patches that the estimate is for where nobody knows how many there will be


def plan(config: SweepConfig) -> Table:
    """Trials by framework and policy, how many are done, and GPU hours for the rest; nothing is computed or written.

    Raises:
        UsageError: the config cannot be carried out.
    """
    planned = trials.planned(config)
    shown = planned or [search.example(config)]
    runner.check(config, planned, data=False)
    store = Store(config.store)
    scored = {trial.name: _scored(trial, store) for trial in shown}
    budgeted = [trials.budgeted(t, config, _share(scored[t.name])) for t in shown]
    todo = [trial for trial in budgeted if not planned or outcome_of(trial, store) is None]
    known = next((s for s in scored.values() if s), None)
    patches = known.counts["patches"] if known else UNKNOWN
    hours: dict[str, float] = {}
    for trial in todo:
        framework, epochs = trial.config.pretrain.framework, trial.config.pretrain.epochs
        spent = operations(trial.config, _share(scored[trial.name])) * patches * epochs
        hours[framework] = hours.get(framework, 0.0) + spent / (config.sweep.gpu_tflops * 1e12) / 3600
    runs = config.sweep.samples if not planned else 1
    return _table(config, budgeted, todo, {name: value * runs for name, value in hours.items()}, patches, known is None)


def operations(config: ExperimentConfig, share_with_twin: float) -> float:
    """Floating-point operations of training for a patch, forward and backward, counted in a step of a small batch.

    Twins are counted for every patch, then in proportion to those that have one.
    """

    chosen = config.pretrain.model_dump(include={"framework", "framework_settings", "backbone", "backbone_settings"})

    def counted(policy: str) -> float:
        what = {"pretrain": chosen, "extract": {"image_size": config.extract.image_size}, "score": {"policy": policy}}
        return _counted(json.dumps(what, sort_keys=True))

    without = counted("none")
    if config.score.policy == "none":
        return without
    return without + share_with_twin * (counted("mutual-information") - without)


@cache
def _counted(model: str) -> float:
    """Operations for a patch by the settings, as JSON, that they depend on; seconds for a large model on a CPU."""
    config = ExperimentConfig.model_validate_json(model)
    size = config.extract.image_size
    built = training.build(config).train()
    views = torch.randn(COUNTED, 3, size, size)
    twins = [] if config.score.policy == "none" else [views, torch.arange(COUNTED)]
    with FlopCounterMode(display=False) as counter:
        built(views, views, *twins)["loss"].backward()
    return counter.get_total_flops() / COUNTED


def _scored(trial: Trial, store: Store) -> score.Scored | None:
    try:
        return score.load(trial.config, store)
    except StageError:
        return None


def _share(scored: score.Scored | None) -> float:
    return scored.share_with_twin if scored else 1.0  # the most there can be


def _table(
    config: SweepConfig,
    planned: list[Trial],
    todo: list[Trial],
    hours: Mapping[str, float],
    patches: int,
    guessed: bool,
) -> Table:
    adaptive = config.sweep.search == "optuna"
    count = config.sweep.samples if adaptive else len(planned)
    total = f"{count} trials" + ("" if adaptive else f", {len(planned) - len(todo)} done")
    of = f"{patches:,} patches" + (", all with a twin (how many there will be is not known yet)" if guessed else "")
    caption = (
        f"{sum(hours.values()):,.1f} GPU hours for {of}, at {config.sweep.gpu_tflops:g}·10¹² operations a second "
        "(sweep.gpu_tflops); extraction, scoring and evaluation are not counted"
    )
    table = Table(title=f"{config.name}: {total}", caption=caption)
    counts = Counter((trial.config.pretrain.framework, trial.config.score.policy) for trial in planned)
    policies = [policy for policy in arms.POLICIES if policy in {policy for _, policy in counts}]
    table.add_column("framework")
    for policy in policies:
        table.add_column(arms.policy_name(policy), justify="right")
    table.add_column("GPU hours", justify="right")
    for framework in dict.fromkeys(framework for framework, _ in counts):
        cells = ("search" if adaptive else str(counts[framework, policy] or "") for policy in policies)
        table.add_row(arms.framework_name(framework), *cells, f"{hours.get(framework, 0):,.2f}")
    return table
