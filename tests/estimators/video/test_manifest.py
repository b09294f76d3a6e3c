"""Lists of clips: what is read, what is refused by name, and which images are no clip."""

from pathlib import Path

import cv2
import pytest

from infoaug.estimators.video.clips import ClipError
from infoaug.estimators.video.manifest import Clip, find_clips
from tests.estimators.video.test_clips import numbered


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


# ---- manifests


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clips.lst", "# two\nb.avi\n\nsub/a.avi\n"),
        ("clips.tsv", "clip_id\tpath\n\tsub/a.avi\n\tb.avi\n"),
        ("clips.jsonl", '{"path": "b.avi", "label": 3}\n\n{"path": "sub/a.avi"}\n'),
        ("CLIPS.TXT", "b.avi\nsub/a.avi\n"),
    ],
)
def test_a_manifest_of_any_kind_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = [Clip("b.avi", str(tmp_path / "b.avi")), Clip("sub/a.avi", str(tmp_path / "sub/a.avi"))]
    assert find_clips(tmp_path / name) == found


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("clips.csv", "file,label\na.avi,1\n", "'file', 'label'"),
        ("clips.csv", "path;clip_id\na.avi;x\n", "'path;clip_id'"),
        ("clips.csv", "a.avi\nb.avi\n", "'a.avi'"),
        ("clips.tsv", "path,clip_id\na.avi,x\n", "'path,clip_id'"),
        ("clips.jsonl", '{"video": "a.avi"}\n', "'video'"),
    ],
)
def test_a_manifest_without_paths_names_the_columns_that_it_has(
    tmp_path: Path, name: str, text: str, columns: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ClipError, match=rf"{name} has no column 'path', only {columns}; "):
        find_clips(tmp_path / name)


def test_a_parquet_manifest_without_paths_names_the_columns_that_it_has(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"video": ["a.avi"], "label": [1]}), tmp_path / "clips.parquet")
    with pytest.raises(ClipError, match=r"no column 'path', only 'video', 'label'; "):
        find_clips(tmp_path / "clips.parquet")


@pytest.mark.parametrize("line", ["[1]", "3", "{"])
def test_a_line_of_json_that_is_no_clip_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "clips.jsonl").write_text(line)
    with pytest.raises(ClipError, match=r"clips\.jsonl cannot be read"):
        find_clips(tmp_path / "clips.jsonl")


def test_a_repeated_row_counts_once_and_one_name_for_two_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.txt").write_text("a.avi\nb.avi\na.avi\n./a.avi\n")
    assert [clip.clip_id for clip in find_clips(tmp_path / "clips.txt")] == ["a.avi", "b.avi"]
    (tmp_path / "clips.csv").write_text("path,clip_id\na.avi,x\nb.avi,x\n")
    with pytest.raises(ClipError, match="make clip_id unique"):
        find_clips(tmp_path / "clips.csv")


@pytest.mark.parametrize("name", ["clips.json", "clips.xlsx", "clips.zip", "clips.tar.gz", "clips.YAML"])
def test_a_list_or_an_archive_that_is_not_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(ClipError, match=rf"{name} is neither a video nor a list that can be read; unpack it, or list"):
        find_clips(tmp_path / name)


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    touch(home, "videos/a.avi", "b.avi")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert find_clips("~/videos") == [Clip("a.avi", str(home / "videos/a.avi"))]
    assert [clip.path for clip in find_clips("~/*.avi")] == [str(home / "b.avi")]
    (tmp_path / "clips.txt").write_text("~/b.avi\n")
    assert find_clips(tmp_path / "clips.txt") == [Clip("~/b.avi", str(home / "b.avi"))]
    with pytest.raises(ClipError, match=r"~nobody.here"):
        find_clips("~nobody.here/videos")
    touch(tmp_path, "~/videos/c.avi")
    assert [clip.clip_id for clip in find_clips("~/videos")] == ["c.avi"]


# ---- images beside videos


@pytest.mark.parametrize(
    "images",
    [["poster.jpg"], ["a.jpg", "b.jpg"], ["a001.jpg", "a002.jpg", "a003.jpg"], ["cover1.png", "cover2.png"]],
    ids=["one poster", "a preview of each", "previews named as the videos", "two covers"],
)
def test_posters_and_previews_beside_videos_are_no_clip(tmp_path: Path, images: list[str]) -> None:
    videos = [image.replace(".jpg", ".mp4") for image in images if image.startswith(("a", "b"))] or ["v.mp4"]
    touch(tmp_path, *videos, *images)
    assert [clip.clip_id for clip in find_clips(tmp_path)] == sorted(videos)


def test_a_lone_image_above_clips_is_no_clip_and_frames_beside_a_video_are_one(tmp_path: Path) -> None:
    touch(tmp_path, "set/cover.jpg", "set/one/a.mp4", "set/two/0.jpg", "set/two/1.jpg", "set/lone/0.jpg")
    assert [clip.clip_id for clip in find_clips(tmp_path / "set")] == ["lone", "one/a.mp4", "two"]
    touch(tmp_path, "both/made.mp4", *(f"both/{number:03d}.png" for number in range(5)))
    assert [clip.clip_id for clip in find_clips(tmp_path / "both")] == ["both", "made.mp4"]


@pytest.mark.parametrize("folder", ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found", ".thumbs"])
def test_what_a_disk_keeps_beside_the_clips_is_none(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, "a.mp4", f"{folder}/a.mp4", f"{folder}/a/0.jpg", f"{folder}/a/1.jpg", "._a.mp4")
    assert [clip.clip_id for clip in find_clips(tmp_path)] == ["a.mp4"]


def test_videos_of_cameras_discs_and_broadcast_are_found_in_a_folder(tmp_path: Path) -> None:
    names = ["a.asf", "b.VOB", "c.mxf", "d.qt", "e.divx", "f.m2v", "g.dv", "h.f4v"]
    for name in [*names, "notes.doc"]:
        (tmp_path / name).touch()
    assert [clip.clip_id for clip in find_clips(tmp_path)] == names


def test_a_folder_with_one_image_is_a_clip_that_is_too_short(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), numbered(1)[0])
    assert len(find_clips(tmp_path)) == 1
