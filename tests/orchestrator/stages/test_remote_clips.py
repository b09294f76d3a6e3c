"""Clips at URLs: what is found is what a local folder gives, read by whom needs it, and no clip stops the others."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pyarrow import fs

from infoaug.estimators.video.clip_files import ClipError
from infoaug.estimators.video.manifest import find_clips
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.reporting import inspection
from infoaug.orchestrator.runtime import remote
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, remote_clips
from tests.s3_server import BUCKET, Server

SIZES = ["extract.window=4", "extract.spacing=16", "extract.patch_size=16", "extract.image_size=16"]


@pytest.fixture(autouse=True)
def own_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of many kinds: two folders of frames, two videos, and what is no clip."""
    root = tmp_path / "videos"
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for clip in ("deep/frames", "other frames"):
        (root / clip).mkdir(parents=True)
        for number in range(6):
            cv2.imwrite(str(root / clip / f"{number}.png"), np.roll(picture, number, axis=1))
    for name in ("a b.avi", "deep/c.avi"):
        writer = cv2.VideoWriter(str(root / name), cv2.VideoWriter.fourcc(*"MJPG"), 25, (40, 40))
        for number in range(6):
            writer.write(np.roll(picture, number, axis=0))
        writer.release()
    for name in ("notes.txt", ".hidden/x.mp4", "@eaDir/x.mp4", "deep/poster.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture
def url(folder: Path, s3: Server) -> str:
    """The same at a URL."""
    put(s3, folder, "videos")
    return s3.url("videos")


def put(s3: Server, what: Path, name: str) -> None:
    fs.copy_files(str(what), f"{BUCKET}/{name}", destination_filesystem=s3._system())


def within(url: str, path: str) -> str:
    """The URL of something in a folder."""
    return url.replace("/videos?", f"/videos/{path}?")


def settings(store: Path) -> ExperimentConfig:
    return load(None, [*SIZES, f"store={store}"])


def extracted(config: ExperimentConfig, path: str) -> tuple[dict[str, Any], StageFolder]:
    """The scans of clips, and the stage that has their windows; in this process."""
    place = extract.stage(config, Store(config.store))
    rows = list(map(vars, remote_clips.find_clips(path)))
    scans = [row | status for row, status in zip(rows, extract._scan(place, config.extract, rows), strict=True)]
    windows = [window for scan in scans for window in extract._windows(scan, config.extract.window)]
    assert [row["reason"] for row in extract._extract(place, config.extract, windows)] == [""] * len(windows)
    return {scan["clip_id"]: scan for scan in scans}, place


def contents(place: StageFolder) -> dict[str, bytes]:
    files = place.store.files(place.path("trajectories"))
    return {name: place.store.read_bytes(place.path("trajectories", name)) for name in files}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The objects whose bytes are read from now on."""
    found: list[str] = []
    plain = remote.Remote.copy

    def copy(place: remote.Remote, path: str, to: Path) -> None:
        found.append(path)
        plain(place, path, to)

    monkeypatch.setattr(remote.Remote, "copy", copy)
    yield found


def test_a_url_has_the_clips_that_a_folder_has(folder: Path, url: str) -> None:
    for what in ("", "deep", "deep/frames", "a b.avi", "*/*.avi", "**/*s", "d*", "?eep/c.avi", "[!d]*"):
        here = find_clips(folder / what)
        there = remote_clips.find_clips(within(url, what))
        assert [clip.clip_id for clip in there] == [clip.clip_id for clip in here], what
        paths = [clip.path.partition("?")[0].partition("/videos/")[2] for clip in there]
        assert paths == [str(Path(clip.path).relative_to(folder)) for clip in here], what
        assert [remote_clips.state(clip.path) for clip in there] == [clip.state for clip in there], "as it was listed"


def test_a_clip_from_a_url_gives_the_same_files_and_is_read_once(
    url: str, folder: Path, tmp_path: Path, read: list[str]
) -> None:
    config = settings(tmp_path / "there")
    scans, place = extracted(config, url)
    assert all(not scan["reason"] and len(scan["first_frames"]) == 1 for scan in scans.values()) and len(scans) == 4
    assert len(read) == len(set(read)) == 2 + 12, "one copy for the scan and for all windows"
    assert contents(place) == contents(extracted(settings(tmp_path / "here"), str(folder))[1])
    shutil.rmtree(tmp_path / "tmp")
    known, _ = extracted(load(None, [*SIZES, f"store={tmp_path / 'there'}", "extract.window=6"]), url)
    assert {scan["frames"] for scan in known.values()} == {6}
    shutil.rmtree(tmp_path / "tmp")
    read.clear()
    rows = list(map(vars, remote_clips.find_clips(url)))
    again = list(extract._scan(place, config.extract, rows))
    assert [row["folder"] for row in again] == [scan["folder"] for scan in scans.values()]
    assert read == [] and not (tmp_path / "tmp").exists(), "what is known is not read"


def test_a_clip_that_is_missing_or_has_changed_costs_itself_alone(
    url: str, folder: Path, s3: Server, tmp_path: Path
) -> None:
    manifest = tmp_path / "clips.csv"
    rows = [("deep/c.avi", "good"), ("gone.avi", "gone"), ("deep", "no clip"), ("notes.txt", "no video")]
    manifest.write_text("path,clip_id\n" + "".join(f"{within(url, path)},{name}\n" for path, name in rows))
    config = settings(tmp_path / "store")
    scans, place = extracted(config, str(manifest))
    put(s3, folder / "notes.txt", "videos/deep/c.avi")
    windows = list(extract._windows(scans["good"], 4))
    shutil.rmtree(tmp_path / "tmp")
    (changed,) = extract._extract(place, config.extract, windows)
    reasons = {name: scan["reason"] for name, scan in scans.items()} | {"changed": changed["reason"]}
    start = f"s3://{BUCKET}/videos"
    assert reasons["good"] == ""
    assert reasons["gone"] == f"{start}/gone.avi does not exist; check the URL, or the manifest that names it"
    assert reasons["changed"] == f"{start}/deep/c.avi was written to while it was read; run the same command again"
    assert f"clip {start}/notes.txt is no video" in reasons["no video"]
    assert f"frame {start}/deep/poster.png cannot be decoded" in reasons["no clip"]
    with pytest.raises(UsageError, match=rf"'?{start}/notes\.txt"):
        inspection.inspect_window(within(url, "notes.txt"), 0, config)


def test_a_manifest_at_a_url_names_clips_beside_it_and_elsewhere(url: str, s3: Server, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("../a b.avi\nother frames\n/local/x.mp4\nhf://datasets/me/mine/x.mp4\n")
    put(s3, tmp_path / "list.txt", "videos/lists/list.txt")
    found = {clip.clip_id: clip.path for clip in remote_clips.find_clips(within(url, "lists/list.txt"))}
    assert found == {
        "../a b.avi": within(url, "a b.avi"),
        "other frames": within(url, "lists/other frames"),
        "/local/x.mp4": "/local/x.mp4",
        "hf://datasets/me/mine/x.mp4": "hf://datasets/me/mine/x.mp4",
    }


def test_what_cannot_be_listed_is_one_sentence_before_work_starts(url: str, s3: Server) -> None:
    for path, why in {
        s3.url("x", bucket="no-such-bucket"): "s3://no-such-bucket/x does not exist; check the URL",
        within(url, "gone"): f"s3://{BUCKET}/videos/gone does not exist; check the URL",
        within(url, "*.mkv"): "contains no clip",
        within(url, "deep/frames/0.png"): "is a single image",
        "https://example.org/a.mp4": "the storage 'https://example.org' cannot be opened: Unrecognized filesystem type",
        "s3://KEY:SECRET@bucket/a.mp4?region=x": r"s3://\*\*\*@bucket/a.mp4.* holds a password or a key; leave it out",
    }.items():
        with pytest.raises(UsageError, match=why) as told:
            extract.check(load(None, [f"clips.path='{path}'"]))
        assert "\n" not in str(told.value) and ":SECRET" not in str(told.value)


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", ClipError, "set credentials"),
        (
            "When reading 'network/x': AWS Error ACCESS_DENIED during GetObject operation",
            ClipError,
            "set credentials",
        ),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", StageError, "run the same command"),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", StageError, "run the same command"),
        ("AWS Error INVALID_OBJECT_STATE for key 'network/x': the object is archived", ClipError, "leave it out"),
    ],
)
def test_a_storage_that_is_away_stops_the_run_and_an_object_that_is_refused_does_not(
    said: str, kind: type[Exception], remedy: str
) -> None:
    place, path = remote.opened("s3://bucket/a.mp4?region=us-east-1")
    with pytest.raises(kind, match=remedy) as told, place._as_stage_error("read", path):
        raise OSError(said)
    assert str(told.value).startswith("cannot read s3://bucket/a.mp4") and "\n" not in str(told.value)


def test_a_request_that_fails_once_is_repeated(
    url: str, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    plain = remote.Remote.copy

    def copy(place: remote.Remote, path: str, to: Path) -> None:
        if path not in failed:
            failed.append(path)
            to.write_bytes(b"a part of it")
            raise StageError("curlCode: 43")
        plain(place, path, to)

    monkeypatch.setattr(remote.Remote, "copy", copy)
    monkeypatch.setattr(remote, "_WAITS", (0,))
    extracted(settings(tmp_path / "store"), within(url, "deep"))
    assert sorted(read) == sorted(failed) and len(read) == 1 + 6


def test_storages_of_fsspec_are_read_too() -> None:
    system, root = fs.FileSystem.from_uri("fsspec+memory://bucket")
    for name in ("a.mp4", "b/c.mp4"):
        with system.open_output_stream(f"{root}/{name}") as stream:
            stream.write(name.encode())
    first, second = remote_clips.find_clips("fsspec+memory://bucket/")
    with remote_clips.local_copy(second.path, second.state, 1) as copy:
        assert Path(copy).read_bytes() == b"b/c.mp4" and Path(copy).parts[-2:] == ("b", "c.mp4")
    with system.open_output_stream(f"{root}/a.mp4") as stream:
        stream.write(b"A.mp4")
    assert remote_clips.state(first.path) != first.state, "of the same size"
