import io
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2
PATIENCE = timedelta(seconds=60)  # for a rank that the other one leaves waiting, because it has failed


def serve(rank: int, meet: str, tasks: Any, answers: Any) -> None:
    """Runs in a process of its own: call one function after the other until there is none."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=WORLD, timeout=PATIENCE)
    while True:
        function = tasks.get()
        try:
            written = io.BytesIO()
            torch.save(function(rank), written)
            answers.put((None, written.getvalue()))
        except Exception:
            answers.put((traceback.format_exc(), b""))


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory) -> Iterator[Callable]:
    """Call a function of a module on two ranks that share a gloo group, with the rank; give what both return.

    The processes start once for all tests, which takes longer than what most of these tests do in them.
    """
    context = mp.get_context("spawn")
    meet = str(tmp_path_factory.mktemp("ranks") / "meet")
    queues = [(context.Queue(), context.Queue()) for _ in range(WORLD)]
    workers = [context.Process(target=serve, args=(rank, meet, *pair), daemon=True) for rank, pair in enumerate(queues)]
    for worker in workers:
        worker.start()

    def call(function: Callable[[int], Any]) -> list[Any]:
        for tasks, _ in queues:
            tasks.put(function)
        found = [answers.get(timeout=2 * PATIENCE.seconds) for _, answers in queues]
        for rank, (error, _) in enumerate(found):
            assert error is None, f"rank {rank}: {error}"
        return [torch.load(io.BytesIO(written)) for _, written in found]

    yield call
    for worker in workers:
        worker.terminate()
        worker.join()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are so small that a second thread costs more than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
