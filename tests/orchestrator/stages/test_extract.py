"""Extract without a cluster: what becomes of clips that are hostile, and where their files go."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from infoaug.estimators.video import clips
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


def test_a_clip_whose_frames_are_converted_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, place = write_clip(tmp_path / "clip"), StageFolder(Store(str(tmp_path / "store")), "extract", {})
    ordinary = scanned(place, settings(), clip)["clip"]["folder"]
    assert ordinary == file_name("clip", clips.digest(clip))
    monkeypatch.setattr(clips, "conversions", lambda path, read_timeout: ["deinterlaced"])
    assert scanned(place, settings(), clip)["clip"]["folder"] not in ("", ordinary)
