"""The progress of a sweep: a live table on a terminal, elsewhere a line for each trial that ends."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from infoaug.orchestrator.comparison import arms
from infoaug.orchestrator.comparison.arms import TrialResult
from infoaug.orchestrator.reporting.page import duration, in_percent
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.sweep.trials import Trial

MOST_ROWS = 12  # running trials that the table shows


@dataclass
class SweepProgress:
    """Trials by their state. As a context manager it shows them while they run.

    Attributes:
        name: of the sweep.
        planned: number of all trials, complete ones included.
        failed: why trials failed, by name.
    """

    name: str
    planned: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._trials: dict[str, Trial] = {}
        self._running: dict[str, dict[str, float]] = {}
        self._outcomes: dict[str, TrialResult] = {}
        self._stopped: set[str] = set()
        self._live: Live | None = None
        self._started, self._found = time.monotonic(), 0

    @property
    def ended(self) -> int:
        """Number of trials that are complete or were stopped early."""
        return len(self._outcomes) + len(self._stopped)

    def __enter__(self) -> "SweepProgress":
        self._started, self._found = time.monotonic(), self.ended
        console.say(f"sweep {escape(self.name)}: {self.planned} trials, {self.ended} done")
        if console.console.is_terminal:
            self._live = Live(self.table(), console=console.console, refresh_per_second=2, get_renderable=self.table)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def add(self, trial: Trial) -> None:
        """Add a trial of the sweep."""
        self._trials[trial.name] = trial
        self.planned = max(self.planned, len(self._trials))

    def begin(self, trial: Trial) -> None:
        """The trial has started."""
        self.add(trial)
        self._running[trial.name] = {}

    def epoch(self, trial: Trial, metrics: dict[str, float]) -> None:
        """The trial has trained an epoch."""
        self._running[trial.name] = metrics

    def finish(self, trial: Trial, outcome: TrialResult) -> None:
        """The trial is complete."""
        self._outcomes[trial.name] = outcome
        if self._running.pop(trial.name, None) is not None:  # it was not complete before
            dataset, result = _first(outcome)
            values = {label: result.get(key) for key, label in (("knn", "kNN"), ("probe", "probe"))}
            accuracies = [f"{label} {in_percent(value, 1)}" for label, value in values.items() if value is not None]
            self._line(trial, escape(f"{dataset} {', '.join(accuracies)}" if accuracies else "done"))

    def stop(self, trial: Trial, epoch: int) -> None:
        """The trial was stopped early."""
        self._stopped.add(trial.name)
        if self._running.pop(trial.name, None) is not None:
            self._line(trial, f"stopped after epoch {epoch}")

    def fail(self, trial: Trial, why: str) -> None:
        """The trial has failed."""
        self._running.pop(trial.name, None)
        self.failed[trial.name] = why
        self._line(trial, f"[red]failed[/]: {escape(why)}")

    def table(self) -> Table:
        """Frameworks by twin policies, with mean accuracy and number of complete trials; then the running trials."""
        present = {trial.config.score.policy for trial in self._trials.values()}
        policies = [policy for policy in arms.POLICIES if policy in present]
        table = Table(title=f"{escape(self.name)}: {self._counts()}", caption=self._left())
        table.add_column("framework")
        for policy in policies:
            table.add_column(arms.policy_name(policy), justify="right")
        names = dict.fromkeys(trial.config.pretrain.framework for trial in self._trials.values())
        for framework in names:
            table.add_row(arms.framework_name(framework), *(self._cell(framework, policy) for policy in policies))
        for name, metrics in list(self._running.items())[:MOST_ROWS]:
            epochs = self._trials[name].config.pretrain.epochs
            state = f"epoch {metrics['epoch']:.0f}/{epochs}, loss {metrics['loss']:.3f}" if metrics else "starting"
            table.add_section()
            table.add_row(f"[dim]{escape(name)}[/]", f"[dim]{state}[/]")
        return table

    def _cell(self, framework: str, policy: str) -> str:
        names = [
            name
            for name, trial in self._trials.items()
            if (trial.config.pretrain.framework, trial.config.score.policy) == (framework, policy)
        ]
        if not names:
            return ""
        done = [_first(self._outcomes[name])[1].get("probe") for name in names if name in self._outcomes]
        known = [value for value in done if value is not None and math.isfinite(value)]
        mean = in_percent(sum(known) / len(known), 1) if known else "–"
        return f"{mean}  [dim]{len(done)}/{len(names)}[/]"

    def _counts(self) -> str:
        counts = Counter(done=len(self._outcomes), running=len(self._running))
        counts.update(stopped=len(self._stopped), failed=len(self.failed))
        return f"{self.planned} trials, " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)

    def _left(self) -> str:
        done, spent = self.ended - self._found, time.monotonic() - self._started
        dataset = next((name for outcome in self._outcomes.values() if (name := _first(outcome)[0])), "")
        parts = [f"linear probe on {escape(dataset)}, mean so far and trials"] if dataset else []
        if done:
            left = spent / done * max(0, self.planned - self.ended - len(self.failed))
            parts.append(f"about {duration(left)} left")
        return "; ".join(parts)

    def _line(self, trial: Trial, text: str) -> None:
        if not self._live:
            ended = self.ended + len(self.failed)
            console.say(f"trial {ended}/{self.planned}  {escape(trial.name)}  {text}")


def _first(outcome: TrialResult) -> tuple[str, Mapping[str, float]]:
    """The first data set and its accuracies; empty if the trial has none."""
    return next(iter(outcome.results.items()), ("", {}))
