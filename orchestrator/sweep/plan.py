"""The plan of a sweep: which trials are left, and what they would take."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.table import Table

from infoaug.orchestrator import estimate
from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.estimate import Estimate
from infoaug.orchestrator.runtime import listings
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, initial_weights, pretrain, score
from infoaug.orchestrator.sweep import checks, trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

From = TypeVar("From")
To = TypeVar("To")
UNKNOWN = 1_000_000  # patches that the estimate assumes where there are no clips yet


@dataclass(frozen=True)
class Plan:
    """What a sweep would do and cost.

    Attributes:
        lines: the summary, by what a line is of.
        table: trials by framework and policy, with GPU hours.
    """

    lines: list[tuple[str, str]]
    table: Table


def plan(config: SweepConfig) -> Plan:
    """Trials by framework and policy, how many are done, and what the rest takes. Nothing is computed or written.

    Raises:
        UsageError: the config cannot be carried out.
    """
    with listings.kept():
        return _plan(config)


def _plan(config: SweepConfig) -> Plan:
    """`plan`, which lists clips and masks once."""
    planned = trials.planned(config)
    shown = planned or [trials.example(config)]
    checks.check(config, planned, dry=True)
    store = Store(config.store)
    scored = _scored(shown, store)
    budgeted = [trials.budgeted(t, config, _share(scored[t.name])) for t in shown]
    todo = [trial for trial in budgeted if not planned or not _is_done(trial, scored[trial.name])]
    known = next((s for s in scored.values() if s), None)
    clips = estimate.video(shown[0].config)
    patches = known.counts["patches"] if known else round(clips.patches) if clips else UNKNOWN
    runs = config.sweep.samples if not planned else 1
    spent: dict[str, float] = {}
    for trial in todo:
        framework, epochs = trial.config.pretrain.framework, trial.config.pretrain.epochs
        each = estimate.operations(trial.config, _share(scored[trial.name])) * patches * epochs
        spent[framework] = spent.get(framework, 0.0) + each * runs
    gpu = config.sweep.gpu_tflops * 1e12
    hours = {framework: operations / gpu / 3600 for framework, operations in spent.items()}
    written = sum(float(estimate.weights(trial.config) * estimate.WEIGHT) for trial in todo) * runs
    first = clips if clips and not known else None  # which is left to be extracted and scored
    left = Estimate(
        first.seconds(shown[0].config) if first else 0.0,
        sum(spent.values()),
        written + (first.bytes(shown[0].config) if first else 0.0),
    )
    lines = [
        ("trials", _counts(config, budgeted, todo)),
        ("clips", _clips(config, clips)),
        ("data sets", f"{', '.join(config.evaluate.names)}: they can be used; what has to be downloaded is said above"),
        *left.lines(config, gpu),
    ]
    return Plan(lines, _table(config, budgeted, todo, hours, patches, known is None))


def _counts(config: SweepConfig, planned: list[Trial], todo: list[Trial]) -> str:
    if config.sweep.search == "optuna":
        return f"{config.sweep.samples}, chosen one after the other"
    frameworks = {trial.config.pretrain.framework for trial in planned}
    policies = {trial.config.score.policy for trial in planned}
    seeds = {trial.config.seed for trial in planned}
    done = len(planned) - len(todo)
    varied = f"{len(frameworks)} frameworks, {len(policies)} twin policies, {len(seeds)} seeds"
    return f"{len(planned)}, {done} done: {varied}"


def _clips(config: SweepConfig, clips: estimate.Video | None) -> str:
    if clips:
        return f"{clips}" if config.clips.path else f"{clips}, rendered"
    assumed = f"{UNKNOWN:,} patches are assumed"
    return f"none was looked at in '{config.clips.path}', which is a URL or not there yet: {assumed}"


def _scored(shown: Sequence[Trial], store: Store) -> dict[str, score.Scored | None]:
    """The patches of every trial by its name, None where they are not scored yet. Each ledger is read once."""
    extracted: dict[str, extract.Extracted | None] = {}
    scored: dict[str, score.Scored | None] = {}
    for trial in shown:
        if trial.extraction not in extracted:
            extracted[trial.extraction] = _loaded(extract.load, trial.config, store)
        if trial.scoring not in scored:
            of = extracted[trial.extraction]
            scored[trial.scoring] = _loaded(score.load, trial.config, of) if of else None
    found = ((trial, scored[trial.scoring]) for trial in shown)
    return {trial.name: of.for_training(trial.config) if of else None for trial, of in found}


def _loaded(load: Callable[[ExperimentConfig, From], To], config: ExperimentConfig, of: From) -> To | None:
    """What a stage left; None if it was not run."""
    try:
        return load(config, of)
    except StageError:
        return None


def _is_done(trial: Trial, scored: score.Scored | None) -> bool:
    if scored is None or not initial_weights.is_known(trial.config):
        return False
    try:
        evaluate.load(trial.config, pretrain.load(trial.config, scored))
    except StageError:
        return False
    return True


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
