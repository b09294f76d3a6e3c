"""The store: what exists is complete, what is written comes back, and what goes wrong is one sentence."""

import hashlib
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.store import (
    BrokenFileError,
    StageFolder,
    Store,
    arrays,
    digest_of,
    file_name,
    tensors,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def on_disk(store: Store) -> list[str]:
    """Every file that really is in the store's folder, hidden and unfinished ones too."""
    assert store.local is not None
    return sorted(str(path.relative_to(store.local.parent)) for path in store.local.rglob("*") if path.is_file())


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Within it the system refuses to write a file on beyond `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- whole or not at all


def test_what_is_written_is_read_and_listed(store: Store) -> None:
    store.write_bytes("extract/a/b.bin", b"\x00\xff")
    store.write_json("extract/c.json", {"k": [1, None, "ü"]})
    assert store.read_bytes("extract/a/b.bin") == b"\x00\xff"
    assert store.read_json("extract/c.json") == {"k": [1, None, "ü"]}
    assert store.files("extract") == {"a/b.bin", "c.json"}
    assert store.files("") == {"extract/a/b.bin", "extract/c.json"}
    assert store.exists("extract/a/b.bin")
    assert store.exists("extract/a")
    assert not store.exists("extract/b.bin")
    assert store.files("nothing/here") == set()
    assert store.files("", ["extract/a", "nothing"]) == {"extract/a/b.bin"}
    assert store.files("extract", []) == set()


def test_writing_again_replaces_and_leaves_no_other_file(store: Store) -> None:
    store.write_bytes("a/x", b"first, and longer")
    store.write_bytes("a/x", b"second")
    assert store.read_bytes("a/x") == b"second"
    assert on_disk(store) == ["store/a/x"]


def test_a_write_that_runs_out_of_space_leaves_nothing(store: Store) -> None:
    with (
        no_file_larger_than(10_000),
        pytest.raises(StageError, match=r"cannot write 'a/x' of the store .*File too large"),
    ):
        store.write_bytes("a/x", b"x" * 100_000)
    assert store.files("") == set()
    assert on_disk(store) == []


def test_a_write_that_runs_out_of_space_leaves_what_was_there_before(store: Store) -> None:
    store.write_bytes("a/x", b"before")
    with no_file_larger_than(10_000), pytest.raises(StageError):
        store.write_bytes("a/x", b"x" * 100_000)
    assert store.read_bytes("a/x") == b"before"
    assert store.files("a") == {"x"}


def test_a_file_of_a_write_that_was_cut_off_is_not_listed(store: Store) -> None:
    store.write_bytes("a/x", b"1")
    store.write_bytes("a/y.3f2a.part", b"half")
    assert store.files("a") == {"x"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_is_after(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, list[str]]] = []

    def spy(file: int) -> None:
        synced.append((Path(f"/proc/self/fd/{file}").readlink().suffix, [Path(name).name for name in on_disk(store)]))

    monkeypatch.setattr(os, "fsync", spy)
    store.write_bytes("a/x", b"1")
    assert [kind for kind, _ in synced] == [".part", ""]  # the file, the folder
    assert "x" not in synced[0][1]
    assert synced[1][1] == ["x"]


def test_a_folder_that_cannot_be_synced_is_no_failure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_folders(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").is_dir():
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuses_folders)
    store.write_bytes("a/x", b"1")
    assert store.read_bytes("a/x") == b"1"


@pytest.mark.parametrize("path", ["taken/x", "n" * 300, "folder"])
def test_a_place_that_cannot_be_written_is_one_sentence(store: Store, path: str) -> None:
    store.write_bytes("taken", b"a file where a folder should be")
    store.write_bytes("folder/x", b"")
    with pytest.raises(StageError) as caught:
        store.write_bytes(path, b"1")
    assert f"cannot write '{path}' of the store {store.uri}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.files("") == {"taken", "folder/x"}


def test_a_store_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file" / "store"))
    assert store.files("a") == set()
    assert not store.exists("a")
    with pytest.raises(StageError, match="cannot write 'a/x'"):
        store.write_bytes("a/x", b"1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StageError, match="Permission denied"):
            Store(str(tmp_path)).write_bytes("a/x", b"1")
    finally:
        tmp_path.chmod(0o700)


def test_deleting_takes_a_folder_and_all_in_it_and_nothing_is_no_error(store: Store) -> None:
    store.write_bytes("a/b/x", b"1")
    store.write_bytes("c/x", b"1")
    store.delete("a")
    store.delete("a")
    assert store.files("") == {"c/x"}
    store.delete("c/x")
    assert store.files("") == set()
    assert store.exists("c")


# ---- what cannot be read


@pytest.mark.parametrize("read", [Store.read_bytes, Store.read_json, Store.read_table], ids=["bytes", "json", "table"])
def test_a_file_that_is_not_there_is_named(store: Store, read: Callable[[Store, str], object]) -> None:
    with pytest.raises(StageError, match=r"cannot read 'a/x' of the store file://"):
        read(store, "a/x")


def test_a_broken_file_is_named_with_the_remedy(store: Store) -> None:
    store.write_table("good.parquet", pa.table({"a": list(range(100))}))
    good = store.read_bytes("good.parquet")
    broken = {"empty": b"", "junk": b"junk" * 20, "cut": good[:-9], "zeroed": good[:4] + bytes(60) + good[64:]}
    for name, content in broken.items():
        store.write_bytes(name, content)
        with pytest.raises(BrokenFileError, match=f"'{name}' of the store .* is broken, delete it"):
            store.read_table(name)
    for content in (b"{", b"", b"\xff\x00"):
        store.write_bytes("x.json", content)
        with pytest.raises(BrokenFileError, match=r"'x\.json' of the store .* is broken, delete it"):
            store.read_json("x.json")


def test_a_missing_column_is_one_line(store: Store) -> None:
    store.write_table("t.parquet", pa.table({"a": [1], "b": [2]}))
    assert store.read_table("t.parquet", ["b"]).column_names == ["b"]
    with pytest.raises(StageError) as caught:
        store.read_table("t.parquet", ["c"])
    assert "\n" not in str(caught.value)


# ---- places


@pytest.mark.parametrize("name", ["a b", "50%", "a%20b", "#1", "what?", "Видео", "c:d", "outputs/"])
def test_any_folder_name_can_be_a_store_also_on_a_worker(tmp_path: Path, name: str) -> None:
    store = Store(f"{tmp_path}/{name}")
    pickle.loads(pickle.dumps(store)).write_bytes("a/x.txt", b"1")  # noqa: S301  # as Ray sends it
    assert (tmp_path / name / "a" / "x.txt").read_bytes() == b"1"
    assert store.files("a") == {"x.txt"}
    assert store.url("a/x.txt") == str(tmp_path / name / "a" / "x.txt")
    assert store.local == tmp_path / name


def test_a_relative_store_stays_where_it_was_when_the_worker_stands_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Store("outputs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(sent).write_bytes("x", b"1")  # noqa: S301
    assert (tmp_path / "outputs" / "x").exists()


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/s")
    store.write_bytes("a", b"1")
    assert store.local == tmp_path / "s"
    assert (tmp_path / "s" / "a").exists()


@pytest.mark.parametrize("location", ["gopher://x/y", "://x", "~no-such-user/x"])
def test_a_store_of_an_unknown_kind_is_refused(location: str) -> None:
    with pytest.raises(UsageError, match=f"the store '{location}' cannot be opened"):
        Store(location)


# ---- names and hashes


@pytest.mark.parametrize(
    "text", ["../../x", "", "/", "..", "видео 1.mp4", "a" * 500, "a\0b\n", ".hidden", "x" + "." * 99]
)
def test_a_file_name_is_safe_for_any_text(store: Store, text: str) -> None:
    name = file_name(text)
    assert name == Path(name).name
    assert 10 < len(name) <= 71
    assert name[0] not in "._-"
    store.write_bytes(f"a/{name}", b"1")
    assert store.files("a") == {name}


@settings(derandomize=True, max_examples=200)
@given(st.text(st.characters()), st.text(st.characters(exclude_categories=())))
def test_a_file_name_is_plain_repeatable_and_its_own(text: str, other: str) -> None:
    name = file_name(text)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0] not in "._"
    assert not name.endswith(".part")
    assert name == file_name(text)
    assert (name == file_name(other)) == (text == other)


def test_a_long_name_keeps_its_end_and_never_becomes_a_hidden_file() -> None:
    assert "folder_clip.mp4-" in file_name("folder/" * 30 + "clip.mp4")
    assert not file_name("x" * 9 + "." + "y" * 59).startswith(".")


def test_more_text_takes_part_in_a_name_s_uniqueness_only() -> None:
    assert file_name("clip", "1").rpartition("-")[0] == file_name("clip", "2").rpartition("-")[0] == "clip"
    assert len({file_name("clip"), file_name("clip", "1"), file_name("clip", "2"), file_name("clip", "1", "2")}) == 4


def test_a_stage_is_the_same_for_the_same_key_in_any_order_and_another_for_any_other(store: Store) -> None:
    key = {"k": 5, "estimator": "ksg", "nested": {"a": 1, "b": [1, 2]}}
    same = {"nested": {"b": [1, 2], "a": 1}, "estimator": "ksg", "k": 5}
    stage = StageFolder(store, "score", key)
    assert stage.folder == StageFolder(store, "score", same).folder == f"score/{stage.hash}"
    others = [
        StageFolder(store, "extract", key),
        StageFolder(store, "score", {**key, "k": 6}),
        StageFolder(store, "score", {**key, "nested": {"a": 1, "b": [2, 1]}}),
        StageFolder(store, "score", {**key, "more": None}),
    ]
    assert len({stage.hash, *(other.hash for other in others)}) == 5
    assert stage.path("twins", "x", "0.parquet") == f"score/{stage.hash}/twins/x/0.parquet"


def test_a_stage_leaves_its_config_and_key_once(store: Store) -> None:
    stage = StageFolder(store, "score", {"k": 5})
    stage.record("first")
    stage.record("second")
    assert store.read_bytes(stage.path("config.yaml")) == b"first"
    assert store.read_json(stage.path("key.json")) == {"k": 5}


def test_a_stage_travels_to_a_worker(store: Store) -> None:
    stage = StageFolder(store, "score", {"k": 5})
    there = pickle.loads(pickle.dumps(stage))  # noqa: S301
    assert (there.folder, there.store.uri) == (stage.folder, store.uri)


def test_a_digest_is_short_hex_and_does_not_depend_on_the_process() -> None:
    expected = hashlib.sha256(b'{"a": [1, "x"], "b": 1}').hexdigest()
    assert digest_of({"b": 1, "a": [1, "x"]}) == digest_of({"a": [1, "x"], "b": 1}) == expected[:12]
    assert len(digest_of(None, 8)) == 8


# ---- arrays in tables


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).integers(0, 255, (5, 6, 6, 3), dtype=np.uint8),
        np.random.default_rng(1).normal(size=(5, 7, 2)).astype(np.float32),
        np.asfortranarray(np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)),
        np.random.default_rng(3).random((5, 7)) < 0.5,
        np.zeros((1, 1), bool),
    ],
    ids=["images", "positions", "other order in memory", "booleans", "one"],
)
def test_arrays_come_back_from_parquet_as_they_were(store: Store, array: np.ndarray) -> None:
    store.write_table("t.parquet", pa.table({"a": tensors(array), "row": np.arange(len(array))}))
    found = arrays(store.read_table("t.parquet"), "a")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_a_slice_and_a_join_of_tables_keep_rows_apart() -> None:
    position = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
    visible = np.random.default_rng(1).random((6, 4)) < 0.5
    table = pa.table({"position": tensors(position), "visible": tensors(visible)})
    for name, array in (("position", position), ("visible", visible)):
        assert np.array_equal(arrays(table.slice(2, 3), name), array[2:5])
        assert np.array_equal(arrays(pa.concat_tables([table.slice(3), table]), name), np.vstack([array[3:], array]))


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3, 2), np.float32), np.zeros((0, 3), bool), np.zeros(4), np.zeros((2, 3, 4), bool)]
)
def test_an_array_that_is_no_column_of_tensors_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a column takes an array \[N, ...\]"):
        tensors(array)


def test_the_schema_of_a_table_is_read_with_its_metadata_and_that_of_no_table_is_refused(store: Store) -> None:
    store.write_table("a.parquet", pa.table({"x": [1, 2]}).replace_schema_metadata({b"key": b"value"}))
    schema = store.table_schema("a.parquet")
    assert schema.names == ["x"] and schema.metadata[b"key"] == b"value"
    store.write_bytes("b.parquet", b"PAR1")
    with pytest.raises(BrokenFileError, match=r"b\.parquet.*is broken"):
        store.table_schema("b.parquet")
    with pytest.raises(StageError, match=r"cannot read 'c\.parquet'"):
        store.table_schema("c.parquet")


def test_json_of_another_kind_than_its_reader_needs_is_broken_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_json("x.json", [1])
    assert store.read_json("x.json", lambda value: isinstance(value, list)) == [1]
    with pytest.raises(BrokenFileError, match=r"'x\.json' of the store .* is broken, delete it .*: values are missing"):
        store.read_json("x.json", lambda value: isinstance(value, dict))
