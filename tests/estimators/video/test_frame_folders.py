"""Folders of frames: in the order of their numbers, whole, and told from other folders of images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from infoaug.estimators.video.clips import ClipError, Reader, read_clip
from infoaug.estimators.video.frame_folders import frames_of, in_order
from infoaug.estimators.video.shots import scan
from tests.estimators.video.test_clips import numbered, textured, write_folder, write_video


def unrelated(count: int, size: tuple[int, int] = (72, 128)) -> np.ndarray:
    """Pictures u8[T, H, W, 3] that share nothing, each of a few bright areas."""
    pictures = []
    for number in range(count):
        rng = np.random.default_rng(number)
        tint, areas = rng.integers(0, 256, 3), rng.integers(0, 256, (3, 4, 3))
        coarse = np.clip(0.5 * areas + 0.5 * tint, 0, 255).astype(np.uint8)
        pictures.append(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
    return np.stack(pictures)


def masks(count: int, colours: int = 2) -> np.ndarray:
    """Masks u8[T, 72, 128, 3] of objects that move: areas of one value each."""
    y, x = np.mgrid[:72, :128]
    frames = np.zeros((count, 72, 128), np.uint8)
    for t in range(count):
        for value in range(1, colours):
            frames[t][np.hypot(x - (10 * value + t) % 128, y - 20 - 3 * value) < 9] = 255 * value // (colours - 1)
    return np.repeat(frames[..., None], 3, axis=3)


def write_named(folder: Path, names: list[str]) -> Path:
    """A folder of small frames, the first name's being 0, the second name's 1."""
    folder.mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), numbered(len(names))[number, ..., ::-1])
    return folder


# ---- order


@pytest.mark.parametrize(
    "names",
    [
        ["0.25", "0.5", "0.75", "1.0", "1.25", "10.5"],
        ["0", "0.25", "0.5", "1", "1.125"],
        ["0", "0.5", "1", "1.5", "2", "10", "10.5"],
        ["frame", "frame (1)", "frame (2)"],
        ["t=2.04s", "t=2.5s", "t=10.25s"],
        ["cam1_0.05", "cam1_0.5", "cam1_1.25"],
        ["1.8", "1.9", "1.10", "1.11"],  # scene and frame
        ["1.1", "1.2", "2.1"],
        ["2", "10", "a1"],
        ["v1.2.9", "v1.2.10"],
        ["0.10", "0.50", "1.00"],
        ["a1.5", "a2.25", "b1.5"],
    ],
)
def test_files_are_in_the_order_of_the_numbers_in_their_names(names: list[str]) -> None:
    for files in (names, names[::-1], sorted(names)):
        assert [file.stem for file in in_order(Path("x", f"{name}.jpg") for name in files)] == names


def test_frames_named_by_seconds_are_read_in_their_order(tmp_path: Path) -> None:
    folder = write_named(tmp_path / "one", ["0.25.png", "0.5.png", "0.75.png", "1.0.png"])
    assert read_clip(folder)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


# ---- two series


@pytest.mark.parametrize(
    "other", ["{:03d}_mask.png", "{:03d}.png", "{:d}.depth.png", "{:03d}_mask_2.png", "{:03d} (1).jpg"]
)
def test_frames_interleaved_with_masks_or_depth_are_refused(tmp_path: Path, other: str) -> None:
    names = [pattern.format(n) for n in range(4) for pattern in ("{:03d}.jpg", other)]
    folder = write_named(tmp_path / "one", names)
    for use in (scan, read_clip, frames_of):
        with pytest.raises(ClipError, match=r"one holds two series of images .* such as .*0.* and .*folder of its own"):
            use(folder)


@pytest.mark.parametrize(
    "names",
    [
        [f"left{n}.png" for n in range(4)] + [f"right{n}.png" for n in range(4)],
        [f"0001TP_{n:06d}.png" for n in range(4)] + [f"Seq05VD_f{n:05d}.png" for n in range(4)],
        [f"{n}.png" for n in range(4)] + ["1_still.png"],
        [f"{n / 4:g}.png" for n in range(9)],
        [f"{n:03d}.{'JPG' if n % 2 else 'jpg'}" for n in range(8)],
        [f"take1_{n}.png" if n % 2 else f"take1_{n}_b.png" for n in range(8)],
        ["a.png", "b.png", "c.png"],
    ],
)
def test_series_that_follow_one_another_are_read(tmp_path: Path, names: list[str]) -> None:
    assert len(frames_of(write_named(tmp_path / "one", names))) == len(names)


# ---- no clip


@pytest.mark.parametrize("colours", [2, 12])
def test_masks_alone_are_no_clip(tmp_path: Path, colours: int) -> None:
    folder = write_folder(tmp_path / "masks", masks(20, colours))
    with pytest.raises(ClipError, match=r"masks is no clip: its images are masks.* leave it out, or make a video"):
        scan(folder)
    assert scan(write_video(tmp_path / "one.avi", masks(20, colours))).frames == 20


def test_masks_after_the_frames_of_the_same_folder_are_no_clip_either(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one", textured(0, 20), "{:03d}.png")
    for number, mask in enumerate(masks(20)):
        cv2.imwrite(str(folder / f"mask{number:03d}.png"), mask)
    with pytest.raises(ClipError, match=r"images are masks"):
        scan(folder)


def test_unrelated_pictures_of_one_size_are_no_clip(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"thumbnails is no clip: its images have nothing in common"):
        scan(write_folder(tmp_path / "thumbnails", unrelated(30)))


@pytest.mark.parametrize(
    "frames",
    [
        np.concatenate([textured(seed, 3) for seed in range(12)]),  # shots of three frames
        textured(0, 60)[::4],  # a pan of 20 pixels a frame
        np.repeat(unrelated(10), 4, axis=0),
        np.random.default_rng(0).integers(0, 256, (20, 72, 128, 3), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 12, (20, 72, 128, 3), dtype=np.uint8),  # in the dark
        np.repeat(np.arange(0, 240, 8, dtype=np.uint8), 72 * 128 * 3).reshape(30, 72, 128, 3),  # a fade
    ],
    ids=["many cuts", "few frames a second", "slides", "noise", "darkness", "fade"],
)
def test_an_unusual_clip_is_one(tmp_path: Path, frames: np.ndarray) -> None:
    assert scan(write_folder(tmp_path / "frames", frames)).frames == len(frames)


def test_real_frames_are_a_clip_and_their_masks_are_not(test_data: Callable[[str], Path]) -> None:
    assert scan(test_data("davis/JPEGImages/motocross-jump")).frames == 40
    with pytest.raises(ClipError, match="are masks"):
        scan(test_data("davis/Annotations/motocross-jump"))


# ---- cut off


JPEGS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_a_jpeg_is_no_frame(tmp_path: Path, kind: str, share: float) -> None:
    folder = write_folder(tmp_path / "one", textured(0, 3), "{}.jpg")
    cv2.imwrite(str(folder / "1.jpg"), textured(0, 3)[1], JPEGS[kind])
    content = (folder / "1.jpg").read_bytes()
    assert scan(folder).frames == 3
    (folder / "1.jpg").write_bytes(content[: int(share * len(content))])
    for use in (scan, read_clip):
        with pytest.raises(ClipError, match=r"frame .*1\.jpg ends before its picture does; copy it again"):
            use(folder)
    (folder / "1.jpg").write_bytes(content[: int(share * len(content))].ljust(len(content), b"\0"))
    with pytest.raises(ClipError, match=r"1\.jpg ends before"):
        scan(folder)


def test_what_follows_or_precedes_a_jpeg_s_picture_does_not_matter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one", textured(0, 2), "{}.jpg")
    whole, expected = (folder / "1.jpg").read_bytes(), read_clip(folder)
    preview = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    with_preview = whole[:2] + preview + b"\xff" + whole[2:]
    for content in (whole + b"\xff\xda more", with_preview, whole + whole):
        (folder / "1.jpg").write_bytes(content)
        assert np.array_equal(read_clip(folder), expected)
    (folder / "1.jpg").write_bytes(with_preview[:-200])
    with pytest.raises(ClipError, match="ends before"):
        read_clip(folder)


@pytest.mark.parametrize("suffix", ["bmp", "jp2", "png", "ppm", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_an_image_of_another_format_is_no_frame(tmp_path: Path, suffix: str, share: float) -> None:
    folder = write_folder(tmp_path / "one", textured(0, 2), "{}." + suffix)
    content = (folder / f"1.{suffix}").read_bytes()
    (folder / f"1.{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ClipError, match=rf"frame .*1\.{suffix} cannot be decoded; replace it"):
        scan(folder)


@pytest.mark.parametrize("content", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xff", b"\xff\xd8\xff\xe1\0\0"])
def test_a_jpeg_of_a_few_bytes_is_no_frame(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(ClipError, match=r"0\.jpg"), Reader(tmp_path) as reader:
        reader.read()
