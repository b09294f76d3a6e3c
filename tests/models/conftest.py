import pytest


@pytest.fixture(autouse=True)
def small_tensors(one_thread: None) -> None:
    """All tensors here are small."""
