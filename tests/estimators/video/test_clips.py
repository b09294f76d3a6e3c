"""Clips are found, decoded exactly, scanned for shot cuts and cut into windows."""

import dataclasses
import inspect
import shutil
import struct
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.estimators.video import clips
from infoaug.estimators.video.clips import ClipError, Reader, digest, read_clip
from infoaug.estimators.video.manifest import Clip, find_clips
from infoaug.estimators.video.shots import scan, windows


def numbered(count: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frames u8[T, H, W, 3] RGB of a smooth picture that moves; every frame tells its number in its first pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    t = np.arange(count)[:, None, None]
    planes = [127 + 100 * np.sin((x + 2 * t) / 9), 127 + 100 * np.cos((y + t) / 7), 90 + 0 * t + x]
    frames = np.stack(planes, axis=-1).astype(np.uint8)
    frames[:, 0, 0] = np.arange(count)[:, None] * (1, 2, 3) % 256
    return frames


def textured(seed: int, count: int, size: tuple[int, int] = (72, 128)) -> np.ndarray:
    """Frames u8[T, H, W, 3] of a coloured random texture under a fast pan."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 12, (size[1] + 5 * count) // 12 + 1, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (size[1] + 5 * count, size[0]), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 5 * t : 5 * t + size[1]] for t in range(count)])


def write_video(path: Path, frames: np.ndarray, fps: float = 12.5, code: str = "FFV1") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), fps, frames.shape[2:0:-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def write_folder(path: Path, frames: np.ndarray, pattern: str = "{:05d}.png") -> Path:
    path.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(path / pattern.format(number)), frame[..., ::-1])
    return path


def with_uneven_times(video: Path, target: Path, later: float) -> Path:
    """Copy an MP4 so that frames of its second half last `later` times as long; the film ends when it did before."""
    data = bytearray(video.read_bytes())
    start, end, chain = 0, len(data), []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        while data[start + 4 : start + 8] != kind:
            start += struct.unpack_from(">I", data, start)[0]
            assert start < end
        chain.append(start)
        start += 8
    count, length = struct.unpack_from(">II", data, chain[-1] + 16)
    table = struct.pack(">IIIII", 2, count // 2, length, count - count // 2, round(later * length))
    data[chain[-1] + 12 : chain[-1] + 24] = table
    for box in chain:
        struct.pack_into(">I", data, box, struct.unpack_from(">I", data, box)[0] + 8)
    target.write_bytes(data)
    return target


# ---- finding


def test_a_tree_of_videos_and_frame_folders_is_listed_by_relative_name(tmp_path):
    (tmp_path / "b").mkdir()
    write_video(tmp_path / "z.avi", numbered(2))
    write_video(tmp_path / "b" / "one.avi", numbered(2))
    write_folder(tmp_path / "a" / "frames", numbered(2))
    (tmp_path / "notes.md").write_text("not a clip")
    (tmp_path / "._z.avi").write_bytes(b"left by a desktop")
    assert [clip.clip_id for clip in find_clips(tmp_path)] == ["a/frames", "b/one.avi", "z.avi"]
    assert find_clips(tmp_path)[0].path == str(tmp_path / "a" / "frames")


def test_a_single_video_and_a_single_frame_folder_are_clips_of_their_own_name(tmp_path):
    video = write_video(tmp_path / "one.avi", numbered(2))
    folder = write_folder(tmp_path / "frames", numbered(2))
    assert find_clips(video) == [Clip("one.avi", str(video))]
    assert find_clips(folder) == [Clip("frames", str(folder))]


def test_a_glob_lists_what_it_matches_relative_to_its_fixed_part(tmp_path):
    write_video(tmp_path / "a1.avi", numbered(2))
    write_video(tmp_path / "b1.avi", numbered(2))
    write_folder(tmp_path / "a2", numbered(2))
    assert [clip.clip_id for clip in find_clips(tmp_path / "a*")] == ["a1.avi", "a2"]


def test_a_glob_passes_over_hidden_folders_and_previews_that_it_does_not_name(tmp_path):
    for name in ("a", ".trash", "@eaDir", "__MACOSX"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "one.avi", numbered(2))
    assert [clip.clip_id for clip in find_clips(tmp_path / "**" / "*.avi")] == ["a/one.avi"]
    assert [clip.clip_id for clip in find_clips(tmp_path / "*")] == ["a/one.avi"]
    assert [clip.clip_id for clip in find_clips(tmp_path / ".trash" / "*.avi")] == ["one.avi"]


def test_links_are_followed_and_a_circle_of_links_ends(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "set").mkdir()
    write_video(tmp_path / "store" / "one.avi", numbered(2))
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "set")
    assert [clip.clip_id for clip in find_clips(tmp_path / "set")] == ["linked/one.avi"]


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_a_manifest_lists_paths_relative_to_itself(tmp_path, kind):
    manifest = tmp_path / f"clips.{kind}"
    if kind == "txt":
        manifest.write_text("# two clips\nsub/b.avi\n\n/elsewhere/a.avi\n")
    elif kind == "csv":
        manifest.write_text("path,clip_id\nsub/b.avi,\n/elsewhere/a.avi,\n")
    else:
        pq.write_table(pa.table({"path": ["sub/b.avi", "/elsewhere/a.avi"]}), manifest)
    assert find_clips(manifest) == [
        Clip("/elsewhere/a.avi", "/elsewhere/a.avi"),
        Clip("sub/b.avi", str(tmp_path / "sub" / "b.avi")),
    ]


def test_a_manifest_can_name_its_clips_but_not_twice_the_same(tmp_path):
    manifest = tmp_path / "clips.csv"
    manifest.write_text("clip_id,path\nfirst,x/a.avi\nsecond,y/a.avi\n")
    assert [clip.clip_id for clip in find_clips(manifest)] == ["first", "second"]
    manifest.write_text("clip_id,path\nsame,x/a.avi\nsame,y/a.avi\n")
    with pytest.raises(ClipError, match=r"'same'.*make clip_id unique"):
        find_clips(manifest)


def test_a_manifest_row_without_a_path_is_refused(tmp_path):
    (tmp_path / "clips.csv").write_text("file\na.avi\n")
    with pytest.raises(ClipError, match="column 'path'"):
        find_clips(tmp_path / "clips.csv")


@pytest.mark.parametrize("name", ["missing", "empty", "*.avi", "one.png"])
def test_nothing_to_find_is_an_error_that_names_the_path(tmp_path, name):
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "one.png"), numbered(1)[0])
    with pytest.raises(ClipError, match=name.replace("*", r"\*")):
        find_clips(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clips.txt", b"\xff\xfea\0"),
        ("clips.csv", b"path\n\xff\n"),
        ("clips.csv", b'path\n"' + b"a\n" * 100_000),
        ("clips.parquet", b"PAR1PAR1"),
        ("clips.parquet", b""),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError, match=rf"manifest .*{name} cannot be read \(.+\); save it as UTF-8"):
        find_clips(tmp_path / name)


def test_a_manifest_of_other_things_than_texts_is_refused(tmp_path):
    for values in ([1, 2], [b"a.avi"], [["a.avi"]]):
        pq.write_table(pa.table({"path": values}), tmp_path / "clips.parquet")
        with pytest.raises(ClipError, match="in the column 'path', as text"):
            find_clips(tmp_path / "clips.parquet")


def test_a_glob_that_is_none_is_named(tmp_path):
    with pytest.raises(ClipError, match=r"a\*\* cannot be searched for clips"):
        find_clips(tmp_path / "a**")


def test_a_tree_too_deep_to_be_searched_is_named(tmp_path):
    (tmp_path / "/".join("d" * 300)).mkdir(parents=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        with pytest.raises(ClipError, match=r"contains no clip|cannot be searched"):
            find_clips(tmp_path)
    finally:
        sys.setrecursionlimit(limit)


# ---- fingerprints


def test_a_digest_depends_on_content_not_on_place(tmp_path):
    video = write_video(tmp_path / "one.avi", numbered(3))
    folder = write_folder(tmp_path / "frames", numbered(3))
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(video, tmp_path / "moved" / "other.avi")
    copied = shutil.copytree(folder, tmp_path / "moved" / "frames")
    assert digest(video) == digest(moved) != digest(folder) == digest(copied)
    assert len(digest(video)) == 16
    cv2.imwrite(str(copied / "00002.png"), numbered(9)[8])
    assert digest(copied) != digest(folder)
    Path(moved).write_bytes(video.read_bytes()[:-1] + b"?")
    assert digest(moved) != digest(video)
    with pytest.raises(ClipError, match="does not exist"):
        digest(tmp_path / "missing.avi")


def test_a_digest_sees_a_change_at_the_end_of_a_long_file_and_in_the_last_frame(tmp_path):
    (tmp_path / "long.avi").write_bytes(bytes(3 << 20))
    before = digest(tmp_path / "long.avi")
    (tmp_path / "long.avi").write_bytes(bytes((3 << 20) - 1) + b"?")
    assert digest(tmp_path / "long.avi") != before
    folder = write_folder(tmp_path / "frames", numbered(3), "{}.bmp")
    before = digest(folder)
    cv2.imwrite(str(folder / "2.bmp"), numbered(9)[8])
    assert digest(folder) != before


# ---- decoding


def test_a_lossless_video_decodes_to_the_frames_written(tmp_path):
    frames = numbered(20)
    path = write_video(tmp_path / "one.avi", frames)
    # FFV1 stores luma and chroma, so colours are rounded; the order of the channels and frames is exact.
    assert np.abs(read_clip(path).astype(int) - frames)[:, 2:, 2:].mean() < 3
    assert read_clip(path, 5, 7).shape == (7, 48, 64, 3)
    assert np.array_equal(read_clip(path, 5, 7), read_clip(path)[5:12])


def test_a_folder_of_png_decodes_exactly_and_in_natural_order(tmp_path):
    frames = numbered(12)
    path = write_folder(tmp_path / "frames", frames, "frame{}.png")
    assert np.array_equal(read_clip(path), frames)
    assert np.array_equal(read_clip(path, 9, 3), frames[9:])


def test_grey_deep_and_transparent_images_become_rgb_bytes(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    cv2.imwrite(str(path / "0.png"), np.full((4, 6), 200, np.uint8))
    cv2.imwrite(str(path / "1.png"), np.full((4, 6), 200 * 257, np.uint16))
    cv2.imwrite(str(path / "2.png"), np.full((4, 6, 4), (10, 20, 30, 128), np.uint8))
    cv2.imwrite(str(path / "3.tiff"), np.full((4, 6, 3), (10 * 257, 20 * 257, 30 * 257), np.uint16))
    frames = read_clip(path)
    assert frames.dtype == np.uint8
    assert frames[:, 1, 1].tolist() == [[200] * 3, [200] * 3, [30, 20, 10], [30, 20, 10]]


@pytest.mark.parametrize("code", ["FFV1", "MJPG", "mp4v"])
def test_any_order_of_reads_gives_the_frames_of_a_sequential_pass(tmp_path, code):
    path = write_video(tmp_path / ("one.mp4" if code == "mp4v" else "one.avi"), numbered(600), code=code)
    whole = read_clip(path)
    with Reader(path) as reader:
        for first, count in [(0, 4), (4, 4), (20, 3), (500, 5), (2, 2), (590, 10), (301, 2), (0, 1)]:
            assert np.array_equal(reader.read(first, count), whole[first : first + count]), first


def test_a_video_of_varying_frame_rate_is_read_exactly_too(tmp_path):
    steady = write_video(tmp_path / "steady.mp4", numbered(900), code="mp4v")
    path = with_uneven_times(steady, tmp_path / "uneven.mp4", 3)
    whole = read_clip(path)
    assert len(whole) > 500
    at_a_steady_rate = cv2.VideoCapture(str(path))
    at_a_steady_rate.set(cv2.CAP_PROP_POS_FRAMES, 480)
    ok, frame = at_a_steady_rate.read()
    assert not ok or not np.array_equal(frame[..., ::-1], whole[480]), "a seek at a steady rate is exact: no test"
    with Reader(path) as reader:
        for first in (480, 100, 470):
            assert np.array_equal(reader.read(first, 2), whole[first : first + 2])


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    """Videos of small frames with the frames of a sequential pass; times are uneven in the last two of five.

    All but the last have 900 frames; of that, some are hidden by its edit list.
    """
    folder = tmp_path_factory.mktemp("long")
    steady = write_video(folder / "steady.mp4", numbered(900), code="mp4v")
    intra = write_video(folder / "intra.avi", numbered(900), code="MJPG")
    webm = write_video(folder / "one.webm", numbered(900), code="VP80")
    uneven = with_uneven_times(steady, folder / "uneven.mp4", 0.7)
    hidden = with_uneven_times(steady, folder / "hidden.mp4", 3)
    found = [(path, read_clip(path)) for path in (steady, intra, webm, uneven, hidden)]
    assert [len(whole) == 900 for _, whole in found] == [True] * 4 + [False]
    return found


@settings(max_examples=25)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 899), st.integers(1, 12)), min_size=1, max_size=5))
def test_reads_in_any_order_and_overlap_equal_a_sequential_pass(long_clips, which, reads):
    path, whole = long_clips[which]
    with Reader(path) as reader:
        for first, count in reads:
            first %= len(whole)
            count = min(count, len(whole) - first)
            assert np.array_equal(reader.read(first, count), whole[first : first + count])


@pytest.mark.parametrize("which", range(4))
def test_a_seek_far_into_a_video_decodes_a_small_part_of_it(long_clips, which, monkeypatch):
    path, whole = long_clips[which]
    with Reader(path) as reader:
        monkeypatch.setattr(reader, "_restart", lambda: pytest.fail("decoded from the start again"))
        for first in (700, 300, 890):
            assert np.array_equal(reader.read(first, 10), whole[first : first + 10])


def decoded(reader: Reader, monkeypatch) -> list[int]:
    """Have the reader note the numbers of the frames that it decodes."""
    numbers: list[int] = []
    decode = reader._decode

    def spy():
        numbers.append(reader._next)
        return decode()

    monkeypatch.setattr(reader, "_decode", spy)
    return numbers


@pytest.mark.parametrize("kind", ["video", "folder"])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 7), (4, 9)])
def test_windows_in_order_decode_each_frame_once(tmp_path, monkeypatch, kind, length, stride):
    write = {"video": write_video, "folder": write_folder}[kind]
    path = write(tmp_path / "one.avi", numbered(40))
    whole = read_clip(path)
    firsts = windows(40, [], length, stride)
    with Reader(path) as reader:
        numbers = decoded(reader, monkeypatch)
        taken = [reader.read(first, length) for first in firsts]
    for first, frames in zip(firsts, taken, strict=True):
        assert np.array_equal(frames, whole[first : first + length])
    assert numbers == sorted({number for first in firsts for number in range(first, first + length)})


def test_a_window_cannot_be_written_to_as_the_next_may_share_its_frames(tmp_path):
    path = write_video(tmp_path / "one.avi", numbered(20))
    with Reader(path) as reader:
        first, inside, to_the_end = reader.read(0, 10), reader.read(4, 3), reader.read(8)
    for window in (first, inside, to_the_end):
        with pytest.raises(ValueError, match="read-only"):
            window[0] = 0
    assert np.array_equal(np.concatenate([first[:8], to_the_end]), read_clip(path))
    assert np.array_equal(inside, first[4:7])
    read_clip(path)[:] = 0


@pytest.mark.parametrize("numbers", [[], [-1, 0], [3, 3], [5, 4]])
def test_numbers_of_frames_that_do_not_ascend_are_refused(tmp_path, numbers):
    with Reader(write_video(tmp_path / "one.avi", numbered(6))) as reader, pytest.raises(ValueError, match="ascend"):
        reader.take(numbers)


@pytest.mark.parametrize("count", [None, 4])
def test_a_window_is_let_go_before_one_that_does_not_overlap_it_is_read(tmp_path, monkeypatch, count):
    with Reader(write_video(tmp_path / "one.avi", numbered(20))) as reader:
        kept = weakref.ref(reader.read(0, 8))
        decode = reader._decode
        alive = []
        monkeypatch.setattr(reader, "_decode", lambda: alive.append(kept() is not None) or decode())
        reader.read(8, count)
    assert alive and not any(alive)


def test_a_decoder_that_goes_astray_after_a_seek_is_not_believed(long_clips, monkeypatch):
    path, whole = long_clips[3]
    frame_index = clips.frame_index

    def lacks_a_frame(*file):
        index = frame_index(*file)
        return dataclasses.replace(index, times=np.delete(index.times, 705))

    monkeypatch.setattr(clips, "frame_index", lacks_a_frame)
    with Reader(path) as reader:
        assert np.array_equal(reader.read(700, 10), whole[700:710])
        assert np.array_equal(reader.read(400, 3), whole[400:403])


def test_frames_that_cannot_be_identified_by_their_times_are_counted_from_the_start(long_clips, monkeypatch):
    path, whole = long_clips[0]
    monkeypatch.setattr(clips, "frame_index", lambda *file: None)
    with Reader(path) as reader:
        for first in (600, 5, 400):
            assert np.array_equal(reader.read(first, 2), whole[first : first + 2])


def test_asking_too_far_after_a_seek_still_tells_the_true_length(long_clips):
    for path, whole in long_clips:
        with Reader(path) as reader:
            assert np.array_equal(reader.read(590), whole[590:])
            reader.read(300, 2)
            with pytest.raises(ClipError, match=f"has {len(whole)} frames, asked for 890 to 909"):
                reader.read(890, 20)


@pytest.mark.parametrize("first", [0, 8, 10, 900])
def test_asking_for_more_frames_than_there_are_says_how_many_there_are(tmp_path, first):
    video = write_video(tmp_path / "one.avi", numbered(10))
    folder = write_folder(tmp_path / "frames", numbered(10))
    for path in (video, folder):
        with pytest.raises(ClipError, match=rf"{path.name} has 10 frames, asked for {first} to {first + 19}"):
            read_clip(path, first, 20)


@pytest.mark.parametrize("kind", ["video", "folder"])
@pytest.mark.parametrize(("step", "first"), [(1, 0), (7, 0), (7, 14), (7, 5), (400, 0), (3, 60)])
def test_every_nth_frame_is_that_of_a_sequential_pass(tmp_path, kind, step, first):
    frames = numbered(40)
    path = write_video(tmp_path / "a.avi", frames) if kind == "video" else write_folder(tmp_path / "a", frames)
    with Reader(path) as reader:
        assert reader.announced == 40
        found = [(number, frame) for number, frame in reader.every(step, first)]
    assert [number for number, _ in found] == [*range(first, 40, step)]
    assert all(np.array_equal(frame, frames[number]) for number, frame in found)


def test_frames_that_change_size_are_refused(tmp_path):
    folder = write_folder(tmp_path / "frames", numbered(3))
    cv2.imwrite(str(folder / "00001.png"), numbered(1, (48, 60))[0])
    for use in (read_clip, scan):
        with pytest.raises(ClipError, match="changes size at frame 1 from 64x48 to 60x48"):
            use(folder)


def test_clips_that_cannot_be_decoded_are_errors_without_noise(tmp_path, capfd):
    video = write_video(tmp_path / "one.mp4", numbered(30), code="mp4v")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:900])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0.png").write_bytes(b"no image")
    (tmp_path / "bare").mkdir()
    capfd.readouterr()
    for name in ("cut.mp4", "empty.mp4", "frames", "bare", "missing.mp4"):
        with pytest.raises(ClipError, match=name):
            scan(tmp_path / name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_window_that_takes_more_than_it_may_is_refused_before_it_is_allocated(tmp_path, monkeypatch, kind):
    path = {"video": write_video, "folder": write_folder}[kind](tmp_path / "one.avi", numbered(20))
    allowed = 10 * 48 * 64 * 3
    assert read_clip(path, 0, 10, max_bytes=allowed).shape == (10, 48, 64, 3)
    told = r"frames of 64x48 of clip .*one\.avi would take 0 MiB, more than 0; resize the clip, or set extract\.window"
    with Reader(path, allowed) as reader:
        assert reader.read(4, 10).shape[0] == 10
        empty = np.empty
        monkeypatch.setattr(np, "empty", lambda shape, kind: empty(shape, kind) if 0 in shape else pytest.fail("room"))
        for first, count in ((0, 11), (5, 11)):
            with pytest.raises(ClipError, match=f"{count} {told}"):
                reader.read(first, count)
        with pytest.raises(ClipError, match=f"11 {told}"):
            reader.read(0)
    assert sum(1 for _ in Reader(path, allowed).frames()) == 20
    with pytest.raises(ClipError, match="a frame of 64x48"), Reader(path, 48 * 64 * 3 - 1) as reader:
        reader.read(0, 1)


def test_frames_that_only_a_header_has_are_not_made_room_for(tmp_path, monkeypatch):
    path = tmp_path / "announced.y4m"
    path.write_bytes(b"YUV4MPEG2 W16000 H16000 F25:1 Ip A0:0 C420\nFRAME\n" + bytes(1000))
    monkeypatch.setattr(Reader, "_decode", lambda reader: pytest.fail("decoded"))
    with pytest.raises(ClipError, match=r"48 frames of 16000x16000 of clip .* would take 35156 MiB, more than 4096"):
        read_clip(path, 0, 48)


def test_a_list_of_videos_is_not_taken_for_one(tmp_path):
    write_video(tmp_path / "one.avi", numbered(3))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\n" + "file one.avi\n" * 50)
    with pytest.raises(ClipError, match=r"list\.mp4 is a list of other videos"):
        scan(tmp_path / "list.mp4")


def test_an_opencv_error_names_the_clip_and_its_own_reason(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "frames", numbered(3))
    with pytest.raises(cv2.error):  # OpenCV keeps the text of its last error on the class
        cv2.cvtColor(np.empty((0, 0, 3), np.uint8), cv2.COLOR_BGR2RGB)

    def fails(*given):
        raise cv2.error("Image is too large")

    monkeypatch.setattr(cv2, "imdecode", fails)
    for use in (read_clip, scan):
        with pytest.raises(ClipError, match=r"clip .*frames cannot be decoded \(Image is too large\)"):
            use(folder)


def test_an_opencv_error_is_told_without_the_place_in_its_source(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "frames", numbered(3))
    monkeypatch.setattr(cv2, "imdecode", lambda *given: cv2.cvtColor(np.empty((0, 0, 3), np.uint8), cv2.COLOR_BGR2RGB))
    with pytest.raises(ClipError, match=r"cannot be decoded \(\(-215:"):
        scan(folder)


# ---- scanning


def test_a_scan_tells_true_length_rate_and_size(tmp_path):
    seen = scan(write_video(tmp_path / "one.avi", numbered(30)))
    assert (seen.frames, seen.fps, seen.width, seen.height, seen.cuts) == (30, 12.5, 64, 48, [])
    assert scan(write_folder(tmp_path / "frames", numbered(7))).fps == 0.0


def test_hard_cuts_are_found_and_a_fast_pan_is_not_one(tmp_path):
    shots = [textured(seed, count) for seed, count in enumerate((20, 9, 31))]
    assert scan(write_video(tmp_path / "cuts.avi", np.concatenate(shots))).cuts == [20, 29]
    assert scan(write_video(tmp_path / "pan.avi", textured(5, 60))).cuts == []


def test_a_flash_and_a_fade_are_not_cuts(tmp_path):
    flash = textured(1, 40)
    flash[20:22] = 255
    assert scan(write_folder(tmp_path / "flash", flash)).cuts == []
    fade = np.repeat(np.arange(0, 240, 8, dtype=np.uint8), 72 * 128 * 3).reshape(30, 72, 128, 3)
    assert scan(write_folder(tmp_path / "fade", fade)).cuts == []


# ---- windows


def test_windows_start_anew_after_a_cut():
    assert windows(100, [], 48) == [0, 48]
    assert windows(100, [30], 20) == [0, 30, 50, 70]
    assert windows(10, [], 4, stride=3) == [0, 3, 6]
    assert windows(3, [], 4) == []
    with pytest.raises(ValueError, match="at least 1"):
        windows(10, [], 0)


@given(st.integers(0, 200), st.lists(st.integers(0, 220), max_size=6), st.integers(1, 30), st.integers(1, 30))
def test_no_window_holds_a_cut_or_leaves_the_clip(frames, cuts, length, stride):
    firsts = windows(frames, cuts, length, stride)
    assert firsts == sorted(set(firsts))
    for first in firsts:
        assert 0 <= first <= frames - length
        assert not any(first < cut < first + length for cut in cuts)
