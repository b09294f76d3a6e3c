"""One command at a time holds a lock; the others wait or say who does, and nobody waits for the dead."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import locks

ELSEWHERE = """
import sys, time
from pathlib import Path
from infoaug.orchestrator.runtime.locks import hold
with hold(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "lock"


def test_a_second_command_is_told_who_holds_the_lock_and_gets_it_afterwards(lock: Path) -> None:
    with locks.hold(lock, "the experiment 'x'"):
        with pytest.raises(UsageError) as caught, locks.hold(lock, "the experiment 'x'"):
            raise AssertionError
        sentence = str(caught.value)
        holder = rf"another command \(process {os.getpid()} on .+, since 20.* UTC\)"
        assert re.match(rf"the experiment 'x' is in use by {holder}: wait until it has ended, or end it$", sentence)
    with locks.hold(lock, "the experiment 'x'"):
        pass


def test_a_lock_is_released_after_an_error(lock: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold(lock, "it"):
        raise ZeroDivisionError
    with locks.hold(lock, "it"):
        pass


def test_a_patient_command_waits_for_the_one_before(lock: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with locks.hold(lock, "it", patience=30):
            order.append("second")

    with locks.hold(lock, "it"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_killed_command_leaves_no_lock(lock: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid} on"), locks.hold(lock, "it"):
            pass
        process.send_signal(signal.SIGKILL)
    with locks.hold(lock, "it"):
        assert lock.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_work_goes_on_where_the_file_system_has_no_locks(
    number: int, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.hold(lock, "it"), locks.hold(lock, "it"):
        pass


def test_work_goes_on_where_no_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with locks.hold(tmp_path / "file" / "lock", "it"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_file_that_does_not_say_who_holds_it_still_holds(content: str, lock: Path) -> None:
    with locks.hold(lock, "it"):
        lock.write_text(content)
        with pytest.raises(UsageError, match="it is in use by another command: wait"), locks.hold(lock, "it"):
            pass
