"""What several test files need."""

import io
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import HealthCheck, settings

from tests import s3_server
from tests.rank_process import WORLD, serve

# Budgets of the tests in tests/fuzz, chosen with --hypothesis-profile. The default profile tries a few fixed examples,
# `full` (make test-slow) some times as many, and `long` new ones in every run. No profile limits the time: a busy
# machine is slow.
settings.register_profile("default", settings.get_profile("default"), deadline=None)
settings.load_profile("default")
settings.register_profile("full", deadline=None)
settings.register_profile(
    "long",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Path of a file or folder of real test data; the test is skipped where there is none."""
    root = Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data"))

    def path(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"no real test data at {root / name}: set INFOAUG_TEST_DATA to the folder that holds it")
        return (root / name).absolute()

    return path


@pytest.fixture(scope="session")
def s3_process() -> Iterator[s3_server.Server]:
    """A server that speaks S3, and an account for it in the environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.ACCOUNT.items():
            environment.setenv(name, value)
        server = s3_server.start()
        yield server
        server.end()


@pytest.fixture
def s3(s3_process: s3_server.Server) -> s3_server.Server:
    """The server with nothing in its bucket."""
    s3_process.clear()
    return s3_process


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tensors so small that a second thread costs more than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
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
