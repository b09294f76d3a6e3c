import io
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from rank_process import WORLD, serve


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

    def answer(rank: int) -> tuple[str | None, bytes]:
        while True:
            try:
                return queues[rank][1].get(timeout=1)
            except queue.Empty:
                assert workers[rank].is_alive(), f"the process of rank {rank} has ended: see what it has printed"

    def call(function: Callable[[int], Any]) -> list[Any]:
        for tasks, _ in queues:
            tasks.put(function)
        found = [answer(rank) for rank in range(WORLD)]
        for rank, (error, _) in enumerate(found):
            assert error is None, f"rank {rank}: {error}"
        return [torch.load(io.BytesIO(written)) for _, written in found]

    yield call
    for worker in workers:
        worker.terminate()
        worker.join()


@pytest.fixture(autouse=True)
def small_tensors(one_thread: None) -> None:
    """All tensors here are small."""
