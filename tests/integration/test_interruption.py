"""A run that is interrupted; what is killed, filled up and starved is in tests/faults."""

import signal
from pathlib import Path

from tests.integration.conftest import PATIENCE, TINY, Start, wait_for


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
