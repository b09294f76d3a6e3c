"""What lies on a disk under a clip's name: it is told apart, or refused at once for what it is."""

import os
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest

from infoaug.estimators.video.clip_files import ClipError, is_folder
from infoaug.estimators.video.clips import digest, read_clip
from infoaug.estimators.video.frame_folders import frames_of
from infoaug.estimators.video.manifest import find_clips
from infoaug.estimators.video.shots import scan


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    return folder


def make(kind: str, path: Path) -> None:
    """Something that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            here = Path.cwd()
            os.chdir(path.parent)  # the path of a socket may have no more than about 100 characters
            bound.bind(path.name)
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(path.parent / "absent")
    else:
        path.symlink_to(path)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to itself", "link to nothing"])
def test_a_clip_that_is_no_regular_file_is_refused_and_does_not_stop_the_others(tmp_path: Path, kind: str) -> None:
    good, bad = tmp_path / "good.avi", tmp_path / "bad.avi"
    good.write_bytes(b"x")
    make(kind, bad)
    assert [clip.clip_id for clip in find_clips(tmp_path)] == ["bad.avi", "good.avi"]
    for use in (digest, scan, read_clip):
        with pytest.raises(ClipError, match=r"bad\.avi .*(neither a regular file|not exist|levels of symbolic links)"):
            use(bad)
    assert digest(good)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to itself", "link to nothing", "folder"])
def test_a_frame_that_is_no_regular_file_is_refused(images: Path, kind: str) -> None:
    make(kind, images / "1b.png")
    for use in (digest, scan, read_clip):
        with pytest.raises(ClipError, match=r"frame .*1b\.png is not a regular file; remove it"):
            use(images)


def test_frames_and_clips_behind_links_are_read(images: Path, tmp_path: Path) -> None:
    (images / "3.png").symlink_to(images / "0.png")
    (tmp_path / "linked").symlink_to(images)
    assert [frame.name for frame in frames_of(tmp_path / "linked")] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(read_clip(tmp_path / "linked")) == 4
    assert is_folder(tmp_path / "linked")


def test_a_name_that_is_not_utf8_is_listed_and_the_clip_says_why_it_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "good.avi").write_bytes(b"x")
    (tmp_path / os.fsdecode(b"caf\xe9.avi")).write_bytes(b"x")
    bad, good = find_clips(tmp_path)
    assert (bad.clip_id, good.clip_id) == ("caf\\xe9.avi", "good.avi")
    bad.path.encode()
    with pytest.raises(ClipError, match=r"caf\\xe9\.avi has a name that is not UTF-8; rename it"):
        digest(bad.path)


@pytest.mark.parametrize("name", ["a\0b.avi", "x" * 300 + ".avi", "y/" * 3000 + "a.avi"])
def test_a_name_that_no_file_can_have_is_a_clip_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClipError, match=r"clip .* (does not exist|cannot be read)"):
        digest(tmp_path / name)
    with pytest.raises(ClipError, match=r"does not exist|cannot be searched"):
        find_clips(tmp_path / name)


def test_the_words_about_a_clip_are_one_printable_line() -> None:
    words = str(ClipError("clip a\nb\x1b[2J " + "x" * 5000 + " does not exist; rename it"))
    assert words.startswith(r"clip a b\x1b[2J xxx")
    assert words.endswith("does not exist; rename it")
    assert words.isprintable()
    assert len(words) < 1500
