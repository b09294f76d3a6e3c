"""How Ray is started on this machine, and what is said where it does not start; Ray itself is replaced."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

# isort: split
import psutil

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import interruption, local_ray

TIMED_OUT = Exception("The current node timed out during startup. This could happen because some of the raylet failed.")


class Starts:
    """Stands for `ray.init`: starts a process, and fails as often as it has errors."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.options = [*errors], list[dict[str, Any]]()
        self.processes = list[subprocess.Popen[bytes]]()

    def __call__(self, **options: Any) -> None:
        self.options.append(options)
        self.processes.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start sets in the environment is undone."""
    changed = ("RAY_API_SERVER_ADDRESS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_AUTH_TOKEN", "no_proxy")
    for name in (*changed, "NO_PROXY"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(local_ray, "PATIENCE", 0.1)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    made = Starts()
    monkeypatch.setattr(ray, "init", made)
    return made


def test_a_start_that_times_out_is_tried_again_and_leaves_no_process(starts: Starts) -> None:
    starts.errors = [TIMED_OUT]
    local_ray.start(cpus=2)
    first, second = starts.processes
    assert not psutil.pid_exists(first.pid) and second.poll() is None
    assert {options["num_cpus"] for options in starts.options} == {2}
    local_ray.end()
    assert not psutil.pid_exists(second.pid)


@pytest.mark.parametrize("error", [TIMED_OUT, Exception("\nThe last 20 lines of dashboard.log:\n…"), RuntimeError()])
def test_a_start_that_fails_twice_is_one_sentence(error: Exception, starts: Starts) -> None:
    starts.errors = [error, error]
    with pytest.raises(StageError, match=r"^Ray did not start on this machine \(.+\): run the same .* less busy, .*$"):
        local_ray.start()
    assert len(starts.options) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError("AF_UNIX path length cannot exceed 107 bytes: /tmp/ray/path"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/tmp/ray"),
    ],
)
def test_a_folder_that_does_not_do_is_not_tried_twice(error: OSError, starts: Starts) -> None:
    starts.errors = [error]
    with pytest.raises(StageError, match=r"\(.*/tmp/ray.*\): set TMPDIR to a folder that can be written to"):
        local_ray.start()
    assert len(starts.options) == 1


def test_a_signal_while_ray_starts_ends_what_was_started(starts: Starts) -> None:
    starts.errors = [SystemExit(15)]  # of Ray's handler
    with interruption.raised(), pytest.raises(interruption.Interrupted):
        local_ray.start()
    assert not psutil.pid_exists(starts.processes[0].pid)


def test_sockets_have_a_short_path_where_that_of_tmpdir_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr("tempfile.tempdir", "/tmp/short")
    assert not local_ray.folders()
    long = f"/tmp/{'t' * 60}"
    monkeypatch.setattr("tempfile.tempdir", long)
    found = local_ray.folders()
    assert found["object_spilling_directory"] == f"{long}/ray", "what is large stays there"
    assert len(found["_temp_dir"]) < 30


def test_a_tmpdir_that_is_too_long_for_any_socket_is_named(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'t' * 90}")
    with pytest.raises(StageError, match=r"path of TMPDIR, /tmp/t+, .* set it to a folder with a path of at most 71 "):
        local_ray.start()
    assert not starts.options


def test_the_parts_of_ray_ask_each_other_past_a_proxy(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    for _ in range(2):
        local_ray.start()
        local_ray.end()
    assert os.environ["no_proxy"] == "127.0.0.1,localhost"
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_without_a_home_that_can_be_written_to_ray_needs_none(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    local_ray.start()
    local_ray.end()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_user_without_a_name_and_a_home_gets_both() -> None:
    code = (
        "import getpass, os, pwd, pathlib\n"
        "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME', 'HOME'): os.environ.pop(name, None)\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "import infoaug.orchestrator\n"
        "print(getpass.getuser(), pathlib.Path.home())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == f"uid-{os.getuid()}"
