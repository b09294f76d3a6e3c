"""Extract without a cluster: what becomes of clips that are hostile, and where their files go."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from infoaug.estimators.video import clips, patches, shots
from infoaug.estimators.video.manifest import find_clips
from infoaug.orchestrator.config import ExperimentConfig, ExtractConfig, load
from infoaug.orchestrator.errors import StageError
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import StageFolder, Store, arrays, file_name
from infoaug.orchestrator.stages import extract, score
from infoaug.orchestrator.synthetic import scenes


def write_clip(folder: Path, size: int = 40) -> Path:
    """A clip of six frames with something to track."""
    folder.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(picture, number, axis=1))
    return folder


def settings(*overrides: str) -> ExperimentConfig:
    sizes = ["extract.spacing=16", "extract.patch_size=16", "extract.image_size=16"]
    return load(None, ["extract.window=4", *sizes, *overrides])


def scanned(place: StageFolder, config: ExperimentConfig, path: Path) -> dict[str, dict[str, Any]]:
    rows = list(map(vars, find_clips(path)))
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
        window
        for name, row in found.items()
        for window in extract._windows(row | {"clip_id": name, "path": str(clip)}, 4)
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
        (820, "extract.spacing=8", r"10404 patches at a spacing of 8 px, more .* set extract\.spacing to 9"),
        (12, "extract.spacing=8", r"no patch of 16 px fits into a frame of 12x12; set extract\.patch_size from 1"),
        (20, "extract.spacing=24", r"no cell of 24 px fits into a frame of 20x20; set extract\.spacing from 1 to 20"),
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


# ---- runs after the first


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips, or windows of clips, that were given to workers. These are this process, and no Ray is started."""
    names: list[str] = []

    def map_rows(rows: Sequence[dict[str, Any]], work: Any, *_: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        names.extend(row.get("clip_id") or row["folder"].rpartition("-")[0] for row in rows)
        yield from zip(rows, work(rows), strict=True)

    monkeypatch.setattr(cluster, "map_rows", map_rows)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    for name in ("connect", "check_shared"):
        monkeypatch.setattr(cluster, name, lambda given: names.append("Ray"))
    return names


def test_a_run_that_finds_all_complete_gives_nothing_to_workers(tmp_path: Path, looked_at: list[str]) -> None:
    for name in ("a", "b", "c"):
        write_clip(tmp_path / "clips" / name)
    shutil.rmtree(tmp_path / "clips" / "b")
    (tmp_path / "clips" / "b.mp4").write_bytes(b"junk")  # fails each time
    config = settings(
        f"clips.path={tmp_path / 'clips'}", "score.min_frames=4", "score.surrogates=0", "score.backend=reference"
    )
    store = Store(str(tmp_path / "store"))

    def run() -> tuple[score.Scored, list[str]]:
        looked_at.clear()
        scored = score.run(config, extract.run(config, store))
        return scored, sorted({*looked_at} - {"Ray"})

    first, looked = run()
    assert looked == ["a", "b.mp4", "c"] and (first.computed, first.extracted.computed) == (2, 2)
    again, looked = run()
    assert looked == ["b.mp4"] and (again.resumed, again.extracted.resumed) == (2, 2)
    (tmp_path / "clips" / "b.mp4").unlink()
    again, looked = run()
    assert looked_at == [] and again.ledger.equals(first.ledger)
    kept = first.extracted.ledger.filter(pc.equal(first.extracted.ledger["status"], "ok"))
    assert again.extracted.ledger.equals(kept)

    os.utime(tmp_path / "clips" / "a" / "3.png")
    again, looked = run()
    assert looked == ["a"] and again.extracted.ledger.equals(kept)
    windows = again.extracted.windows
    store.delete(extract.trajectory_path(again.extracted.stage, *windows[1][1:]))
    store.delete(score.twins_path(again.stage, *windows[0][1:]))
    again, looked = run()
    assert looked == ["a", "c"] and (again.computed, again.extracted.computed) == (1, 1)
    assert again.extracted.ledger.equals(kept) and again.ledger.equals(first.ledger)

    path = again.extracted.stage.path(f"ledger-{extract.clips_digest(config)}.parquet")
    store.write_table(path, kept)  # as earlier versions wrote it
    again, looked = run()
    assert looked == ["a", "c"] and again.extracted.resumed == 2 and again.extracted.ledger.equals(kept)
    write_clip(tmp_path / "clips" / "d")
    extracted = extract.run(config, store)
    with pytest.raises(StageError, match="1 of 3 windows are not scored yet: run `infoaug score`"):
        score.load(config, extracted)


def test_windows_that_fail_later_leave_the_rows_of_the_other_clips_as_they_are(tmp_path: Path) -> None:
    rows = [
        {
            "clip_id": f"{n}.mp4",
            "folder": f"{n}",
            "status": "ok",
            "reason": "",
            "windows": [0, 1],
            "first_frames": [0, 4],
        }
        for n in range(5)
    ]
    ledger = pa.Table.from_pylist(rows, schema=extract.LEDGER)
    whole = extract.Extracted(StageFolder(Store(str(tmp_path)), "extract", {}), ledger, 0, 0)
    left = whole.without({("3", 0): "why", ("1", 0): "why", ("1", 1): "other"})
    assert [*left.windows] == [w for w in whole.windows if w[1:] not in (("3", 0), ("1", 0), ("1", 1))]
    assert left.ledger.filter([True, False, True, False, True]).equals(ledger.filter([True, False, True, False, True]))
    assert left.ledger.column("status").to_pylist() == ["ok", "failed", "ok", "partial", "ok"]
    assert left.ledger.column("reason")[1].as_py() == "window 0: why; window 1: other"
    assert left.ledger.column("first_frames")[3].as_py() == [4]


# ---- patches


def test_spacing_crop_and_image_are_three_settings() -> None:
    frames = np.stack([np.roll(noise(80, 96), t, axis=1) for t in range(4)])

    def columns(spacing: int | None, patch_size: int, image_size: int) -> dict[str, np.ndarray]:
        sizes = {"spacing": spacing, "patch_size": patch_size, "image_size": image_size}
        return extract.extract_window(frames, ExtractConfig(window=4, **sizes))

    found = {sizes: columns(*sizes) for sizes in ((16, 32, 16), (16, 48, 16), (16, 32, 24), (40, 32, 16))}
    first, wider, larger, sparser = found.values()
    assert [len(f["position"]) for f in found.values()] == [30, 30, 30, 4]
    assert all(len(column) == len(f["position"]) for f in found.values() for column in f.values())
    assert np.array_equal(first["position"], wider["position"]) and np.array_equal(first["colour"], wider["colour"])
    assert not np.array_equal(first["crops"], wider["crops"])
    assert larger["crops"].shape[2:] == (24, 24, 3) and sparser["crops"].shape[2:] == (16, 16, 3)
    default, half = columns(None, 32, 16), columns(16, 32, 16)
    assert all(np.array_equal(default[name], half[name]) for name in half)


def test_the_stored_image_shows_the_tracked_point_in_its_middle() -> None:
    frames = np.stack([np.roll(noise(80, 96), t, axis=1) for t in range(4)])
    found = extract.extract_window(frames, ExtractConfig(window=4, spacing=16, patch_size=17, image_size=17))
    at = np.rint(found["position"][:, 0]).astype(int)
    inside = ((at >= 8) & (at <= np.array([96, 80]) - 9)).all(axis=1)
    assert 12 <= inside.sum() < len(at)
    for image, (x, y) in zip(found["crops"][inside, 0], at[inside], strict=True):
        assert np.array_equal(image, frames[0, y - 8 : y + 9, x - 8 : x + 9])
    for image, (x, y) in zip(found["crops"][~inside, 0], at[~inside], strict=True):
        left, top = min(max(x - 8, 0), 96 - 17), min(max(y - 8, 0), 80 - 17)
        assert np.array_equal(image, frames[0, top : top + 17, left : left + 17])


def test_later_crops_show_the_tracked_point_where_it_is_then() -> None:
    picture = noise(80, 160)
    frames = np.stack([picture[:, 3 * t : 3 * t + 96] for t in range(9)])  # all moves left by 3 pixels a frame
    found = extract.extract_window(frames, ExtractConfig(window=9, spacing=16, patch_size=17, image_size=17))
    at, visible, crops = found["crop_frames"], found["visible"], found["crops"]
    assert at.shape == (30, 4) and crops.shape == (30, 4, 17, 17, 3)
    lasting = visible.all(axis=1) & (found["position"][:, -1] >= 9).all(axis=1)  # the crop is in the frame to the end
    assert (at[lasting] == [0, 3, 5, 8]).all() and lasting.sum() >= 10
    alike = np.abs(crops[lasting].astype(int) - crops[lasting][:, :1]).mean(axis=(2, 3, 4))
    fixed = np.abs(frames[[3, 5, 8], 20:60, 20:60].astype(int) - frames[0, 20:60, 20:60]).mean()
    assert np.median(alike[:, 1:]) < 2 < 10 < fixed
    gone = visible.sum(axis=1) < 4
    assert gone.any() and (at[gone, -1] == -1).all() and not crops[gone, -1].any()
    assert (extract.extract_window(frames, ExtractConfig(window=9, crops=1))["crop_frames"] == 0).all()


def test_crops_are_read_back_from_a_window_s_table_as_they_were_cut() -> None:
    frames = np.stack([np.roll(noise(80, 96), 3 * t, axis=1) for t in range(6)])
    found = extract.extract_window(frames, ExtractConfig(window=6, spacing=16, patch_size=32, image_size=16))
    table = extract.trajectories_table("clip", 0, found)
    crops, at = extract.crops_of(table.select(extract.CROPS))
    assert np.array_equal(at, found["crop_frames"]) and np.array_equal(crops, found["crops"][at >= 0])


def test_on_rendered_scenes_the_middle_of_an_image_shows_the_sprite_of_its_point() -> None:
    scene = scenes.render(3, frames=6, sprites=6, height=256, width=384, size=64)
    found = extract.extract_window(scene.frames, ExtractConfig(window=6, spacing=32, patch_size=32, image_size=32))
    points = found["position"][:, 0]
    assert len(points) == 8 * 12
    boxes = patches.crop_boxes(points, 256, 384, 32)
    middle = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    free = ((points >= 16) & (points < np.array([384, 256]) - 16)).all(axis=1)
    far = scene.owner(points[free], margin=2) == scene.owner(points[free], margin=-2)  # from a sprite's edge
    assert far.sum() >= 40
    assert np.array_equal(scene.owner(middle[free][far]), scene.owner(points[free][far]))


def noise(height: int, width: int) -> np.ndarray:
    """u8[H, W, 3] with detail of a few pixels."""
    grain = np.random.default_rng(0).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(grain, (0, 0), 2)
    return np.clip(127 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


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
    place.store.write_json(earlier, {"frames": 6, "fps": 0.0, "width": 40, "height": 40, "cuts": [], "repeats": []})
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
    windows = list(extract._windows(row | {"clip_id": "clip", "path": str(clip)}, 4))
    found = [status["reason"] for status in extract._extract(place, settings().extract, windows)]
    still = "its 4 frames are all the same picture, so there is nothing to track"
    assert found == [still, "", still]


def test_repeated_frames_are_in_no_window_and_in_the_ledger(tmp_path: Path, place: StageFolder) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    tables = []
    for name, shown in (("once", range(8)), ("again", (0, 1, 2, 2, 3, 4, 5, 5, 6, 7))):
        (tmp_path / name).mkdir()
        for number, shift in enumerate(shown):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.roll(picture, shift, axis=1))
        row = scanned(place, settings(), tmp_path / name)[name]
        windows = list(extract._windows(row | {"clip_id": name, "path": str(tmp_path / name)}, 4))
        assert [status["reason"] for status in extract._extract(place, settings().extract, windows)] == ["", ""]
        tables.append([place.store.read_table(extract.trajectory_path(place, row["folder"], w)) for w in (0, 1)])
    assert (row["repeats"], row["first_frames"]) == ([3, 7], [0, 5])
    assert extract._ledger_row(row, {}).keys() >= {"repeats"} and "repeats" in extract.LEDGER.names
    for once, again in zip(*tables, strict=True):
        np.testing.assert_array_equal(arrays(once, "position"), arrays(again, "position"))


def test_a_clip_whose_frames_are_converted_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip")
    ordinary, other = (StageFolder(Store(str(tmp_path / name)), "extract", {}) for name in ("one", "two"))
    assert scanned(ordinary, settings(), clip)["clip"]["folder"] == file_name("clip", clips.digest(clip))
    monkeypatch.setattr(clips, "conversions", lambda path, read_timeout: ["deinterlaced"])
    folder = scanned(other, settings(), clip)["clip"]["folder"]
    assert folder == file_name("clip", clips.digest(clip), "deinterlaced")
