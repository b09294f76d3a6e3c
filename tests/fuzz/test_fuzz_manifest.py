"""Manifests, folders and globs: whatever they hold, clips come out or one sentence, and all in the store."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infoaug.estimators.video import clips
from infoaug.estimators.video.clips import ClipError
from infoaug.estimators.video.manifest import Clip, find_clips
from infoaug.orchestrator.runtime.store import Store, file_name
from tests.fuzz.hostile import check_sentence, examples, nearly

NAMES = [
    *("a.mp4", "../a.mp4", "../../../../etc/passwd", "/etc/passwd", "..", ".", "/", "//", "a/../b.mp4", "a\\b.mp4"),
    *("a\0b.mp4", "\x1b[2J.mp4", "[red]a.mp4", "[/a].mp4", "a\r\nb.mp4", "\u202egnp.mp4", " .mp4", "-.mp4", "x" * 5000),
    *("http://127.0.0.1/a.mp4", "file:///etc/passwd", "pipe:0", "con.mp4", "%d.mp4", "%s%n.mp4", "*.mp4", "é.mp4"),
    "\ufffd.mp4",
    *("CON", "a,b.mp4", '"a".mp4', "#a.mp4", "\\xe9.mp4", "=1+1.mp4", "<b>.mp4", "{{ 1 }}.mp4", "~/a.mp4"),
]  # fmt: skip
names = st.sampled_from(NAMES) | st.text(max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


def check(path: Path, root: Path) -> list[Clip]:
    """Find clips, and what a stage does with each: its fingerprint, and the name of its files on a store."""
    try:
        found = find_clips(path)
    except ClipError as error:
        check_sentence(error)
        return []
    store = Store(str(root / "store"))
    assert [clip.clip_id for clip in found] == sorted({clip.clip_id for clip in found})
    for clip in found:
        pa.array([clip.clip_id, clip.path], pa.string())
        place = file_name(clip.clip_id)
        assert os.sep not in place and place.isascii() and place.isprintable() and len(place) < 100
        assert not place.startswith(".")
        inside = Path(store.url(place)).resolve()
        assert inside.parent == root / "store"
        try:
            clips.digest(clip.path)
        except ClipError as error:
            check_sentence(error)
    return found


def table(rows: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": pa.array(rows)}), sink)
    return sink.getvalue().to_pybytes()


TEXT = "# clips\na.mp4\nsub/b.avi\n/elsewhere/ü.webm\n".encode()
LIST = b'clip_id,path,more\nfirst,a.mp4,1\nsecond,sub/b.avi,\n,"c,d.webm",3\n'
PARQUET = table(["a.mp4", "sub/b.avi", "/elsewhere/ü.webm"])
KINDS = [(".txt", TEXT), (".csv", LIST), (".parquet", PARQUET)]


@examples(120)
@given(st.data())
def test_a_damaged_manifest_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    suffix, content = data.draw(st.sampled_from(KINDS))
    path = folder / f"damaged{suffix}"
    path.write_bytes(data.draw(nearly(content)))
    check(path, folder)


@examples(60)
@given(st.sampled_from([".txt", ".csv", ".parquet"]), st.binary(max_size=200))
@example(".txt", b"\xff\xfea\0.\0")
@example(".csv", b"path\n" + b"a" * 200_000 + b".mp4\n")
@example(".csv", b"path\n\0.mp4\n")
@example(".csv", b'path\n"' + b"a\n" * 100_000)
@example(".csv", b"\n\n\n")
@example(".csv", b"path\n" + b"," * 100_000)
@example(".txt", b"a" * 1_000_000)
@example(".parquet", b"PAR1PAR1")
@example(".parquet", table([1, 2]))
@example(".parquet", table([b"a.mp4", b"\xff"]))
@example(".parquet", table([None]))
@example(".parquet", table([{"path": "a"}]))
@example(".parquet", table([]))
def test_anything_called_a_manifest_is_read_or_refused(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    check(path, folder)


@examples(100)
@given(st.lists(st.tuples(names, names), min_size=1, max_size=4), st.sampled_from([".txt", ".csv", ".parquet"]))
def test_clips_of_any_name_stay_in_the_store(folder: Path, rows: list[tuple[str, str]], suffix: str) -> None:
    path = folder / f"names{suffix}"
    plain = [(a.replace("\ud800", ""), b.replace("\ud800", "")) for a, b in rows]
    if suffix == ".parquet":
        pq.write_table(pa.table({"clip_id": [a for a, _ in plain], "path": [b for _, b in plain]}), path)
    elif suffix == ".csv":
        lines = [",".join('"' + part.replace('"', '""') + '"' for part in row) for row in plain]
        path.write_text("\n".join(["clip_id,path", *lines]), encoding="utf-8", newline="")
    else:
        path.write_text("\n".join(b for _, b in plain), encoding="utf-8")
    check(path, folder)


@examples(60)
@given(
    st.lists(st.binary(min_size=1, max_size=12), max_size=4), st.sampled_from([b".mp4", b".png", b""]), st.booleans()
)
def test_files_of_any_name_are_listed(
    tmp_path_factory: pytest.TempPathFactory, raw: list[bytes], suffix: bytes, deep: bool
) -> None:
    root = tmp_path_factory.mktemp("tree")
    (root / "good.avi").write_bytes(b"x")
    place = root / "sub" if deep else root
    place.mkdir(exist_ok=True)
    for name in raw:
        file = os.fsdecode(name.replace(b"\0", b"").replace(b"/", b"_") + suffix)
        if file not in (".", "..", ""):
            (place / file).write_bytes(b"x")
    found = check(root, root.resolve())
    if not any(clips.is_a(file.name, clips.IMAGE_SUFFIXES) for file in root.iterdir()):
        assert "good.avi" in [clip.clip_id for clip in found]


@examples(100)
@given(
    st.lists(
        st.sampled_from(
            ["*", "**", "?", "[a", "[!a]", "a", "b.mp4", "..", ".", "/", "\0", "{a,b}", "x" * 300, "[", "]"]
        ),
        max_size=6,
    )
)
def test_any_glob_is_followed_or_refused(folder: Path, parts: list[str]) -> None:
    tree = folder / "tree"
    if not tree.exists():
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "b.mp4").write_bytes(b"x")
        (tree / "a" / "b" / "up").symlink_to(tree)
        (tree / "a" / "itself").symlink_to(tree / "a" / "itself")
        (tree / "a" / "itself.mp4").symlink_to("itself.mp4")
    inside = [part for part in parts if part not in ("..", "/")]
    for pattern in ("/".join(inside), "".join(inside), "/".join(["a", *inside, "*"])):
        check(tree / pattern, folder)
