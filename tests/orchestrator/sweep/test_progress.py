"""What is shown of a sweep while it runs: a table in any state, and in a log a line a trial."""

import io
from typing import Any

import pytest
from rich.console import Console

from infoaug.orchestrator.comparison.arms import TrialResult
from infoaug.orchestrator.runtime import console
from infoaug.orchestrator.sweep.progress import MOST_ROWS, SweepProgress
from tests.orchestrator.comparison import sweeps
from tests.orchestrator.sweep.made import epoch, grid

TRIALS = grid({"framework": ["simclr", "moco"], "policy": ["none", "mutual-information"], "seed": [0, 1]})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to a log."""
    written = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, width=200))
    return written


def board(**state: int) -> SweepProgress:
    """A board with so many of the trials in each state, in order."""
    made = SweepProgress("mine")
    for trial in TRIALS:
        made.add(trial)
    left = iter(TRIALS)
    for what, count in state.items():
        for trial in [next(left) for _ in range(count)]:
            made.begin(trial)
            if what == "done":
                made.finish(trial, outcome())
            elif what == "stopped":
                made.stop(trial, 7)
            elif what == "failed":
                made.fail(trial, "out of memory")
            elif what == "trained":
                made.epoch(trial, epoch(3))
    return made


def outcome(probe: float | None = 0.5, **changes: Any) -> TrialResult:
    return sweeps.trial(probe=probe, **changes)


def shown(made: SweepProgress) -> str:
    """The table as text, however its lines are broken."""
    console = Console(file=io.StringIO(), width=160)
    console.print(made.table())
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


# ---- the table


def test_a_board_with_nothing_on_it_is_shown() -> None:
    assert "mine: 0 trials" in shown(SweepProgress("mine"))


def test_trials_that_are_planned_are_counted_by_framework_and_policy() -> None:
    text = shown(board())
    assert "mine: 8 trials" in text
    assert "│ SimCLR │ – 0/2 │ – 0/2 │" in text
    assert "│ MoCo v2 │ – 0/2 │ – 0/2 │" in text
    assert "left" not in text


def test_every_state_is_counted() -> None:
    text = shown(board(done=2, stopped=1, failed=1, trained=1, begun=1))
    assert "mine: 8 trials, 2 done, 2 running, 1 stopped, 1 failed" in text


def test_a_cell_has_the_mean_of_what_is_there() -> None:
    made = board()
    made.finish(TRIALS[0], outcome(0.25))
    made.finish(TRIALS[1], outcome(0.75))
    made.finish(TRIALS[2], outcome(0.9))
    assert "│ SimCLR │ 50.0 % 2/2 │ 90.0 % 1/2 │" in shown(made)
    assert "linear probe on cifar10, mean so far and trials" in shown(made)


def test_what_runs_is_shown_with_its_epoch() -> None:
    text = shown(board(trained=1, begun=1))
    assert "simclr-none-s0" in text and "epoch 3/100, loss 0.667" in text
    assert "simclr-none-s1" in text and "starting" in text


def test_of_many_that_run_only_some_are_shown() -> None:
    made = SweepProgress("mine")
    for trial in grid({"seed": [*range(2 * MOST_ROWS)]}):
        made.begin(trial)
    assert shown(made).count("starting") == MOST_ROWS
    assert f"{2 * MOST_ROWS} running" in shown(made)


def test_what_has_ended_runs_no_more() -> None:
    text = shown(board(done=2, stopped=1, failed=1))
    assert "running" not in text and "-s0" not in text


@pytest.mark.parametrize("results", [{}, {"x": {}}, {"x": {"knn": 0.5}}, {"x": {"probe": float("nan")}}])
def test_missing_accuracies_break_nothing(results: dict[str, dict[str, float]], log: io.StringIO) -> None:
    made = board(begun=1)
    made.finish(TRIALS[0], outcome(results=results))
    made.finish(TRIALS[1], outcome(0.75))
    assert "│ SimCLR │ 75.0 % 2/2 │" in shown(made)
    assert "trial 1/8  simclr-none-s0  " in log.getvalue()


@pytest.mark.parametrize("text", ["[red]", "[/]", "[/tmp/x]", "a [b] c", "[Errno 2] no"])
def test_brackets_are_text(text: str, log: io.StringIO) -> None:
    (trial,) = grid({"backbone": [text]})
    made = SweepProgress(text)
    with made:
        made.begin(trial)
        made.finish(trial, outcome(results={text: {"knn": 0.5, "probe": 0.25}}))
        made.begin(trial)
        made.fail(trial, text)
    assert f"sweep {text}: " in log.getvalue()
    assert f"{text} kNN 50.0 %, probe 25.0 %" in log.getvalue()
    assert f"failed: {text}\n" in log.getvalue()
    assert f"{text}: 1 trials" in shown(made)
    assert f"linear probe on {text}, mean" in shown(made)


def test_time_left_is_told_once_a_trial_has_ended(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    made = board(done=1)
    with made:
        now[0] += 60
        assert "left" not in shown(made), "the trial that was there before took no time"
        made.begin(TRIALS[1])
        made.stop(TRIALS[1], 3)
        assert "about 6 min 00 s left" in shown(made)
        made.begin(TRIALS[2])
        made.fail(TRIALS[2], "")
        assert "about 5 min 00 s left" in shown(made)


def test_a_search_s_trials_are_counted_by_how_many_there_will_be() -> None:
    made = SweepProgress("mine")
    made.planned = 20
    made.begin(TRIALS[0])
    assert "mine: 20 trials, 1 running" in shown(made)


# ---- in a log


def test_a_log_has_a_line_for_the_sweep_and_one_for_each_trial_that_ends(log: io.StringIO) -> None:
    with board() as made:
        for trial in TRIALS[:3]:
            made.begin(trial)
            made.epoch(trial, epoch(1))
        made.finish(TRIALS[0], outcome(0.525))
        made.stop(TRIALS[1], 12)
        made.fail(TRIALS[2], "out of memory")
    assert log.getvalue().splitlines() == [
        "sweep mine: 8 trials, 0 done",
        "trial 1/8  simclr-none-s0  cifar10 kNN 47.5 %, probe 52.5 %",
        "trial 2/8  simclr-none-s1  stopped after epoch 12",
        "trial 3/8  simclr-mutual-information-w0.5-s0  failed: out of memory",
    ]


def test_what_was_done_before_has_no_line(log: io.StringIO) -> None:
    made = board()
    made.finish(TRIALS[0], outcome())
    made.stop(TRIALS[1], 3)
    with made:
        pass
    assert log.getvalue() == "sweep mine: 8 trials, 2 done\n"


def test_a_terminal_has_the_table_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, width=160, force_terminal=True))
    with board() as made:
        made.begin(TRIALS[0])
        made.finish(TRIALS[0], outcome())
    assert "8 trials, 1 done" in written.getvalue()
    assert "trial 1/8" not in written.getvalue()
