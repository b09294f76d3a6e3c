"""Sweeps that are ended, killed, or left by their MLflow server, and started again with the same command."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.util.state

from infoaug.orchestrator.sweep import runner
from tests.integration.conftest import PATIENCE, Start, wait_for
from tests.integration.test_sweep import config_of, runs_of, steps_of
from tests.mlflow_server import Server

AWAY = 20.0  # seconds


def checkpoints(store: Path) -> int:
    """How many trainings have kept an epoch."""
    return len({path.parts[-3] for path in store.glob("pretrain/*/train/checkpoint_*")})


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGKILL]], ids=["terminated", "interrupted-and-killed"]
)
@pytest.mark.usefixtures("scored_store")
def test_a_sweep_that_is_ended_by_a_signal_and_started_again_ends_with_every_trial_once(
    signals: list[signal.Signals], start: Start, tmp_path: Path
) -> None:
    # An epoch is told of twice a second at most: there is time to stop a training of eight in its middle.
    config = config_of(tmp_path, "score.policy=none", "pretrain.epochs=8", "sweep.grid=[{seed: [0, 1]}]")
    (tmp_path / "sweep.yaml").write_text(config.to_yaml())
    store, log, command = tmp_path / "store", tmp_path / "log", ["sweep", str(tmp_path / "sweep.yaml")]

    runs, written = set(), {}
    for begun, number in enumerate(signals, 1):
        process = start(command, log)
        wait_for(lambda begun=begun: checkpoints(store) == begun, process, log)
        process.send_signal(number)
        code = process.wait(timeout=PATIENCE)
        written = {path: path.stat().st_mtime_ns for path in store.glob("pretrain/*/history.json")}
        assert len(written) == begun - 1
        if number == signal.SIGKILL:
            continue
        assert code == 128 + number, log.read_text()
        assert log.read_text().splitlines()[-1] == (
            "infoaug: interrupted; what is complete is kept, and the same command continues from there"
        )
        assert "Traceback" not in log.read_text()
        _, parent, trials = runs_of(config)
        assert [run.info.status for run in (parent, *trials.values())] == ["KILLED", "KILLED"]
        runs.add(parent.info.run_id)

    process = start(command, log)
    assert process.wait(timeout=PATIENCE) == 0, log.read_text()
    assert f"sweep tiny: 2 trials, {len(written)} done" in log.read_text()
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())
    client, again, trials = runs_of(config)
    assert runs == {again.info.run_id}
    assert [run.info.status for run in (again, *trials.values())] == ["FINISHED"] * 3
    assert all(steps_of(client, run) == list(range(1, 9)) for run in trials.values()), "an epoch is missing, or twice"


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_asks_its_own_ray_who_is_alive_whatever_other_runs_on_the_machine() -> None:
    """Without an address Ray Train's cleaner gives up where there are two, and a stopped trial's place stays taken."""

    def asked() -> tuple[str, list[str]]:
        return os.environ["RAY_API_SERVER_ADDRESS"], [node.node_id for node in ray.util.state.list_nodes()]

    address, nodes = ray.get(ray.remote(num_cpus=0)(asked).remote())
    assert address.startswith("http://127.0.0.1:")
    assert nodes == [ray.get_runtime_context().get_node_id()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "scored_store")
def test_a_server_that_goes_while_a_sweep_runs_and_comes_back_has_every_metric(server: Server, tmp_path: Path) -> None:
    settings = ["score.policy=none", "pretrain.epochs=8", "sweep.grid=[{seed: [0]}]", f"tracking.uri={server.uri}"]
    config = config_of(tmp_path, *settings)
    seen: list[int] = []

    def trouble() -> None:
        while not checkpoints(tmp_path / "store"):
            time.sleep(0.1)
        server.end()
        seen.append(len(list(tmp_path.glob("store/pretrain/*/history.json"))))
        time.sleep(AWAY)
        server.begin()

    threading.Thread(target=trouble, daemon=True).start()
    found = runner.run(config)
    assert seen == [0], "the server went when the training was done"
    client, parent, trials = runs_of(config)
    assert [run.info.status for run in (parent, *trials.values())] == ["FINISHED", "FINISHED"]
    assert [steps_of(client, run) for run in trials.values()] == [list(range(1, 9))]
    assert {Path(a.path).name for a in client.list_artifacts(parent.info.run_id, "comparison")} == set(found.files)
