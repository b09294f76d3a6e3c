"""A run that is killed, and started again with the same command."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import experiment, extract, pretrain, tracking
from orchestrator.config import load
from orchestrator.store import Store
from tests.integration.conftest import TINY

PATIENCE = 240  # seconds until a test gives up waiting for another process


Start = Callable[[list[str], Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command in a process group of its own, which does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        started.append(process)
        return process

    # A test that runs in the background of a shell inherits that Ctrl-C is ignored, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield begin
    signal.signal(signal.SIGINT, before)
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended before its time:\n{log.read_text()}"
        assert time.monotonic() < end, f"nothing came in {PATIENCE} s:\n{log.read_text()}"
        time.sleep(0.02)


def test_a_run_killed_in_extraction_and_in_training_finishes_and_redoes_nothing_that_was_complete(
    start: Start, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    overrides = [
        *TINY,
        f"store={store}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
        "scenes.count=12",
        "pretrain.epochs=8",
    ]
    (tmp_path / "empty.yaml").write_text("{}\n")
    command = ["run", str(tmp_path / "empty.yaml"), *(part for o in overrides for part in ("--set", o))]
    log = tmp_path / "log"

    process = start(command, log)
    wait_for(lambda: any(store.glob("extract/*/trajectories/*/*.parquet")), process, log)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(store.glob("extract/*/trajectories/*/*.parquet")))

    process = start(command, log)
    # The newest report is lost if the controller dies with it, so the third epoch is waited for.
    wait_for(lambda: "epoch 3/8" in log.read_text(), process, log)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told = re.search(r"12 windows of 12 clips, (\d+) already there", log.read_text())
    assert told and there <= int(told.group(1)) <= 12
    assert not list(store.rglob("backbone.*")), "killed before the end"

    process = start(command, log)
    assert process.wait(timeout=PATIENCE) == 0, log.read_text()
    text = log.read_text()
    assert "12 windows of 12 clips, 12 already there" in text
    assert "score: 12 windows, 12 already there" in text
    assert "going on" in text
    first = re.search(r"epoch (\d+)/8", text)
    assert first and int(first.group(1)) > 1

    config = load(None, overrides)
    assert len(extract.load(config, Store(config.store)).windows) == 12
    assert [e["epoch"] for e in pretrain.load(config, Store(config.store)).history] == list(range(1, 9))
    assert all(what.startswith("reuse") for name, what in experiment.plan(config).items() if name != "report")
    run = tracking.Run(config)
    steps = [metric.step for metric in run.history("loss")]
    assert steps == sorted(set(steps)), "an epoch was logged twice"
    assert not [path for path in store.rglob("*.part") if path.stat().st_mtime > log.stat().st_mtime]


def test_an_interrupted_command_says_that_it_can_be_gone_on_with(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("{}\n")
    overrides = [*TINY, f"store={tmp_path / 'store'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    overrides += ["pretrain.epochs=500"]
    command = ["run", str(tmp_path / "tiny.yaml"), *(part for o in overrides for part in ("--set", o))]
    log = tmp_path / "log"
    process = start(command, log)
    wait_for(lambda: "epoch 1/500" in log.read_text(), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130, log.read_text()
    assert "the same command goes on" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def from_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
