"""Processes that are killed: workers, the driver, and a node with all that is on it."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from ray.cluster_utils import Cluster

from infoaug.orchestrator.config import load
from infoaug.orchestrator.dry_run import plan
from infoaug.orchestrator.runtime.local_ray import free_port
from tests.faults.conftest import CLIPS, EPOCHS, Experiment, Told, first_epoch, windows_there, worker
from tests.integration.conftest import below, gone, running

WINDOWS = 2 * CLIPS


def there(experiment: Experiment, stage: str, count: int = 1) -> Callable[[], bool]:
    """Whether a stage has left so many windows."""
    return lambda: len(list(experiment.store.glob(f"{stage}/*/*/*/*.parquet"))) >= count


TITLES = {"extract": "ray::MapBatches", "score": "ray::MapBatches", "pretrain": "ray::train_alone"}


@pytest.mark.parametrize("stage", TITLES)
def test_a_worker_is_killed(stage: str, experiment: Experiment, undisturbed: dict[str, str], told: Told) -> None:
    def killed() -> bool:
        pid = worker(process, TITLES[stage])
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    process = experiment.start()
    if stage == "pretrain":
        experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    else:
        experiment.wait_for(process, there(experiment, stage))
    experiment.wait_for(process, killed)
    seconds = experiment.end(process)
    assert experiment.digests() == undisturbed
    seen, twice = "nothing: another worker takes over its task", "its task"
    if stage == "pretrain":
        again = experiment.log.count(" loss ") - EPOCHS
        assert 0 <= again <= 2
        seen, twice = "epochs that come again", f"epochs: {again}"
    told(f"a worker is killed in {stage}", seen, twice, seconds)


def client_of(experiment: Experiment) -> MlflowClient:
    """A client of the database of an experiment."""
    return MlflowClient(tracking_uri=f"sqlite:///{experiment.folder / 'mlflow.db'}")


def run_of(experiment: Experiment) -> Run:
    """The only run of an experiment."""
    client = client_of(experiment)
    (run,) = client.search_runs([client.get_experiment_by_name("infoaug").experiment_id])
    return run


ENDED = {"INT": ("gets Ctrl-C", 130), "TERM": ("gets SIGTERM", 143), "HUP": ("gets SIGHUP", 129)}


@pytest.mark.parametrize(
    ("sent", "stage"),
    [("KILL", "extract"), ("KILL", "pretrain"), ("INT", "pretrain"), ("TERM", "pretrain"), ("HUP", "pretrain")],
)
def test_the_driver_is_ended(
    sent: str, stage: str, experiment: Experiment, undisturbed: dict[str, str], told: Told
) -> None:
    process = experiment.start()
    if stage == "pretrain":
        experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    else:
        experiment.wait_for(process, there(experiment, stage, 2))
    its, seen, what = below(process), "the shell's “Killed”", "is killed (-9)"
    process.send_signal(signal.Signals[f"SIG{sent}"])
    if sent in ENDED:
        what, code = ENDED[sent]
        experiment.end(process, code=code)
        seen = experiment.sentence()
        assert "the same command continues" in seen
        assert not its & running(), "a child is left"
        assert run_of(experiment).info.status == "KILLED"
    process.wait()
    assert not list(experiment.store.glob("pretrain/*/backbone.*")), "a model that is not trained to its end is none"
    kept = len(list(experiment.store.glob("extract/*/trajectories/*/*.parquet")))
    seconds = experiment.again()
    assert experiment.digests() == undisturbed
    assert len(its) > 10 and gone(its), "what a killed driver leaves running ends by itself"
    assert windows_there(experiment.log, "extract") >= kept
    planned = plan(load(experiment.config, experiment.settings))
    assert {name for name, what in planned.items() if what.startswith("reuse ")} == {*planned} - {"report"}
    twice = f"{WINDOWS - kept} windows were left to do, none twice"
    if stage == "pretrain":
        assert 1 < first_epoch(experiment.log) <= 4
        run = run_of(experiment)
        steps = [metric.step for metric in client_of(experiment).get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == [*range(1, EPOCHS + 1)], "an epoch is missing, or twice"
        assert "; resuming" in experiment.log
        assert windows_there(experiment.log, "score") == WINDOWS
        twice = f"epochs: {max(0, 4 - first_epoch(experiment.log))}"
    told(f"the driver {what} in {stage}", seen, twice, seconds)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head on which nothing runs, and two workers of one CPU: three nodes of Ray on one machine."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
        made = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": 100 * 2**20})
        patched.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{head['dashboard_port']}")
        add(made, 2)
        yield made
        made.shutdown()


def add(cluster: Cluster, count: int) -> list[object]:
    """Nodes of one CPU that join."""
    return [
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, dashboard_agent_listen_port=free_port())
        for _ in range(count)
    ]


@pytest.mark.parametrize("comes", [True, False])
def test_a_node_goes_while_a_model_trains_on_two(
    comes: bool, experiment: Experiment, nodes: Cluster, told: Told, tmp_path: Path
) -> None:
    experiment.overrides += [f"ray.address={nodes.address}", "ray.cpus=null", "ray.object_store_mb=null"]
    experiment.overrides += ["pretrain.workers=2", "pretrain.cpus_per_worker=1"]
    quiet = Experiment(tmp_path / "quiet", experiment.begin, experiment.overrides)
    quiet.folder.mkdir()
    quiet.again()

    experiment.overrides += [] if comes else ["pretrain.min_workers=1"]
    process = experiment.start()
    experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    gone, what = time.monotonic(), "a node goes while a model trains on two, which goes on on one"
    if comes:
        add(nodes, 1)
        what = "a node goes while a model trains on two, and another comes"
    experiment.end(process)
    if comes:
        assert experiment.digests() == quiet.digests()
    assert losses(experiment) == pytest.approx(losses(quiet), rel=1e-3), "another number of workers changes rounding"
    twice = experiment.log.count(" loss ") - EPOCHS
    assert 0 <= twice <= 2
    told(what, "epochs that come again", f"epochs: {twice}", time.monotonic() - gone)


def losses(experiment: Experiment) -> list[float]:
    """The loss of each epoch of the only model."""
    (history,) = experiment.store.glob("pretrain/*/history.json")
    return [epoch["loss"] for epoch in json.loads(history.read_text())]
