"""One real, small Ray for all integration tests of a process, and commands that tests start and end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from infoaug.estimators.information import mutual_information
from infoaug.orchestrator.config import ExperimentConfig, RayConfig, load
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, score

# A whole experiment in seconds: two scenes of one window, a backbone of a thousandth of a ResNet-18's work.
TINY = [
    "name=tiny",
    "scenes.count=2",
    "scenes.frames=48",
    "extract.spacing=40",
    "extract.patch_size=40",
    "extract.image_size=16",
    "score.surrogates=200",
    "score.min_distance=60",
    "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    "pretrain.epochs=2",
    "pretrain.warmup_epochs=0",
    "pretrain.batch_size=32",
    "evaluate.limit=200",
    "ray.cpus=2",
    "ray.object_store_mb=100",
]

PATIENCE = 600  # seconds until a test gives up waiting for another process; a busy machine needs some

Start = Callable[[list[str], Path], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    # As where an environment is activated: a job's `python` is the one that the cluster's Ray was started with.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with pytest.MonkeyPatch.context() as patch, cluster.session(RayConfig()):
        patch.setenv("PATH", path)
        cluster.connect(RayConfig(cpus=2, object_store_mb=100))
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> ExperimentConfig:
    """A tiny experiment whose store and database lie in the test's own folder."""
    return load(None, [*TINY, f"store={tmp_path / 'store'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"])


@pytest.fixture(scope="session")
def scored_once(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the tiny experiment is extracted and scored. Tests work on copies of it."""
    folder = tmp_path_factory.mktemp("scored") / "store"
    config = load(None, [*TINY, f"store={folder}"])
    # The kernel is compiled here and cached. Otherwise both workers compile it, side by side.
    mutual_information.pairwise_mutual_information(np.random.default_rng(0).normal(size=(3, 60, 2)), k=config.score.k)
    score.run(config, extract.run(config, Store(config.store)))
    return folder


@pytest.fixture
def scored_store(scored_once: Path, tmp_path: Path) -> Path:
    """The test's own copy of the extracted and scored store, at `tmp_path / "store"`, where `tiny` looks for it."""
    return Path(shutil.copytree(scored_once, tmp_path / "store"))


@pytest.fixture
def tiny_scored(tiny: ExperimentConfig, scored_store: Path) -> ExperimentConfig:
    """The tiny experiment, extracted and scored already."""
    return tiny


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the command in a process group of its own, which does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.chdir(Path(__file__).parents[2])

    def begin(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "from infoaug.orchestrator.cli import main; main()", *arguments]
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
    """Wait while a process works, until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended before its time:\n{log.read_text()}"
        assert time.monotonic() < end, f"nothing came in {PATIENCE} s:\n{log.read_text()}"
        time.sleep(0.02)


def below(process: "subprocess.Popen[bytes]") -> set[int]:
    """Processes that a process has started, and those that they have."""
    listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [[int(number) for number in line.split()] for line in listed.splitlines()]
    found: set[int] = set()
    while more := {pid for pid, parent in parents if parent in {process.pid, *found}} - found:
        found |= more
    return found


def running() -> set[int]:
    """All processes of this machine that have not ended."""
    listed = subprocess.run(["ps", "-axo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    states = dict(line.split() for line in listed.splitlines())
    return {int(pid) for pid, state in states.items() if state[0] != "Z"}


def gone(processes: set[int]) -> bool:
    """Whether processes end, in good time: Ray's agents notice after a minute that their node was killed."""
    end = time.monotonic() + PATIENCE
    while (left := processes & running()) and time.monotonic() < end:
        time.sleep(0.2)
    return not left
