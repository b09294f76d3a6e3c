"""The folder of TensorBoard's event files, before anything is written to it."""

from pathlib import Path

import pytest

from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime import tensorboard


def test_a_folder_that_can_be_written_to_is_created_and_left_empty(tmp_path: Path) -> None:
    tensorboard.check(None)
    tensorboard.check(str(tmp_path / "new" / "tb"))
    tensorboard.check(str(tmp_path / "new" / "tb"))
    assert not [*(tmp_path / "new" / "tb").iterdir()]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "tb"):
        with pytest.raises(UsageError, match=r"give another folder in tracking\.tensorboard"):
            tensorboard.check(str(folder))


def test_a_url_is_refused_rather_than_taken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not a URL"):
        tensorboard.check("s3://bucket/tb")
    assert not [*tmp_path.iterdir()]
