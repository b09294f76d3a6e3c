"""Extract without a cluster: what becomes of clips that are hostile, and where their files go."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from infoaug.estimators.video import clips, shots
from infoaug.estimators.video.manifest import find_clips
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.runtime.store import StageFolder, Store, file_name
from infoaug.orchestrator.stages import extract


def write_clip(folder: Path, size: int = 40) -> Path:
    """A clip of six frames with something to track."""
    folder.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(picture, number, axis=1))
    return folder


def settings(*overrides: str) -> ExperimentConfig:
    return load(None, ["extract.window=4", "extract.patch_size=16", "extract.image_size=16", *overrides])


def scanned(place: StageFolder, config: ExperimentConfig, path: Path) -> dict[str, dict[str, Any]]:
    rows = [{"clip_id": clip.clip_id, "path": clip.path} for clip in find_clips(path)]
    statuses = extract._scan(place, config.extract, rows)
    return {row["clip_id"]: status for row, status in zip(rows, statuses, strict=True)}


def outside(folder: Path) -> set[Path]:
    """All that is in a folder, but not in its store."""
    return {path for path in folder.rglob("*") if not path.is_relative_to(folder / "store")}


@pytest.fixture
def place(tmp_path: Path) -> StageFolder:
    return extract.stage(settings(), Store(str(tmp_path / "store")))


def test_clips_whose_names_lead_elsewhere_leave_nothing_outside_the_store(tmp_path: Path, place: StageFolder) -> None:
    clip = write_clip(tmp_path / "clips" / "one")
    names = ["../../../escaped", str(tmp_path / "absolute"), "..", "a/../../b", "[/red]", "C:\\x", "~", "a\tb"]
    manifest = tmp_path / "clips" / "list.csv"
    manifest.write_text("clip_id,path\n" + "".join(f'"{name}",one\n' for name in names))
    before = outside(tmp_path)
    found = scanned(place, settings(), manifest)
    assert sorted(found) == sorted(names)
    windows = [
        {"clip_id": name, "path": str(clip), "folder": row["folder"], "window": 0, "first": 0}
        for name, row in found.items()
    ]
    assert all(row["reason"] == "" for row in extract._extract(place, settings().extract, windows))
    assert outside(tmp_path) == before
    assert len(place.store.files(place.path("trajectories"))) == len(names)


def test_a_bad_clip_is_a_row_with_its_reason_and_the_others_go_on(tmp_path: Path, place: StageFolder) -> None:
    write_clip(tmp_path / "clips" / "good")
    (tmp_path / "clips" / "junk.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "clips" / "loop.mp4").symlink_to(tmp_path / "clips" / "loop.mp4")
    (tmp_path / "clips" / "up").symlink_to(tmp_path / "clips")
    found = scanned(place, settings(), tmp_path / "clips")
    assert {name for name, row in found.items() if not row["reason"]} == {"good"}
    assert "is no video that can be decoded" in found["junk.mp4"]["reason"]
    assert "levels of symbolic links" in found["loop.mp4"]["reason"]


@pytest.mark.parametrize(
    ("size", "override", "reason"),
    [
        (700, "extract.max_window_mb=5", "4 frames of 700x700 of clip .* would take 6 MiB, more than 5"),
        (820, "extract.patch_size=8", r"a frame of 820x820 has 10404 patches of 8 px, more than 10000"),
        (12, "extract.patch_size=16", "no patch of 16 px fits into a frame of 12x12"),
    ],
)
def test_a_clip_that_is_too_large_or_small_is_refused_after_one_look(
    tmp_path: Path, place: StageFolder, size: int, override: str, reason: str
) -> None:
    write_clip(tmp_path / "clips" / "one", size)
    row = scanned(place, settings(override), tmp_path / "clips" / "one")["one"]
    assert row["first_frames"] == []
    with pytest.raises(ValueError, match=reason):
        raise ValueError(row["reason"])


# ---- a clip that has changed


def folder_of(place: StageFolder, clip: Path) -> str:
    """The folder that a clip's trajectories have in a stage."""
    (row,) = scanned(place, settings(), clip).values()
    assert row["reason"] == ""
    return row["folder"]


def write_raw(path: Path, changed: int | None = None) -> Path:
    """An uncompressed video of 3 MiB; of one of its 250 frames the last line may be changed."""
    picture = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    frames = [np.roll(picture, number, axis=1) for number in range(250)]
    if changed is not None:
        frames[changed][-1] = 0
    chroma = bytes([128]) * (96 * 96 // 2)
    body = b"".join(b"FRAME\n" + frame.tobytes() + chroma for frame in frames)
    path.write_bytes(b"YUV4MPEG2 W96 H96 F25:1 Ip A1:1 C420\n" + body)
    return path


def test_another_frame_in_the_middle_makes_a_folder_another_clip(tmp_path: Path, place: StageFolder) -> None:
    clip = write_clip(tmp_path / "clip")
    first = folder_of(place, clip)
    for number in (2, 3):
        (clip / f"{number}.png").rename(clip / f"{5 - number}.swap")
    for number in (2, 3):  # their sizes are the same
        (clip / f"{number}.swap").rename(clip / f"{number}.png")
    pad(clip / "2.png", clip / "3.png")
    second = folder_of(place, clip)
    assert first != second == folder_of(place, clip)


def pad(one: Path, other: Path) -> None:
    """Make two images equally large: what follows a PNG's end is not read."""
    size = max(one.stat().st_size, other.stat().st_size)
    for path in (one, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))


def test_a_change_in_the_middle_of_a_video_makes_it_another_clip(tmp_path: Path, place: StageFolder) -> None:
    first = folder_of(place, write_raw(tmp_path / "one.y4m"))
    second = folder_of(place, write_raw(tmp_path / "one.y4m", changed=125))
    assert first != second == folder_of(place, tmp_path / "one.y4m")
    third = folder_of(place, write_raw(tmp_path / "one.y4m", changed=126))
    assert third not in (first, second)
    (name,) = place.store.files(place.path("known"))
    place.store.write_bytes(place.path("known", name), b"null")  # is no reason to take it for what it was at first
    assert folder_of(place, tmp_path / "one.y4m") == third


def test_a_clip_that_is_copied_or_touched_is_the_same_clip(
    tmp_path: Path, place: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "a" / "clip")
    first = folder_of(place, clip)
    monkeypatch.setattr(shots, "scan", lambda *given: pytest.fail("scanned again"))
    (clip / "1.png").touch()
    assert folder_of(place, clip) == first
    shutil.copytree(clip, tmp_path / "b" / "clip")
    assert folder_of(place, tmp_path / "b" / "clip") == first


def test_a_known_clip_is_neither_opened_nor_read_again(
    tmp_path: Path, place: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_raw(tmp_path / "one.y4m")
    first = folder_of(place, clip)
    for module, name in ((shots, "scan"), (clips, "content"), (clips, "conversions")):
        monkeypatch.setattr(module, name, lambda *given: pytest.fail("read again"))
    assert folder_of(place, clip) == first


@pytest.mark.parametrize("kind", ["video", "frames"])
def test_an_unchanged_clip_of_an_earlier_version_s_store_is_found(
    tmp_path: Path, place: StageFolder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    clip = write_raw(tmp_path / "one.y4m") if kind == "video" else write_clip(tmp_path / "one")
    folder = file_name(clip.name, clips.digest(clip))
    assert folder_of(place, clip) == folder
    place.store.delete(place.path("known"))  # which earlier versions did not write
    if kind == "video":
        monkeypatch.setattr(shots, "scan", lambda *given: pytest.fail("scanned again"))
    assert folder_of(place, clip) == folder


def test_a_folder_that_an_earlier_version_took_for_a_clip_is_refused(tmp_path: Path, place: StageFolder) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(6):
        mask = np.zeros((40, 40, 3), np.uint8)
        mask[10:20, number : number + 10] = 255
        cv2.imwrite(str(folder / f"{number}.png"), mask)
    earlier = place.path("clips", f"{file_name('masks', clips.digest(folder))}.json")
    place.store.write_json(earlier, {"frames": 6, "fps": 0.0, "width": 40, "height": 40, "cuts": []})
    assert "images are masks" in scanned(place, settings(), folder)["masks"]["reason"]


@pytest.mark.parametrize("kind", ["known", "clips"])
@pytest.mark.parametrize("content", [b"{", b"null", b"[1]", b""])
def test_a_damaged_file_of_what_is_known_of_a_clip_is_written_again(
    tmp_path: Path, place: StageFolder, kind: str, content: bytes
) -> None:
    clip = write_clip(tmp_path / "clip")
    folder_of(place, clip)
    (name,) = place.store.files(place.path(kind))
    place.store.write_bytes(place.path(kind, name), content)
    again = folder_of(place, clip)
    assert folder_of(place, clip) == again
    assert place.store.read_json(place.path("clips", f"{again}.json"))["frames"] == 6


# ---- what is no data


def test_a_window_whose_frames_do_not_differ_is_a_reason(tmp_path: Path, place: StageFolder) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for number in range(12):  # a window that stands still, one that moves, and one that stands still again
        cv2.imwrite(str(clip / f"{number}.png"), np.roll(picture, min(max(number - 3, 0), 4), axis=1))
    row = scanned(place, settings(), clip)["clip"]
    windows = [
        {"clip_id": "clip", "path": str(clip), "folder": row["folder"], "window": w, "first": first}
        for w, first in enumerate(row["first_frames"])
    ]
    found = [status["reason"] for status in extract._extract(place, settings().extract, windows)]
    still = "its 4 frames are all the same picture, so there is nothing to track"
    assert found == [still, "", still]


def test_a_clip_whose_frames_are_converted_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip")
    ordinary, other = (StageFolder(Store(str(tmp_path / name)), "extract", {}) for name in ("one", "two"))
    assert scanned(ordinary, settings(), clip)["clip"]["folder"] == file_name("clip", clips.digest(clip))
    monkeypatch.setattr(clips, "conversions", lambda path, read_timeout: ["deinterlaced"])
    folder = scanned(other, settings(), clip)["clip"]["folder"]
    assert folder == file_name("clip", clips.digest(clip), "deinterlaced")
