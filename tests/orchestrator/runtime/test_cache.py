"""Local copies of an object storage's files: made once, shared, and deleted when they take too much room."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.cache import Cache
from infoaug.orchestrator.runtime.store import Store


class Remote(Store):
    """A folder that is taken for an object storage, and counts how often it is read."""

    reads = 0

    @property
    def local(self) -> Path | None:
        return None

    def read_bytes(self, path: str) -> bytes:
        self.reads += 1
        return super().read_bytes(path)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "store").mkdir()
    for name in "abc":
        (tmp_path / "store" / name).write_bytes(name.encode() * 100)
    return Remote(str(tmp_path / "store"))


def test_a_file_is_copied_once_for_all_who_ask(remote: Remote, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        copies = {*pool.map(lambda _: Cache(remote, 1000, tmp_path / "cache").fetch("a"), range(16))}
    assert len(copies) == 1 and copies.pop().read_bytes() == b"a" * 100 and remote.reads == 1


def test_the_least_recently_used_copies_make_room_and_open_ones_stay_readable(remote: Remote, tmp_path: Path) -> None:
    cache = Cache(remote, 250, tmp_path / "cache")
    first, second = cache.fetch("a"), cache.fetch("b")
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    cache.fetch("a")  # used again
    with second.open("rb") as opened:
        third = cache.fetch("c")
        assert not second.exists() and first.exists() and third.exists()
        assert opened.read() == b"b" * 100
    assert cache.fetch("b").read_bytes() == b"b" * 100


def test_copies_that_are_held_stay_and_what_is_made_of_many_files_is_one(remote: Remote, tmp_path: Path) -> None:
    cache = Cache(remote, 250, tmp_path / "cache")

    def fetch() -> tuple[int, Callable[[Path], None]]:
        def write(folder: Path) -> None:
            folder.mkdir()
            for name in "ab":
                (folder / name).write_bytes(remote.read_bytes(name))

        return 200, write

    with cache.held("clip", fetch) as held:
        with cache.held("clip", fetch) as again:
            assert again == held and remote.reads == 2
        first = cache.fetch("c")
        assert held.is_dir() and (held / "b").read_bytes() == b"b" * 100, "it is still read"
    second = cache.fetch("a")
    assert not held.exists() and first.exists() and second.exists()
    assert len(list((tmp_path / "cache").rglob("*.lock"))) == 2, "the lock goes with what it is of"


def test_a_copy_that_fails_leaves_nothing(remote: Remote, tmp_path: Path) -> None:
    def fails(to: Path) -> None:
        to.write_bytes(b"half")
        raise ValueError("the connection")

    cache = Cache(remote, 250, tmp_path / "cache")
    with pytest.raises(ValueError, match="the connection"), cache.held("clip", lambda: (1, fails)):
        pass
    assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".lock"]


def test_files_of_a_local_folder_are_not_copied(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    assert Cache(store, 1000, tmp_path / "cache").fetch("x/y") == tmp_path / "store" / "x" / "y"
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_takes_no_copy_is_named_with_what_to_do(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(StageError, match=r"does not take a copy of 'a'.*set TMPDIR"):
        Cache(remote, 1000, tmp_path / "cache").fetch("a")
