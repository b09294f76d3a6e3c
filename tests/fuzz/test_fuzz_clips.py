"""Clips: damaged videos, frames and folders are read as far as they go, or refused in one sentence that names them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.clip_process import ClipProcess
from tests.fuzz.hostile import check_sentence, examples, nearly

VIDEOS = {
    "one.mp4": "mp4v",
    "motion.avi": "MJPG",
    "lossless.mkv": "FFV1",
    "one.webm": "VP80",
    "one.flv": "FLV1",
    "one.wmv": "WMV2",
    "one.mpg": "PIM1",
}
IMAGES = (".bmp", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".webp")


def frames(count: int) -> np.ndarray:
    """Frames u8[T, 32, 48, 3] of a smooth picture that moves."""
    y, x, t = np.mgrid[:32, :48, :count]
    planes = [127 + 100 * np.sin((x + 2 * t) / 9), 127 + 100 * np.cos((y + t) / 7), 90 + x]
    return np.moveaxis(np.stack(planes, axis=-1), 2, 0).astype(np.uint8)


def whole_videos(folder: Path) -> list[tuple[str, bytes]]:
    """Small videos of several kinds: names and bytes."""
    found = []
    for name, code in VIDEOS.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*code), 25, (48, 32))
        if not writer.isOpened():
            continue  # this OpenCV cannot make one
        for frame in frames(12):
            writer.write(frame)
        writer.release()
        found.append((name, (folder / name).read_bytes()))
    first, *others = (Image.fromarray(frame) for frame in frames(5))
    first.save(folder / "one.gif", save_all=True, append_images=others, loop=0)
    found.append(("one.gif", (folder / "one.gif").read_bytes()))
    planes = b"".join(b"FRAME\n" + frame[..., 0].tobytes() + bytes(32 * 48 // 2) for frame in frames(3))
    found.append(("one.y4m", b"YUV4MPEG2 W48 H32 F25:1 Ip A0:0 C420\n" + planes))
    return found


def whole_images() -> list[tuple[str, bytes]]:
    picture = frames(1)[0]
    made = [(suffix, cv2.imencode(suffix, picture[..., 0] if suffix == ".pgm" else picture)[1]) for suffix in IMAGES]
    return [(suffix, content.tobytes()) for suffix, content in made]


@pytest.fixture(scope="module")
def process() -> Iterator[ClipProcess]:
    child = ClipProcess()
    yield child
    child.stop()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    found = whole_videos(tmp_path_factory.mktemp("whole"))
    assert len(found) >= 4, "this OpenCV makes hardly any video"
    return found


@pytest.fixture(scope="module")
def check(process: ClipProcess) -> Callable[[Path], str]:
    """Have a clip read; say what came of it, if that is allowed."""

    def checked(path: Path) -> str:
        outcome, words = process.read(path)
        assert outcome in ("read", "refused"), f"{path.name} {outcome}: {words}"
        if outcome == "refused":
            check_sentence(str(words), path)
        return outcome

    return checked


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_the_whole_ones_are_read(check: Callable[[Path], str], videos: list[tuple[str, bytes]], place: Path) -> None:
    for name, content in videos:
        (place / name).write_bytes(content)
        assert check(place / name) == "read", name
    for suffix, content in whole_images():
        folder = place / f"frames{suffix}"
        folder.mkdir()
        (folder / f"0{suffix}").write_bytes(content)
        assert check(folder) == "read", suffix


@examples(150)
@given(st.data())
def test_a_damaged_video_is_read_or_refused(
    check: Callable[[Path], str], videos: list[tuple[str, bytes]], place: Path, data: st.DataObject
) -> None:
    name, content = data.draw(st.sampled_from(videos))
    path = place / f"damaged{Path(name).suffix}"
    # Headers are where most can go wrong; of an MP4 they are at the end.
    head, tail = content[:600], content[-600:]
    part = data.draw(st.sampled_from(["head", "tail", "any"]))
    if part == "head":
        path.write_bytes(data.draw(nearly(head)) + content[600:])
    elif part == "tail":
        path.write_bytes(content[:-600] + data.draw(nearly(tail)))
    else:
        path.write_bytes(data.draw(nearly(content)))
    check(path)


@examples(40)
@given(st.binary(max_size=200), st.sampled_from([".mp4", ".avi", ".gif", ".mkv", ".ts", ".webm", ".y4m", ".flv"]))
@example(b"", ".mp4")
@example(b"\0" * 100_000, ".ts")
@example(b"GIF89a", ".gif")
@example(b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", ".ts")
@example(b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n", ".mp4")
@example(b"ffconcat version 1.0\nfile damaged.mp4\n", ".mp4")
@example(b"YUV4MPEG2 W16384 H16384 F25:1\nFRAME\n", ".y4m")
@example(b"YUV4MPEG2 W0 H0 F0:0\nFRAME\n" + b"FRAME\n" * 100, ".y4m")
@example(b"YUV4MPEG2 W1 H1 F25:1\n" + b"FRAME\n000" * 100, ".y4m")
def test_anything_called_a_video_is_read_or_refused(
    check: Callable[[Path], str], place: Path, content: bytes, suffix: str
) -> None:
    path = place / f"damaged{suffix}"
    path.write_bytes(content)
    check(path)


@examples(120)
@given(st.data())
def test_a_folder_with_a_damaged_image_is_read_or_refused(
    check: Callable[[Path], str], place: Path, data: st.DataObject
) -> None:
    suffix, content = data.draw(st.sampled_from(whole_images()))
    folder = place / f"damaged{suffix}"
    folder.mkdir(exist_ok=True)
    (folder / f"0{suffix}").write_bytes(content)
    (folder / f"1{suffix}").write_bytes(data.draw(nearly(content)))
    check(folder)
