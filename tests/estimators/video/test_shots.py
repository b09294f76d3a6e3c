"""Frames that a clip shows twice are found from their pixels, and windows leave them out."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoaug.estimators.video.clips import Reader, read_clip
from infoaug.estimators.video.shots import numbers, scan, windows
from tests.estimators.video.test_clips import decoded, numbered, textured, write_folder, write_video

SIZE = (96, 128)
PULLDOWN = [4 * t + part for t in range(8) for part in (0, 1, 2, 3, 3)]  # 24 to 30 frames a second
TWOS = [t for t in range(20) for _ in range(2)]
ROUGH = [0, *(t for t in range(1, 8) for _ in range(6)), 8]  # 10 to 60 frames a second
STUTTER = [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 10, 10, 13, 14, 15, 16, 17, 17, 19]


def repeated(shown: list[int]) -> list[int]:
    """Numbers of the frames that show the one before once more."""
    return [t for t in range(1, len(shown)) if shown[t] == shown[t - 1]]


def sprite(count: int) -> np.ndarray:
    """Frames u8[T, H, W, 3] of a still picture on which one square of 16 pixels moves by 1 or 2 pixels a frame."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(60, 190, (1, *SIZE, 3), dtype=np.uint8), count, axis=0)
    texture, place = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), 20
    for frame in frames:
        place += int(rng.integers(1, 3))
        frame[30:46, place : place + 16] = texture
    return frames


def noisy(frames: np.ndarray, by: float = 3.0) -> np.ndarray:
    return np.clip(frames + by * np.random.default_rng(1).normal(size=frames.shape), 0, 255).astype(np.uint8)


def compressed(path: Path, frames: np.ndarray, crf: int) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("shown", [PULLDOWN, TWOS, ROUGH, STUTTER])
@pytest.mark.parametrize("picture", [sprite, lambda count: textured(3, count, SIZE)], ids=["one sprite", "a pan"])
def test_frames_that_are_shown_again_are_found(tmp_path, shown, picture):
    frames = picture(max(shown) + 1)
    assert scan(write_video(tmp_path / "again.avi", frames[shown])).repeats == repeated(shown)
    assert scan(write_folder(tmp_path / "once", frames)).repeats == []


@pytest.mark.parametrize("crf", [18, 28])
def test_compression_hides_no_repeat_and_makes_none(tmp_path, crf):
    frames = noisy(textured(3, 32, SIZE))
    assert scan(compressed(tmp_path / "again.mp4", frames[PULLDOWN], crf)).repeats == repeated(PULLDOWN)
    assert scan(compressed(tmp_path / "once.mp4", frames, crf)).repeats == []


def test_a_scene_at_rest_loses_no_frame(tmp_path):
    still = np.repeat(textured(1, 1, SIZE), 40, axis=0)
    assert scan(write_video(tmp_path / "equal.avi", still)).repeats == []
    assert scan(write_video(tmp_path / "noise.avi", noisy(still))).repeats == []
    assert scan(compressed(tmp_path / "coded.mp4", noisy(still), 28)).repeats == []


def test_what_rests_for_a_while_is_not_repeated(tmp_path):
    moves = textured(3, 30, SIZE)
    pause = [*range(12), *[11] * 6, *range(12, 24)]
    assert scan(write_video(tmp_path / "pause.avi", moves[pause])).repeats == []
    ends = [0, 0, 0, *range(24), 23, 23]
    assert scan(write_video(tmp_path / "ends.avi", moves[ends])).repeats == []


def test_a_rest_before_a_cut_is_not_repeated(tmp_path):
    before, after = textured(3, 20, SIZE), textured(4, 20, SIZE)
    seen = scan(write_video(tmp_path / "cut.avi", np.concatenate([before, before[[-1, -1]], after])))
    assert (seen.cuts, seen.repeats) == ([22], [])


def test_windows_count_frames_that_are_not_repeated():
    again = repeated(PULLDOWN)
    assert windows(40, [], 16, repeats=again) == [0, 20]
    assert numbers(20, 16, 40, [], again) == [t for t in range(20, 40) if t not in again]
    assert windows(40, [], 16, stride=4, repeats=again) == [0, 5, 10, 15, 20]


def test_a_shot_that_is_long_enough_only_with_its_repeats_gives_one_shorter_window():
    again = repeated(PULLDOWN)
    assert windows(40, [], 40, repeats=again) == [0]
    assert numbers(0, 40, 40, [], again) == [t for t in range(40) if t not in again]
    assert windows(39, [], 40, repeats=again) == []
    assert windows(60, [], 50, repeats=range(20, 60)) == []


@given(st.integers(1, 120), st.lists(st.integers(0, 140), max_size=4), st.integers(1, 20), st.sets(st.integers(1, 120)))
def test_no_window_holds_a_repeat_or_a_cut(frames, cuts, length, again):
    firsts = windows(frames, cuts, length, 3, again)
    for first in firsts:
        window = numbers(first, length, frames, cuts, again)
        assert window[0] == first and window[-1] < frames and not set(window) & again
        assert not any(first < cut <= window[-1] for cut in cuts)
        assert len(window) == length or firsts.count(first) == 1
    assert firsts == sorted(set(firsts))


@pytest.mark.parametrize("write", [write_video, write_folder])
def test_a_reader_leaves_frames_out_and_decodes_those_of_overlapping_windows_once(tmp_path, monkeypatch, write):
    path, skip = write(tmp_path / "one.avi", numbered(40)), {4, 9, 10, 19, 20, 31}
    whole = read_clip(path)
    firsts = windows(40, [], 8, 3, skip)
    with Reader(path) as reader:
        seen = decoded(reader, monkeypatch)
        expected = [numbers(first, 8, 40, [], skip) for first in firsts]
        taken = [reader.take(window) for window in expected]
    for frames, window in zip(taken, expected, strict=True):
        assert np.array_equal(frames, whole[window])
    assert seen == sorted({number for window in expected for number in window})


def test_windows_that_leave_other_frames_out_do_not_share_theirs(tmp_path):
    path = write_video(tmp_path / "one.avi", numbered(30))
    whole = read_clip(path)
    with Reader(path) as reader:
        for left_out, window in ((5, range(11)), (None, range(4, 14)), (12, range(6, 17))):
            taken = [number for number in window if number != left_out]
            assert np.array_equal(reader.take(taken), whole[taken])
