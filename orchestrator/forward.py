"""How a training's epochs reach the process that started it.

Ray Train's controller, a process of its own for every training, imports this file and no other of ours: it is quicker
to start without PyTorch's whole surroundings.
"""

import uuid
from functools import cache
from typing import Any

import ray
from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue


class Forward(UserCallback):
    """Puts every epoch's metrics into a queue, from Ray Train's controller."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.training = queue, uuid.uuid4().hex

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Called by Ray Train with the metrics of all workers."""
        self.queue.put((self.training, metrics[0]))

    def get(self, timeout: float) -> dict[str, Any] | None:
        """The next epoch's metrics of this training, None for those of an earlier one. Raises queue.Empty."""
        training, metrics = self.queue.get(timeout=timeout)
        return metrics if training == self.training else None


def forward() -> Forward:
    """What hands on a training's epochs to this process, by a queue that all its trainings share."""
    return Forward(_queue(ray.get_runtime_context().get_node_id()))


@cache
def _queue(node: str) -> Queue:
    return Queue(actor_options={"num_cpus": 0})
