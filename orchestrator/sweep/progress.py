"""What the user sees of a sweep while it runs: a live table on a terminal, a line a trial in a log."""

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
from infoaug.orchestrator.reporting.page import duration
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.sweep.trials import Trial

MOST_ROWS = 12  # of trials that run, on a terminal


@dataclass
class SweepProgress:
    """Trials by what became of them; a context while they run.

    Attributes:
        name: of the sweep.
        planned: how many trials there will be, done ones included.
        failed: by name, why.
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
        """How many trials came to their end, or were stopped."""
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
        """A trial that is wanted."""
        self._trials[trial.name] = trial
        self.planned = max(self.planned, len(self._trials))

    def begin(self, trial: Trial) -> None:
        """The trial is running."""
        self.add(trial)
        self._running[trial.name] = {}

    def epoch(self, trial: Trial, metrics: dict[str, float]) -> None:
        """The trial has trained an epoch."""
        self._running[trial.name] = metrics

    def finish(self, trial: Trial, outcome: TrialResult) -> None:
        """The trial has come to its end."""
        self._outcomes[trial.name] = outcome
        if self._running.pop(trial.name, None) is not None:
            first, result = _first(outcome)
            found = {what: result.get(key) for key, what in (("knn", "kNN"), ("probe", "probe"))}
            told = [f"{what} {_percent(value)}" for what, value in found.items() if value is not None]
            self._line(trial, escape(f"{first} {', '.join(told)}" if told else "done"))

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
        """Frameworks by twin policies: how many trials are done, and the mean accuracy so far; and what runs now."""
        there = {trial.config.score.policy for trial in self._trials.values()}
        policies = [policy for policy in arms.POLICIES if policy in there]
        table = Table(title=f"{escape(self.name)}: {self._counts()}", caption=self._left())
        table.add_column("framework")
        for policy in policies:
            table.add_column(arms.policy_name(policy), justify="right")
        names = dict.fromkeys(trial.config.pretrain.framework for trial in self._trials.values())
        for framework in names:
            table.add_row(arms.framework_name(framework), *(self._cell(framework, policy) for policy in policies))
        for name, metrics in list(self._running.items())[:MOST_ROWS]:
            epochs = self._trials[name].config.pretrain.epochs
            told = f"epoch {metrics['epoch']:.0f}/{epochs}, loss {metrics['loss']:.3f}" if metrics else "starting"
            table.add_section()
            table.add_row(f"[dim]{escape(name)}[/]", f"[dim]{told}[/]")
        return table

    def _cell(self, framework: str, policy: str) -> str:
        here = [
            name
            for name, trial in self._trials.items()
            if (trial.config.pretrain.framework, trial.config.score.policy) == (framework, policy)
        ]
        if not here:
            return ""
        done = [_first(self._outcomes[name])[1].get("probe") for name in here if name in self._outcomes]
        found = [value for value in done if value is not None and math.isfinite(value)]
        mean = _percent(sum(found) / len(found)) if found else "–"
        return f"{mean}  [dim]{len(done)}/{len(here)}[/]"

    def _counts(self) -> str:
        counts = Counter(done=len(self._outcomes), running=len(self._running))
        counts.update(stopped=len(self._stopped), failed=len(self.failed))
        return f"{self.planned} trials, " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)

    def _left(self) -> str:
        done, spent = self.ended - self._found, time.monotonic() - self._started
        dataset = next((name for outcome in self._outcomes.values() if (name := _first(outcome)[0])), "")
        told = [f"linear probe on {escape(dataset)}, mean so far and trials"] if dataset else []
        if done:
            left = spent / done * max(0, self.planned - self.ended - len(self.failed))
            told.append(f"about {duration(left)} left")
        return "; ".join(told)

    def _line(self, trial: Trial, what: str) -> None:
        if not self._live:
            ended = self.ended + len(self.failed)
            console.say(f"trial {ended}/{self.planned}  {escape(trial.name)}  {what}")


def _first(outcome: TrialResult) -> tuple[str, Mapping[str, float]]:
    """The first data set with its accuracies; nothing where there is none."""
    return next(iter(outcome.results.items()), ("", {}))


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
