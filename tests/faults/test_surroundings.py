"""What an experiment leans on: MLflow, the clock, the size of Ray's object store."""

import os
from pathlib import Path

import pytest

from tests.faults.conftest import EPOCHS, Experiment, Told, windows_there
from tests.mlflow_server import Server


def test_mlflow_goes_while_a_model_trains(
    experiment: Experiment, undisturbed: dict[str, str], told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute; its default is four
    server = Server(tmp_path)
    experiment.overrides.append(f"tracking.uri={server.uri}")
    process = experiment.start()
    experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    server.end()
    experiment.end(process, code=1)
    seen = experiment.sentence()
    assert "MLflow" in seen
    server.begin()
    seconds = experiment.again()
    server.end()
    assert experiment.digests() == undisturbed
    told("MLflow's server goes in training and stays away; then it is back", seen, "nothing", seconds)


def test_clocks_disagree(experiment: Experiment, undisturbed: dict[str, str], told: Told) -> None:
    process = experiment.start()
    experiment.wait_for(process, lambda: f"epoch 3/{EPOCHS}" in experiment.log)
    process.kill()
    process.wait()
    for number, path in enumerate(sorted(experiment.store.rglob("*"))):
        os.utime(path, (0, 0) if number % 2 else (4e9, 4e9))  # 1970 and 2096
    seconds = experiment.again()
    assert experiment.digests() == undisturbed
    assert windows_there(experiment.log, "extract") == windows_there(experiment.log, "score")
    told("clocks disagree by decades about what is on the store", "nothing", "nothing", seconds)


def test_the_object_store_is_as_small_as_ray_allows(
    experiment: Experiment, undisturbed: dict[str, str], told: Told
) -> None:
    experiment.overrides.append("ray.object_store_mb=80")
    seconds = experiment.again()
    assert experiment.digests() == undisturbed
    process = experiment.start("ray.object_store_mb=10")
    experiment.end(process, code=2)
    told("Ray's object store holds 80 MB, the least it can; then 10 MB", experiment.sentence(), "nothing", seconds)
