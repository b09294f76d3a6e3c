"""A queue that brings the metrics of a training's epochs to the process that started it.

The controller of Ray Train, a process of its own for every training, imports this file. The file therefore imports
nothing of PyTorch, so that the controller starts faster.
"""

import uuid
from contextlib import suppress
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infoaug.orchestrator.errors import StageError


class EpochQueue(UserCallback):
    """Puts every epoch's metrics into a queue, from Ray Train's controller or a task; the driver takes them out."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.training = queue, uuid.uuid4().hex

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Called by Ray Train with the metrics of all workers; those of the first are put into the queue."""
        self.put(metrics[0])

    def put(self, metrics: dict[str, Any]) -> None:
        """Put an epoch's metrics into the queue, on a worker that trains alone."""
        with suppress(RayActorError):  # training continues without a driver that listens
            self.queue.put((self.training, metrics))

    def get(self, timeout: float) -> dict[str, Any] | None:
        """Take out the next epoch's metrics; None if they are of an earlier training that shares the queue.

        Args:
            timeout: seconds to wait.

        Raises:
            queue.Empty: none arrived in time.
            StageError: the queue has died, so none will arrive.
        """
        try:
            training, metrics = self.queue.get(timeout=timeout)
        except RayActorError:
            _queue.cache_clear()
            raise StageError("the queue of epochs has died: training continues, its epochs are not shown") from None
        return metrics if training == self.training else None


def create() -> EpochQueue:
    """Create the queue of a training; all trainings that this process starts share one actor."""
    return EpochQueue(_queue(ray.get_runtime_context().get_node_id()))


@cache
def _queue(node: str) -> Queue:
    # On the driver's node: elsewhere, the queue would be lost with any node of the cluster.
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
