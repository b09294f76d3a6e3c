"""Which failures are worth another try."""

import pickle

import pytest
import ray
import torch

from infoaug.orchestrator.errors import StageError, UsageError, remedy, worth_retrying

# As the processes of Ray, torch and the operating system have written them.
PASSING = [
    "OSError: No space left on device: Error writing bytes to file",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "RuntimeError: CUDA error: out of memory",
    "RuntimeError: [/pytorch/third_party/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4711",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356, remote process exited",
    "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
    "ray.exceptions.NodeDiedError: Task failed due to the node dying.",
    "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
    "ray.exceptions.WorkerCrashedError: The worker died unexpectedly while executing this task",
    "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
    "ConnectionRefusedError: [Errno 111] Connection refused",
    "TimeoutError: The read operation timed out",
    "MemoryError",
    "RayTaskError(ConnectionResetError): connection reset by peer",
    "a process was killed",
]
PERMANENT = [
    "ModuleNotFoundError: No module named 'infoaug.models.heads'",
    "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
    "TypeError: forward() missing 1 required positional argument: 'twins'",
    "AssertionError: input image height (17) doesn't match model (16)",
    "ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 512, 1, 1])",
    "AttributeError: 'NoneType' object has no attribute 'shape'",
    "KeyError: 'view_loss'",
    "IndexError: list index out of range",
    "NameError: name 'twin' is not defined",
    "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0",
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x16 and 512x128)",
    "RayTaskError(TypeError): unsupported operand type(s) for +: 'int' and 'NoneType'",
    "infoaug.orchestrator.errors.UsageError: 10 patches are fewer than a batch of 32",
]


@pytest.mark.parametrize("cause", PASSING)
def test_another_try_is_offered_where_the_machine_or_the_network_failed(cause: str) -> None:
    assert worth_retrying(cause)
    assert "again to continue" in remedy(cause)


@pytest.mark.parametrize("cause", PERMANENT)
def test_no_other_try_is_offered_for_an_error_in_the_code_or_in_a_setting(cause: str) -> None:
    assert not worth_retrying(cause)
    assert "will not help" in remedy(cause)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TypeError("x"), False),
        (UsageError("x"), False),
        (OSError(28, "No space left on device"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (KeyboardInterrupt(), True),
        (StageError("x"), True),
        (StageError("x", retry=False), False),
        (ray.exceptions.RayTaskError("measure", "Traceback", KeyError("x")), False),
        (ray.exceptions.RayTaskError("measure", "Traceback", ConnectionError("x")), True),
    ],
)
def test_an_error_counts_for_what_it_is_and_one_of_a_task_for_what_was_raised_in_it(
    error: BaseException, again: bool
) -> None:
    assert worth_retrying(error) is again


def test_a_stage_error_keeps_its_advice_on_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(StageError("failed", retry=False)))  # noqa: S301
    assert (str(error), error.retry) == ("failed", False)
