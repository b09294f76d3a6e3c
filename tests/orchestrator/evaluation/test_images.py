"""Image files as 8-bit RGB: what scanners, phones and designers store, and what is refused."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.orchestrator.evaluation.images import complaint, each, peak, read

SIZE = 16


def one(path: Path, size: int = SIZE) -> torch.Tensor:
    """The image u8[3, S, S] of a file."""
    found, failed = read([path], size)
    assert not failed
    return found[0]


def why(path: Path) -> str:
    """Why a file is not read."""
    found, failed = read([path], SIZE)
    assert len(found) == 0
    return failed[0]


def ramp(top: int) -> np.ndarray:
    """Columns from 0 to `top`."""
    return np.repeat(np.linspace(0, top, SIZE).round()[None], SIZE, axis=0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_grey_is_scaled_from_its_full_range(tmp_path: Path, bits: int, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(ramp((1 << bits) - 1).astype(np.uint16)).save(path)
    expected = np.linspace(0, 255, SIZE)
    assert np.abs(one(path)[:, 3].numpy() - expected).max() <= 1


def test_a_deep_pgm_is_scaled_by_its_own_maximum(tmp_path: Path) -> None:
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 1000\n" + ramp(1000).astype(">u2").tobytes())
    assert np.abs(one(tmp_path / "deep.pgm")[0, 3].numpy() - np.linspace(0, 255, SIZE)).max() <= 1


def test_deep_images_of_a_set_share_one_scale(tmp_path: Path) -> None:
    paths = [tmp_path / "dark.png", tmp_path / "bright.png", tmp_path / "byte.png"]
    Image.fromarray(np.full((SIZE, SIZE), 2000, np.uint16)).save(paths[0])
    Image.fromarray(np.full((SIZE, SIZE), 40000, np.uint16)).save(paths[1])
    Image.fromarray(np.full((SIZE, SIZE), 77, np.uint8)).save(paths[2])
    found, _ = read(paths, SIZE)
    assert found[:, 0, 0, 0].tolist() == [round(2000 / 257), round(40000 / 257), 77]


def test_deep_colour_is_scaled(tmp_path: Path) -> None:
    pixels = np.repeat(ramp(65535).astype(np.uint16)[..., None], 3, axis=-1)
    assert cv2.imwrite(str(tmp_path / "rgb48.png"), pixels)
    assert np.abs(one(tmp_path / "rgb48.png")[1, 3].numpy() - np.linspace(0, 255, SIZE)).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_colour_is_scaled_from_its_full_range_too(tmp_path: Path, suffix: str, bits: int) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint16)
    pixels[..., 2] = ramp((1 << bits) - 1)  # red, as OpenCV has it
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), pixels)
    expected = np.stack([np.linspace(0, 255, SIZE), np.zeros(SIZE), np.zeros(SIZE)])
    assert np.abs(one(path)[:, 3].numpy() - expected).max() <= 1


def test_deep_colour_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint16)
    pixels[:4] = 65535  # bright at the top
    assert cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 3
    content = (tmp_path / "deep.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes()[6:]
    chunk = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "deep.png").write_bytes(content[:33] + chunk + content[33:])
    found = one(tmp_path / "deep.png")
    assert found[:, :12].max() == 0
    assert found[:, 12:].min() == 255


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16), "its pixels are floats, whose range is not known"),
        (np.full((16, 16), 70000, np.int32), "its pixels are integers from 70000 to 70000"),
        (np.full((16, 16), -5, np.int32), "its pixels are integers from -5 to -5"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, pixels: np.ndarray, told: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    assert told in why(tmp_path / "x.tif")
    assert (complaint(tmp_path / "x.tif") == "") == (pixels.dtype == np.int32)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The stored picture is made from the upright one by undoing what its orientation asks for."""
    upright = np.zeros((SIZE, SIZE, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:] = 200, 100  # every turn and mirroring looks different
    undo: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    stored.save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {"quality": 95}))
    assert np.abs(one(path).permute(1, 2, 0).numpy().astype(int) - upright).max() < 12


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\1")
    assert one(tmp_path / "x.png")[0, 0, 0] == 9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_show_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.png"
    if mode in ("P", "RGB"):
        image = Image.new("RGB", (SIZE, SIZE), (10, 20, 30))
        image.paste((0, 0, 0), (0, 0, 8, SIZE))
        clear: Any = (0, 0, 0)
        if mode == "P":
            image = image.quantize(2)
            clear = image.getpixel((0, 0))
        image.save(path, transparency=clear)
    else:
        image = Image.new("RGBA", (SIZE, SIZE), (20, 20, 20, 255))
        image.paste((0, 0, 0, 0), (0, 0, 8, SIZE))
        image.convert(mode).save(path)
    found = one(path)
    assert (found[:, :, :8] == 255).all()
    assert (found[:, :, 8:] < 60).all()


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif"])
def test_the_first_picture_of_several_is_read(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (SIZE, SIZE), (grey, grey, grey)) for grey in (50, 150)]
    extra = {"lossless": True} if suffix == ".webp" else {}
    pages[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=pages[1:], **extra)
    assert one(tmp_path / f"x{suffix}")[0, 0, 0] == 50


def test_cmyk_is_shown_as_colour(tmp_path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (200, 100, 50)).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert one(tmp_path / "x.jpg")[:, 8, 8].tolist() == pytest.approx([200, 100, 50], abs=6)


def test_those_that_cannot_be_read_are_named_by_their_position(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    found, failed = read(paths, SIZE)
    assert len(found) == 2 and [*failed] == [1] and failed[1]
    assert read([], SIZE)[0].shape == (0, 3, SIZE, SIZE)


def test_images_one_after_the_other_are_those_that_are_read_together(tmp_path: Path) -> None:
    """Also those of more than 8 bits: they are on the scale of the brightest, wherever reading begins."""
    paths = [tmp_path / f"{name}.png" for name in ("dark", "plain", "bright", "broken")]
    for path, top in zip(paths, (500, 200, 4000), strict=False):
        Image.fromarray(ramp(top).astype(np.uint16 if top > 255 else np.uint8)).save(path)
    paths[3].write_bytes(b"no picture")
    together, failed = read(paths, SIZE)
    assert peak(paths) == 4000
    apart = [next(each([path], SIZE, peak(paths))) for path in paths]
    assert torch.equal(torch.stack([image for image in apart if isinstance(image, torch.Tensor)]), together)
    assert apart[3] == failed[3]
    assert peak(paths[1:2]) == 0 and isinstance(next(each(paths[:1], SIZE)), torch.Tensor)
