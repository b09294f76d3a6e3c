"""Temporary folders and files of processes that live, end and are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from infoaug.models import memory
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import scratch
from infoaug.orchestrator.runtime.store import StageFolder, Store


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the test and of what it starts."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "temporary"


def killed(code: str) -> int:
    """Run code in a process that kills itself at its end; its id."""
    head = "import os; from infoaug.orchestrator.runtime import scratch\n"
    process = subprocess.Popen([sys.executable, "-c", head + code + "\nos.kill(os.getpid(), 9)"])
    assert process.wait() == -signal.SIGKILL
    return process.pid


def test_a_folder_is_deleted_at_its_end_also_after_an_error(temporary: Path) -> None:
    with pytest.raises(OSError, match="full"), scratch.folder("mine") as folder:
        assert folder == scratch.path_of("mine") and not list(folder.iterdir())
        (folder / "file").write_bytes(b"1")
        raise OSError("the disk is full")
    assert not list(temporary.iterdir())


def test_the_folder_of_a_killed_process_is_deleted_by_the_next_one_and_that_of_a_living_one_is_not(
    temporary: Path,
) -> None:
    killed("made = scratch.folder('dead'); (made.__enter__() / 'images').write_bytes(b'1')")
    with scratch.folder("living"):
        assert [path.name for path in temporary.iterdir()] == ["infoaug-living"]
        with scratch.folder():
            assert scratch.path_of("living").exists()


def test_a_folder_of_that_name_that_is_not_ours_is_left_alone(temporary: Path) -> None:
    (temporary / "infoaug-videos").mkdir()
    with scratch.folder():
        pass
    assert (temporary / "infoaug-videos").exists()


def test_what_a_killed_writer_leaves_is_deleted_when_its_stage_is_next_read_or_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    stage = StageFolder(store, "pretrain", {})
    inner, outer = tmp_path / "store" / stage.path("clip", "1"), tmp_path / "store" / stage.path("2")
    inner.parent.mkdir(parents=True)
    killed(f"open(scratch.part_of({str(inner)!r}), 'w'); open(scratch.part_of({str(outer)!r}), 'w')")
    mine, of_elsewhere = Path(scratch.part_of(str(inner))), inner.with_name("1.0123abcd-1-0123abcd.part")
    for path in (mine, of_elsewhere):
        path.touch()
    assert len(list(outer.parent.rglob("*.part"))) == 4
    stage.record("")
    assert not list(outer.parent.glob("*.part")), "those beside the outputs"
    assert store.files(stage.folder) == {"config.yaml", "key.json"}
    assert {*outer.parent.rglob("*.part")} == {mine, of_elsewhere}
    os.utime(of_elsewhere, (time.time() - 2 * scratch.DAY,) * 2)
    store.files(stage.folder)
    assert {*outer.parent.rglob("*.part")} == {mine}


# ---- arrays


def test_a_large_array_is_in_a_file_that_nobody_has_to_delete(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(scratch.array((1000, 3), np.float32), np.memmap)
    monkeypatch.setattr(memory, "limit", lambda: 50_000)
    found = scratch.array((1000, 3), np.float32)
    assert isinstance(found, np.memmap) and found.dtype == np.float32 and not found.any()
    assert not [*temporary.iterdir()]
    found[:] = np.arange(3)
    assert (found.sum(axis=0) == [0, 1000, 2000]).all()
    assert scratch.array((0, 3), np.uint8).shape == (0, 3)


def test_an_array_without_room_on_the_disk_is_refused_before_anything_is_written(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    with pytest.raises(
        StageError, match=rf"MiB do not fit in '{temporary}' .* set TMPDIR to a folder of a larger disk"
    ):
        scratch.array((1 << 50, 3), np.float32)
