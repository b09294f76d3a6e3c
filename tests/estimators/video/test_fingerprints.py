"""A changed clip is found: quickly by what the disk says of its files, exactly by their bytes."""

import os
import shutil
import time
from pathlib import Path

import cv2
import pytest

from infoaug.estimators.video import fingerprints
from infoaug.estimators.video.clips import ClipError, content, digest, signature
from tests.estimators.video.test_clips import numbered, write_folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "clip", numbered(5), "{}.bmp")


def replace_middle(clip: Path) -> None:
    size = (clip / "2.bmp").stat().st_size
    cv2.imwrite(str(clip / "2.bmp"), numbered(9)[8])
    assert (clip / "2.bmp").stat().st_size == size


def test_another_middle_frame_of_the_same_size_changes_content_and_signature_not_the_digest(clip: Path) -> None:
    before = digest(clip), signature(clip), content(clip)
    assert before == (digest(clip), signature(clip), content(clip))
    replace_middle(clip)
    after = digest(clip), signature(clip), content(clip)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_a_tool_that_sets_the_time_back_is_found_out(clip: Path) -> None:
    status, before = (clip / "2.bmp").stat(), signature(clip)
    time.sleep(0.02)  # a tick of the file system's clock
    replace_middle(clip)
    os.utime(clip / "2.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert signature(clip) != before


def test_a_copy_has_another_signature_and_the_same_content(clip: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(clip, tmp_path / "other")
    assert (signature(copied) == signature(clip), content(copied) == content(clip)) == (False, True)


def test_two_names_that_change_places_change_the_content(clip: Path) -> None:
    before = content(clip)
    for old, new in (("1", "x"), ("2", "1"), ("x", "2")):
        (clip / f"{old}.bmp").rename(clip / f"{new}.bmp")
    assert content(clip) != before


def test_every_byte_of_a_long_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_AT_ONCE", 1 << 20)
    data = bytearray(3 << 20)
    (tmp_path / "a.avi").write_bytes(data)
    before = digest(tmp_path / "a.avi"), content(tmp_path / "a.avi")
    data[3 << 19] = 1
    (tmp_path / "a.avi").write_bytes(data)
    assert digest(tmp_path / "a.avi") == before[0]
    assert content(tmp_path / "a.avi") != before[1]


def test_a_clip_that_is_not_there_is_named(tmp_path: Path) -> None:
    for use in (signature, content):
        with pytest.raises(ClipError, match=r"clip .*none\.avi does not exist"):
            use(tmp_path / "none.avi")
