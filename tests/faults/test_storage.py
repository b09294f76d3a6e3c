"""Storage that is full, that does not answer, or that is no folder at all."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infoaug.orchestrator.runtime.store import Store
from tests.faults.conftest import EPOCHS, Experiment, Told, first_epoch
from tests.s3_server import Server

AWAY = 10  # seconds


@pytest.fixture
def small_disk(experiment: Experiment) -> Iterator[Path]:
    """The experiment's store as a disk of 1 MiB."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    experiment.store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(experiment.store)], check=True)
    yield experiment.store
    subprocess.run(["umount", "--lazy", str(experiment.store)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_the_disk_is_full_while_windows_are_written(
    experiment: Experiment, undisturbed: dict[str, str], small_disk: Path, told: Told
) -> None:
    process = experiment.start()
    experiment.end(process, code=1)
    assert "No space left on device" in experiment.log
    seen = experiment.sentence()
    resize(small_disk, "200m")
    seconds = experiment.again()
    assert experiment.digests() == undisturbed
    told("the disk is full in extract; then there is room", seen, "nothing", seconds)


def test_the_disk_is_full_while_a_checkpoint_is_written(
    experiment: Experiment, undisturbed: dict[str, str], small_disk: Path, told: Told
) -> None:
    resize(small_disk, "200m")
    process = experiment.start()
    experiment.wait_for(process, lambda: f"epoch 2/{EPOCHS}" in experiment.log)
    filled = small_disk / "filled"
    with pytest.raises(OSError, match="No space"), filled.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
    experiment.end(process, code=1)
    assert "No space left on device" in experiment.log
    seen = experiment.sentence()
    filled.unlink()
    seconds = experiment.again()
    assert experiment.digests() == undisturbed
    told(
        "the disk is full in training; then there is room",
        seen,
        f"epochs: {max(0, 3 - first_epoch(experiment.log))}",
        seconds,
    )


@pytest.fixture
def bucket(s3: Server, experiment: Experiment) -> str:
    """The experiment's store in a bucket."""
    url = s3.url("experiments/here")
    experiment.overrides.append(f"store={url}")
    return url


def fetched(url: str, folder: Path) -> None:
    """All files of a store, in a folder."""
    store = Store(url)
    for name in store.files(""):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.read_bytes(name))


def test_a_store_in_a_bucket_whose_server_does_not_answer_for_a_while(
    experiment: Experiment, undisturbed: dict[str, str], s3: Server, bucket: str, told: Told
) -> None:
    process = experiment.start()
    experiment.wait_for(process, lambda: any("trajectories" in name for name in s3.objects("experiments")))
    s3.process.send_signal(signal.SIGSTOP)
    threading.Timer(AWAY, s3.process.send_signal, [signal.SIGCONT]).start()
    began = time.monotonic()
    experiment.end(process)
    fetched(bucket, experiment.store)
    assert experiment.digests() == undisturbed
    told(
        f"an S3 server does not answer for {AWAY} s in extract",
        "it waits, and goes on",
        "nothing",
        time.monotonic() - began,
    )


def test_a_driver_is_killed_that_trains_into_a_bucket(
    experiment: Experiment, undisturbed: dict[str, str], bucket: str, told: Told
) -> None:
    process = experiment.start()
    experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seconds = experiment.again()
    fetched(bucket, experiment.store)
    assert experiment.digests() == undisturbed
    first = first_epoch(experiment.log)
    assert 1 < first <= 4
    told(
        "the driver is killed (-9) in training, the store being a bucket",
        "the shell's “Killed”; the same command goes on",
        f"epochs: {max(0, 4 - first)}",
        seconds,
    )
