"""Video files: pixels equal OpenCV's, seeks are exact in every kind of stream, and other files are not opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.stream import VideoStream

from infoaug.estimators.video.clips import ClipError, Reader, conversions, read_clip
from infoaug.estimators.video.shots import scan
from infoaug.estimators.video.video_file import VideoFile, frame_index
from tests.estimators.video.test_clips import numbered, textured, write_video

SIZE = (96, 128)


def panned(count: int, seed: int = 0) -> np.ndarray:
    """Frames u8[T, 96, 128, 3] of a coloured texture under a pan."""
    return textured(seed, count, SIZE)


def encode(path: Path, codec: str, frames: np.ndarray, options: dict[str, str] | None = None, **stream: Any) -> Path:
    """Write a video with FFmpeg's encoder; skip the test if this PyAV lacks it."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode with {codec}")
    with av.open(str(path), "w") as container:
        video: VideoStream = container.add_stream(codec, rate=25, options=options or {})
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        if "aspect" in stream:
            video.codec_context.sample_aspect_ratio = stream["aspect"]
        if "rotation" in stream:
            video.set_display_rotation(stream["rotation"])
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(video.encode())
    return path


def by_opencv(path: Path) -> Iterator[np.ndarray]:
    """Decode a video with OpenCV's VideoCapture: frames u8[H, W, 3] BGR."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while (read := capture.read())[0]:
        yield read[1]


def sound(path: Path, codec: str, picture: bytes = b"") -> Path:
    """Write a second of silence, with a cover picture if given."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=44100)
        cover = container.add_stream("mjpeg") if picture else None
        if cover is not None:
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            container.start_encoding()
            packet = av.Packet(picture)
            packet.stream = cover
            packet.pts = packet.dts = 0
            container.mux(packet)
        for _ in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


# ---- pixels


@pytest.mark.parametrize(
    ("name", "code"),
    [("a.avi", "FFV1"), ("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.webm", "VP80"), ("a.wmv", "WMV2"), ("a.flv", "FLV1")],
)
@pytest.mark.parametrize("size", [(48, 64), (50, 70)])
def test_pixels_are_those_of_opencv(tmp_path, name, code, size):
    path = write_video(tmp_path / name, numbered(12, size), code=code)
    with Reader(path) as reader:
        ours = list(reader.frames())
    theirs = list(by_opencv(path))
    assert len(ours) == 12
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_video_recorded_with_the_camera_turned_is_upright_as_with_opencv(tmp_path, rotation):
    path = encode(tmp_path / "turned.mp4", "mpeg4", panned(4), rotation=rotation)
    frames = read_clip(path)
    assert frames.shape == ((4, *SIZE, 3) if rotation == 180 else (4, *SIZE[::-1], 3))
    assert np.array_equal(frames[..., ::-1], list(by_opencv(path)))
    straight = read_clip(encode(tmp_path / "straight.mp4", "mpeg4", panned(4)))
    assert np.array_equal(frames, np.rot90(straight, rotation // 90, axes=(1, 2)))


@pytest.mark.parametrize(("aspect", "width"), [((2, 1), 256), ((1, 2), 64), ((200, 201), 128), ((1000, 1), 128)])
def test_pixels_become_square_unless_the_file_says_nonsense(tmp_path, aspect, width):
    path = encode(tmp_path / "wide.mp4", "mpeg4", panned(3), aspect=Fraction(*aspect))
    assert scan(path).width == width
    frames = read_clip(path)
    assert frames.shape == (3, SIZE[0], width, 3)
    plain = read_clip(encode(tmp_path / "plain.mp4", "mpeg4", panned(3)))
    stretched = np.stack([cv2.resize(frame, (width, SIZE[0]), interpolation=cv2.INTER_AREA) for frame in plain])
    assert np.abs(frames.astype(int) - stretched).mean() < 10


def test_a_frame_wider_than_its_pixels_counts_as_wide_before_it_is_decoded(tmp_path):
    path = encode(tmp_path / "wide.mp4", "mpeg4", panned(3), aspect=Fraction(2))
    with pytest.raises(ClipError, match="256x96"):
        Reader(path, max_bytes=3 * SIZE[0] * SIZE[1])


# ---- interlaced


INTERLACED = {
    "mpeg2video": {"flags": "+ildct+ilme", "g": "8", "b": "4M"},
    "libx264": {"x264-params": "tff=1:keyint=8:bframes=0:scenecut=0:crf=12:log=-1"},
}


@pytest.fixture(scope="module", params=INTERLACED)
def interlaced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An interlaced video of a pan, and the pan at the time of every field: u8[2T, H, W, 3]."""
    # Grey: an encoder of 4:2:0 mixes the colours of neighbouring lines.
    fields = np.repeat(panned(60).mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8)
    path = tmp_path_factory.mktemp("interlaced") / "tv.ts"
    return encode(path, request.param, woven(fields), INTERLACED[request.param]), fields


def woven(fields: np.ndarray) -> np.ndarray:
    """Frames whose even and odd lines are of two times: u8[T, H, W, 3]."""
    frames = fields[::2].copy()
    frames[:, 1::2] = fields[1::2, 1::2]
    return frames


def test_an_interlaced_video_shows_one_moment_a_frame(interlaced):
    path, fields = interlaced
    frames = read_clip(path)
    assert frames.shape == fields[::2].shape

    def error(shown: np.ndarray, moments: np.ndarray) -> float:
        return float(np.abs(shown.astype(int) - moments)[2:-2, 8:-8, 16:-16].mean())

    # The encoder says which field comes first.
    first_field = min((fields[::2], fields[1::2]), key=lambda moments: error(frames, moments))
    assert error(frames, first_field) < 0.5 * error(woven(fields), first_field)


def test_what_is_done_to_frames_is_named_and_nothing_for_an_ordinary_clip(interlaced, tmp_path):
    assert conversions(interlaced[0]) == ["deinterlaced"]
    assert conversions(encode(tmp_path / "wide.mp4", "mpeg4", panned(3), aspect=Fraction(2))) == ["square pixels"]
    assert conversions(encode(tmp_path / "plain.mp4", "mpeg4", panned(3))) == []
    cv2.imwrite(str(tmp_path / "0.png"), panned(1)[0])
    assert conversions(tmp_path) == []


def test_interlaced_frames_do_not_depend_on_where_reading_began(interlaced):
    path, _ = interlaced
    whole = read_clip(path)
    with VideoFile(path) as video:
        index = frame_index(str(path), 0, 0)
        assert index is not None
        for first in (29, 8, 1, 16, 17):
            number = video.seek(index, first)
            assert number is not None and number < first
            while number < first:
                assert video.grab()
                number += 1
            assert np.array_equal(video.image()[..., ::-1], whole[first])


# ---- seeks


X264_REFRESH = {"x264-params": "intra-refresh=1:keyint=40:bframes=0:log=-1"}
X264_OPEN = {"x264-params": "open-gop=1:keyint=30:bframes=3:b-pyramid=2:scenecut=0:log=-1"}
X265_OPEN = {"x265-params": "open-gop=1:keyint=30:bframes=4:log-level=none"}
STREAMS = {
    "open.mp4": ("libx264", X264_OPEN),
    "open.mkv": ("libx264", X264_OPEN),
    "open.ts": ("libx264", X264_OPEN),
    "refresh.mp4": ("libx264", X264_REFRESH),
    "refresh.ts": ("libx264", X264_REFRESH),
    "hevc.mkv": ("libx265", X265_OPEN),
    "untimed.avi": ("libx264", {"x264-params": "keyint=30:bframes=3:log=-1"}),
    "b.mpg": ("mpeg2video", {"bf": "2", "g": "15"}),
    "b.avi": ("mpeg4", {"bf": "2", "g": "15"}),
    "hidden.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "60", "b": "200k"}),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_seek_gives_the_frames_of_a_sequential_pass(tmp_path, monkeypatch, name):
    codec, options = STREAMS[name]
    path = encode(tmp_path / name, codec, panned(160), options)
    whole = read_clip(path)
    assert len(whole) == 160
    monkeypatch.setattr("infoaug.estimators.video.clips._SEEK_BEYOND", 0)
    with Reader(path) as reader:
        for first in (*range(157, 1, -13), 0, 90):
            assert np.array_equal(reader.read(first, 2), whole[first : first + 2]), first


def test_a_stream_refreshed_part_by_part_is_decoded_from_its_one_complete_picture(tmp_path):
    path = encode(tmp_path / "refresh.mp4", "libx264", panned(160), X264_REFRESH)
    index = frame_index(str(path), 0, 0)
    assert index is not None
    assert index.keys[:, 0].tolist() == [index.times[0]]


@contextmanager
def as_scheduled() -> Iterator[None]:
    """Put the scheduling of this thread back: SVT-AV1's encoder gives it real-time priority where it may, as root,
    and all tests that follow would starve what runs beside them."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def test_av1_is_decoded(tmp_path):
    frames = panned(6)
    with as_scheduled():
        path = encode(tmp_path / "one.mp4", "libsvtav1", frames, {"preset": "12"})
    assert np.abs(read_clip(path).astype(int) - frames).mean() < 12


# ---- damaged


def with_damage(video: Path, target: Path, number: int, flipped: int | None) -> Path:
    """Copy a video with two bytes of a packet flipped, or with the whole packet set to zero."""
    with av.open(str(video)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        assert packet.pos is not None
        content = bytearray(video.read_bytes())
        at = packet.pos + packet.size // 2
        if flipped is None:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
        else:
            content[at] ^= flipped
            content[at + 1] ^= 0x77
    target.write_bytes(content)
    return target


GROUPS = {"x264-params": "keyint=30:bframes=3:scenecut=0:log=-1"}
DAMAGED = {
    "flipped.mp4": ("libx264", GROUPS, 0x55),
    "gone.mp4": ("libx264", GROUPS, None),
    "flipped.mpg": ("mpeg2video", {"bf": "2", "g": "15"}, 0x55),
    "flipped.avi": ("mpeg4", {"g": "15"}, 0x55),
    "gone.avi": ("mpeg4", {"g": "15"}, None),
    "left-out.mkv": ("libx265", {"x265-params": "keyint=30:log-level=none"}, 0x55),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_window_that_is_decoded_with_errors_is_refused_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    codec, options, flipped = DAMAGED[name]
    whole = encode(tmp_path / f"whole{name[-4:]}", codec, panned(90), options)
    path = with_damage(whole, tmp_path / name, 40, flipped)
    frames, length = read_clip(whole), scan(path).frames
    assert length > 60
    with Reader(path) as reader:
        assert np.array_equal(reader.read(0, 30), frames[:30])
        for first, count in ((30, 15), (36, 8), (20, 40)):
            with pytest.raises(ClipError, match=rf"clip .*{name} is damaged at frame \d\d: it is decoded with errors"):
                reader.read(first, count)
        assert np.array_equal(reader.read(length - 20, 20), frames[-20:])


def test_of_every_nth_frame_those_that_are_decoded_with_errors_are_named_and_the_others_given(tmp_path: Path) -> None:
    codec, options, flipped = DAMAGED["flipped.mp4"]
    whole = encode(tmp_path / "whole.mp4", codec, panned(90), options)
    path = with_damage(whole, tmp_path / "a.mp4", 40, flipped)
    frames = read_clip(whole)
    with Reader(path) as reader:
        found = dict(reader.every(5))
    assert [*found] == [*range(0, 90, 5)]
    damaged = [number for number, frame in found.items() if isinstance(frame, ClipError)]
    assert damaged and 30 <= damaged[0] <= 45 and damaged[-1] <= 60
    assert f"damaged at frame {damaged[0]}" in str(found[damaged[0]])
    assert all(np.array_equal(frame, frames[n]) for n, frame in found.items() if n not in damaged)


def test_no_frame_of_a_whole_video_counts_as_damaged(tmp_path: Path) -> None:
    for name, (codec, options) in STREAMS.items():
        if name != "hidden.webm":  # slow
            with VideoFile(encode(tmp_path / name, codec, panned(70), options)) as video:
                while video.grab():
                    assert not video.is_damaged, name


# ---- several streams


def with_streams(path: Path, sizes: list[tuple[int, int]], default: int | None) -> Path:
    """Write a video of several streams, of which one may be marked as default."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, (height, width) in enumerate(sizes):
            stream: VideoStream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition(int(number == default))
            streams.append(stream)
        for stream, size in zip(streams, sizes, strict=True):
            for frame in textured(0, 3, size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "default", "shown", "special"),
    [
        ("a.mkv", None, (96, 128), ["stream 1"]),
        ("a.avi", None, (96, 128), ["stream 1"]),
        ("a.mkv", 0, (48, 64), []),
        ("a.mkv", 1, (96, 128), []),
        ("a.mp4", 1, (96, 128), []),
    ],
)
def test_of_two_streams_the_default_one_is_read_or_else_the_larger(
    tmp_path: Path, name: str, default: int | None, shown: tuple[int, int], special: list[str]
) -> None:
    path = with_streams(tmp_path / name, [(48, 64), (96, 128)], default)
    assert read_clip(path).shape == (3, *shown, 3)
    assert conversions(path) == special


def test_of_streams_of_one_size_the_first_is_read(tmp_path: Path) -> None:
    path = with_streams(tmp_path / "a.mkv", [(96, 128), (48, 64), (96, 128)], None)
    assert (scan(path).width, conversions(path)) == (128, [])


# ---- refused


def test_sound_alone_and_sound_with_a_cover_are_refused(tmp_path):
    picture = cv2.imencode(".jpg", numbered(1)[0])[1].tobytes()
    with pytest.raises(ClipError, match=r"plain\.m4v is no video"):
        Reader(sound(tmp_path / "plain.m4v", "aac"))
    with pytest.raises(ClipError, match=r"song\.mp4 is sound with a cover picture"):
        Reader(sound(tmp_path / "song.mp4", "aac", picture))


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {video}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
def test_no_file_makes_the_reader_open_another_or_a_network_address(tmp_path, content):
    video = write_video(tmp_path / "one.ts", numbered(3), code="mp4v")
    path = tmp_path / "list.ts"
    path.write_text(content.format(video=video.name))
    with pytest.raises(ClipError, match=r"list\.ts is"):
        Reader(path)


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "one.avi", numbered(3)).rename("tcp:1%d.avi")
    assert len(read_clip("tcp:1%d.avi")) == 3


def test_frames_that_change_size_are_refused(tmp_path):
    path = tmp_path / "grows.ts"
    small = encode(tmp_path / "small.ts", "mpeg2video", panned(4))
    large = encode(tmp_path / "large.ts", "mpeg2video", textured(0, 4, (192, 256)))
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(ClipError, match=r"changes size at frame [34] from 128x96 to 256x192"):
        scan(path)
    with pytest.raises(ClipError, match=r"changes size|damaged"):  # the container counts the seam as damage
        read_clip(path)
