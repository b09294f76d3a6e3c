"""The plan of a sweep: which trials are left, and how many GPU hours they would take."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache

from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from infoaug.models.training.loop import build_model, example
from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, initial_weights, pretrain, score
from infoaug.orchestrator.sweep import runner, search, trials
from infoaug.orchestrator.sweep.compared import outcome_of
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

COUNTED = 4  # patches of the batch whose operations are counted
UNKNOWN = 1_000_000  # patches that the estimate assumes before the clips are extracted


def plan(config: SweepConfig) -> Table:
    """Trials by framework and policy, how many are done, and GPU hours for the rest. Nothing is computed or written.

    Raises:
        UsageError: the config cannot be carried out.
    """
    planned = trials.planned(config)
    shown = planned or [search.example(config)]
    runner.check(config, planned, dry=True)
    store = Store(config.store)
    scored = {trial.name: _scored(trial, store) for trial in shown}
    budgeted = [trials.budgeted(t, config, _share(scored[t.name])) for t in shown]
    todo = [trial for trial in budgeted if not planned or not _is_done(trial, scored[trial.name])]
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
    """Floating-point operations of training on one patch for one epoch, forward and backward.

    They are counted in a step of a small batch without twins and in one where every patch has one, and interpolated.
    A patch that is shown with several twins at once is taken to have all of them.
    """

    chosen = config.pretrain.model_dump(include={"framework", "framework_settings", "backbone", "backbone_settings"})

    def counted(policy: str) -> float:
        what = {"pretrain": chosen, "extract": {"image_size": config.extract.image_size}, "score": {"policy": policy}}
        return _counted(json.dumps(what, sort_keys=True))

    without = counted("none")
    if config.score.policy == "none":
        return without
    twins = config.pretrain.rows_with_twin(share_with_twin) * config.pretrain.twins_at_once
    return without + twins * (counted("mutual-information") - without)


@cache
def _counted(model: str) -> float:
    """Operations for a patch, by the JSON of the settings they depend on. Takes seconds for a large model on a CPU."""
    config = ExperimentConfig.model_validate_json(model)
    size = config.extract.image_size
    built = build_model(pretrain.training_settings(config)).train()
    batch = example(built, size, COUNTED)
    if config.score.policy == "none":
        del batch["twin"], batch["twin_rows"]
    with FlopCounterMode(display=False) as counter:
        built(**batch)["loss"].backward()
    return counter.get_total_flops() / COUNTED


def _scored(trial: Trial, store: Store) -> score.Scored | None:
    """The scored patches of a trial; None if they are not scored yet."""
    try:
        return score.load(trial.config, extract.load(trial.config, store))
    except StageError:
        return None


def _is_done(trial: Trial, scored: score.Scored | None) -> bool:
    return scored is not None and initial_weights.is_known(trial.config) and outcome_of(trial, scored) is not None


def _share(scored: score.Scored | None) -> float:
    return scored.share_with_twin if scored else 1.0  # not known yet: the upper bound


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
    of = f"{patches:,} patches" + (", all with a twin (an assumption: they are not scored yet)" if guessed else "")
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
