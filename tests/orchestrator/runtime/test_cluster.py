"""How much a task may ask of the nodes that are there."""

import pytest
import ray

from infoaug.orchestrator.runtime import cluster

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
    assert (cluster.largest(gpu=False), cluster.largest(gpu=True)) == (without, with_gpu)
