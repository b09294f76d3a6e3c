"""What a failed training is said to have failed of."""

import errno

import pytest

from infoaug.orchestrator.stages import pretrain


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Training failed\n  File 'x'\nValueError: the loss is nan. Much more", "ValueError: the loss is nan"),
        (f"OSError: [Errno {errno.ENOSPC}] Error writing", "OSError: No space left on device: Error writing"),
        (f"OSError: [Errno {errno.ENOSPC}] No space left on device: 'x'", "OSError: No space left on device: 'x'"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_the_workers_own_words_and_numbers_are_told_as_what_they_mean(told: str, said: str) -> None:
    assert pretrain._cause(RuntimeError(told)) == said
