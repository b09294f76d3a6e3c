"""What several test files need."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Path of a file or folder of real test data; the test is skipped where there is none."""
    root = Path(os.environ.get("INFOAUG_TEST_DATA", "../shared/data"))

    def path(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"no real test data at {root / name}: set INFOAUG_TEST_DATA to the folder that holds it")
        return (root / name).absolute()

    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tensors so small that a second thread costs more than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
