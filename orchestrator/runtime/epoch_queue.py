"""How a training's epochs reach the process that started it.

Ray Train's controller, a process of its own for every training, imports this file and of ours only the errors: it is
quicker to start without PyTorch's whole surroundings.
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
    """Puts every epoch's metrics into a queue, from Ray Train's controller."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.training = queue, uuid.uuid4().hex

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Called by Ray Train with the metrics of all workers."""
        with suppress(RayActorError):  # whom nobody hears trains on
            self.queue.put((self.training, metrics[0]))

    def get(self, timeout: float) -> dict[str, Any] | None:
        """The next epoch's metrics of this training, None for those of an earlier one.

        Raises:
            queue.Empty: none came in time.
            StageError: none will come any more.
        """
        try:
            training, metrics = self.queue.get(timeout=timeout)
        except RayActorError:
            _queue.cache_clear()
            raise StageError("epochs are not heard of any more, their queue has died; training goes on") from None
        return metrics if training == self.training else None


def forward() -> EpochQueue:
    """What hands on a training's epochs to this process, by a queue that all its trainings share."""
    return EpochQueue(_queue(ray.get_runtime_context().get_node_id()))


@cache
def _queue(node: str) -> Queue:
    # Here, or it would go with any node of the cluster.
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
