"""The log file of a command: where it lies, what is in it, and that it never stops the command."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infoaug.orchestrator.runtime import logs

own = logging.getLogger("infoaug.test")


def text_of(folder: Path) -> str:
    (path,) = folder.glob("*.log")
    return path.read_text(encoding="utf-8")


def test_a_log_lies_in_the_store_under_the_time_the_command_and_the_experiment(tmp_path: Path) -> None:
    with logs.to_file("run", ["run", "demo"]):
        logs.set_place(tmp_path / "store", "mine")
        own.info("started")
        path = logs.file()
    assert path and path.parent == tmp_path / "store" / "logs"
    assert re.fullmatch(r"\d{8}T\d{6}Z-run-mine\.log", path.name)
    assert "infoaug run demo" in path.read_text() and "INFO    infoaug.test: started" in path.read_text()
    assert logs.file() is None, "the command has ended"


def test_without_a_local_store_a_log_lies_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with logs.to_file("submit"):
        logs.set_place(None, "a/b c")
        own.info("started")
    (path,) = (tmp_path / "logs").iterdir()
    assert path.name.endswith("-submit-a_b_c.log")


def test_a_command_that_never_started_leaves_no_log_and_one_that_did_has_what_came_before(tmp_path: Path) -> None:
    with logs.to_file("run"):
        logs.set_place(tmp_path / "none", "mine")
        own.debug("checked")
    assert not list(tmp_path.iterdir())
    with logs.to_file("run"):
        logs.set_place(tmp_path, "mine")
        own.debug("checked")
        own.info("started")
        own.debug("working")
    assert [line.rpartition(": ")[2] for line in text_of(tmp_path / "logs").splitlines()[1:]] == [
        "checked",
        "started",
        "working",
    ]


def test_a_traceback_is_written_and_secrets_are_masked_in_it(tmp_path: Path) -> None:
    with logs.to_file("run", ["--set", "tracking.uri=http://me:hunter2@host/x"]):
        logs.set_place(tmp_path, "mine")
        try:
            raise OSError("no answer from s3://key:s3cret@bucket?region=eu&secret_key=abc123&x=1")
        except OSError:
            own.exception("failed")
    text = text_of(tmp_path / "logs")
    assert "Traceback (most recent call last)" in text and "test_logs.py" in text
    assert "http://***@host/x" in text and "s3://***@bucket?region=eu&secret_key=***&x=1" in text
    assert not any(secret in text for secret in ("hunter2", "s3cret", "abc123"))


def test_of_other_packages_only_warnings_are_written(tmp_path: Path) -> None:
    with logs.to_file("run"):
        logs.set_place(tmp_path, "mine")
        own.info("started")
        logging.getLogger("elsewhere").info("chatter")
        logging.getLogger("elsewhere").warning("take care")
    text = text_of(tmp_path / "logs")
    assert "take care" in text and "chatter" not in text


def test_two_commands_of_one_second_have_a_log_each(tmp_path: Path) -> None:
    for _ in range(2):
        with logs.to_file("run"):
            logs.set_place(tmp_path, "mine")
            own.info("started")
    assert len(list((tmp_path / "logs").iterdir())) == 2


@pytest.mark.parametrize("obstacle", ["a file", "a full disk"])
def test_a_log_that_cannot_be_written_does_not_stop_the_command(
    obstacle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logs.to_file("run"):
        if obstacle == "a file":
            (tmp_path / "store").write_text("")
            logs.set_place(tmp_path / "store", "mine")
        else:
            (tmp_path / "store").mkdir()
            logs.set_place(tmp_path / "store", "mine")
            assert logs._current
            logs._current.baseFilename = "/dev/full"
        own.info("started")
        own.error("failed")
        assert logs.file() is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["estimators.information.twins", "models.losses", "orchestrator.settings"])
def test_in_a_library_nothing_is_shown_unless_logging_is_configured(package: str) -> None:
    code = f"import logging, infoaug.{package}\nlogging.getLogger('infoaug.{package}').error('hidden')\n"
    for configured, shown in (("", False), ("logging.basicConfig()\n", True)):
        ran = subprocess.run(
            [sys.executable, "-c", configured.replace("logging", "__import__('logging')", 1) + code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
            cwd=Path(__file__).parents[3],
        )
        assert ("hidden" in ran.stderr) is shown
