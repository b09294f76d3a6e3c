"""The store on a server that speaks S3: the same words as in a folder, and nothing half-written is ever seen."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime.store import Store
from tests.s3_server import Server


@pytest.fixture
def store(s3: Server) -> Store:
    return Store(s3.url("experiments/here"))


def test_what_is_written_is_read_and_listed(store: Store) -> None:
    store.write_bytes("extract/a/b.bin", b"\x00\xff")
    store.write_json("extract/c.json", {"k": [1, None, "ü"]})
    store.write_table("score/d.parquet", pa.table({"x": [1.5, 2.5]}))
    assert store.read_bytes("extract/a/b.bin") == b"\x00\xff"
    assert store.read_json("extract/c.json") == {"k": [1, None, "ü"]}
    assert store.read_table("score/d.parquet", columns=["x"]).to_pydict() == {"x": [1.5, 2.5]}
    assert store.files("extract") == {"a/b.bin", "c.json"}
    assert store.files("") == {"extract/a/b.bin", "extract/c.json", "score/d.parquet"}
    assert store.files("nothing") == set()
    assert store.files("extract", ["a", "nothing"]) == {"a/b.bin"}
    assert store.exists("extract/a") and store.exists("extract/a/b.bin") and not store.exists("extract/b.bin")
    assert store.local is None


def test_writing_again_replaces_and_deleting_takes_a_folder_and_no_other(store: Store, s3: Server) -> None:
    for content in (b"first, and longer", b"second"):
        store.write_bytes("a/x", content)
    store.write_bytes("ab/x", b"1")
    assert store.read_bytes("a/x") == b"second"
    store.delete("a")
    store.delete("a")
    assert store.files("") == {"ab/x"}
    assert s3.objects("experiments/here") == {"experiments/here/ab/x"}, "neither folders nor unfinished files are put"


def test_a_url_below_the_store_keeps_what_it_asks_of_the_server(store: Store) -> None:
    store.write_bytes("sweeps/x", b"1")
    below = store.url("sweeps")
    assert below.partition("?")[0].endswith("/experiments/here/sweeps") and "endpoint_override" in below
    assert Store(below).read_bytes("x") == b"1"
    assert pickle.loads(pickle.dumps(store)).read_bytes("sweeps/x") == b"1"  # noqa: S301


def test_what_is_not_there_is_one_sentence(store: Store) -> None:
    with pytest.raises(StageError) as told:
        store.read_bytes("a/x")
    assert str(told.value).startswith(f"cannot read 'a/x' of the store {store.uri}: ") and "\n" not in str(told.value)


def test_a_bucket_that_is_not_there_and_a_server_that_is_away_are_one_sentence(s3: Server, tmp_path: Path) -> None:
    for url in (s3.url("x", bucket="no-such-bucket"), s3.url("x", port=9)):
        store = Store(url)
        with pytest.raises(StageError) as told:
            store.write_bytes("a/x", b"1")
        assert str(told.value).startswith(f"cannot write 'a/x' of the store {url}: ") and "\n" not in str(told.value)
