"""Clusters that do not answer, how many CPUs a task may ask for, and what is logged of tasks that fail."""

import logging
from pathlib import Path
from typing import Any

import pytest
import ray
from torch import nn

from infoaug.models import own_code
from infoaug.orchestrator.config import RayConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.local_ray import free_port

SMALL, LARGE = {"CPU": 2.0}, {"CPU": 8.0}
ONE_GPU, FOUR_GPUS = {"CPU": 16.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "without", "with_gpu"),
    [
        ([{}], 1, 1),
        ([SMALL], 2, 2),
        ([SMALL, LARGE], 8, 8),
        ([LARGE, ONE_GPU], 16, 16),
        ([SMALL, ONE_GPU, FOUR_GPUS], 16, 4),
    ],
)
def test_no_task_asks_for_more_cpus_than_a_node_has_or_has_for_each_gpu(
    nodes: list[dict[str, float]], without: int, with_gpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 99.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *({"Alive": True, "Resources": node} for node in nodes)])
    assert (cluster.most_cpus(gpu=False), cluster.most_cpus(gpu=True)) == (without, with_gpu)


def failed(message: str) -> dict[str, Any]:
    try:
        raise KeyError(message)
    except KeyError as error:
        return cluster.failure(error)


def test_a_failed_row_has_its_reason_for_the_ledger_and_its_traceback_for_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = failed("colour")
    with caplog.at_level(logging.WARNING, logger="infoaug"):
        cluster._log_failure({"folder": "clip-1", "window": 3}, status, set())
    assert status == {"reason": "KeyError: 'colour'"}
    assert "clip-1, window 3: KeyError: 'colour'" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text and "in failed" in caplog.text


def test_the_same_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logged: set[str] = set()
    with caplog.at_level(logging.WARNING, logger="infoaug"):
        for number in range(50):
            cluster._log_failure({"folder": f"clip-{number}", "window": 0}, failed(f"column {number}"), logged)
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert caplog.text.count("KeyError: 'column") == 50 + 1


def test_nothing_is_logged_of_a_row_that_succeeded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="infoaug"):
        cluster._log_failure({"folder": "clip", "window": 0}, {"reason": ""}, set())
    assert not caplog.records


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_told_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # tests before this one may have left it running
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would wait for a quarter of an hour"))
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(UsageError, match=rf"no Ray cluster answers at '{address}': start one, .*refused"):
        cluster.connect(RayConfig(address=address))


def test_a_cluster_gets_the_code_of_the_users_own_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[dict[str, Any]] = []

    def join(address: str, **options: Any) -> None:
        joined.append(options)
        raise UsageError("no cluster in this test")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "_join", join)
    monkeypatch.setattr(own_code, "_loaded", set())
    for name in ("", "torch.nn:Linear", "tests.models.own_models:Tiny"):
        if name:
            own_code.load(name, nn.Module)
        with pytest.raises(UsageError, match="no cluster in this test"):
            cluster.connect(RayConfig(address="somewhere:1"))
    assert "runtime_env" not in joined[0] and "runtime_env" not in joined[1], "what is installed is installed there too"
    assert [Path(path).name for path in joined[2]["runtime_env"]["py_modules"]] == ["tests"]


def test_an_address_that_is_none_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray is asked"))
    with pytest.raises(UsageError, match="no Ray cluster answers at 'nonsense'"):
        cluster.connect(RayConfig(address="nonsense"))
