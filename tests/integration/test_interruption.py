"""A run that is killed, and started again with the same command."""

import re
import signal
from pathlib import Path

from orchestrator import experiment, extract, pretrain, tracking
from orchestrator.config import load
from orchestrator.store import Store
from tests.integration.conftest import PATIENCE, TINY, Start, wait_for


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
