"""Folders of videos with masks: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.evaluation import davis


def _write(
    folder: Path, name: str = "bird", count: int = 4, *, below: str = "", size: tuple[int, int] = (20, 16)
) -> Path:
    """A sequence of grey frames, with an object of 6×6 pixels."""
    for part in (davis.FRAMES, davis.MASKS):
        (folder / part / below / name).mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[4:10, 4:10] = 255
    for i in range(count):
        Image.new("RGB", size, "grey").save(folder / davis.FRAMES / below / name / f"{i:05d}.jpg")
        Image.fromarray(mask).save(folder / davis.MASKS / below / name / f"{i:05d}.png")
    return folder


def _mask(folder: Path, i: int = 0) -> Path:
    return folder / davis.MASKS / "bird" / f"{i:05d}.png"


def _palette(values: np.ndarray, path: Path) -> None:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([value // 3 for value in range(768)])
    image.save(path)


def _checked(folder: Path) -> list[davis.Video]:
    found = davis.videos(folder)
    for video in found:
        davis.check(video)
    return found


@pytest.mark.parametrize("below", ["", "480p"])
def test_sequences_lie_in_their_folders_or_below_a_resolution(tmp_path, below):
    _write(_write(tmp_path, "bird", below=below), "ant", 3, below=below)
    found = _checked(tmp_path)
    assert [(video.name, len(video.frames), sorted(video.masks)) for video in found] == [
        ("ant", 3, [0, 1, 2]),
        ("bird", 4, [0, 1, 2, 3]),
    ]
    assert [video.name for video in davis.videos(tmp_path, ["bird"])] == ["bird"]


def test_a_mask_belongs_to_the_frame_of_its_name(tmp_path):
    _mask(_write(tmp_path), 1).unlink()
    assert sorted(davis.videos(tmp_path)[0].masks) == [0, 2, 3]


def test_one_object_in_black_and_white(tmp_path):
    video = davis.videos(_write(tmp_path))[0]
    objects = davis.objects(video)
    mask, void = objects.read(video.masks[1])
    assert objects.values == (255,) and void is None
    assert mask.sum() == 36 and set(mask.flat) == {0, 1}


def test_several_objects_by_the_indices_of_a_palette(tmp_path):
    """Only objects of the first mask count, in the order of their numbers; 255 is void."""
    _write(tmp_path)
    values = np.zeros((16, 20))
    values[2:4, 2:4], values[8:10, 8:11] = 1, 3
    _palette(values, _mask(tmp_path, 0))
    values[12:14, 12:14], values[0, 0] = 2, 255
    _palette(values, _mask(tmp_path, 1))
    video = _checked(tmp_path)[0]
    objects = davis.objects(video)
    assert objects.values == (1, 3)
    first, none = objects.read(video.masks[0])
    later, void = objects.read(video.masks[1])
    assert none is None and void is not None and void.sum() == 1
    assert [(mask == i).sum() for mask in (first, later) for i in (1, 2)] == [4, 6, 4, 6]
    assert later.max() == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_a_mask_of_one_object_is_read_from_every_kind_of_grey_picture(tmp_path, mode):
    path = _mask(_write(tmp_path))
    with Image.open(path) as image:
        image.convert(mode).save(path)
    assert davis.objects(_checked(tmp_path)[0]).read(path)[0].sum() == 36


def test_what_is_laid_out_otherwise_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no folder JPEGImages: it must hold JPEGImages/SEQ"):
        davis.videos(tmp_path)
    (tmp_path / davis.FRAMES).mkdir()
    with pytest.raises(UsageError, match="has no folder Annotations"):
        davis.videos(tmp_path)
    (tmp_path / davis.MASKS).mkdir()
    with pytest.raises(UsageError, match="has no folders of frames"):
        davis.videos(tmp_path)
    (tmp_path / davis.FRAMES / "bird").mkdir()
    with pytest.raises(UsageError, match="has no masks: put them into"):
        davis.videos(tmp_path)
    (tmp_path / davis.MASKS / "bird").mkdir()
    with pytest.raises(UsageError, match="'bird' has 0 frames and masks of 0"):
        davis.videos(tmp_path)


def test_a_sequence_that_there_is_not_is_refused_with_the_nearest_names(tmp_path):
    with pytest.raises(UsageError, match="no sequence 'brid'; the nearest names are bird"):
        davis.videos(_write(tmp_path), ["brid"])


@pytest.mark.parametrize("missing", [(0,), (1, 2)])
def test_a_sequence_without_masks_to_start_from_or_to_compare_with_is_refused(tmp_path, missing):
    _write(tmp_path)
    for i in missing:
        _mask(tmp_path, i).unlink()
    with pytest.raises(UsageError, match="of the first frame and of one between"):
        davis.videos(tmp_path)


def test_masks_of_another_size_are_refused(tmp_path):
    Image.new("L", (10, 8)).save(_mask(_write(tmp_path), 2))
    with pytest.raises(UsageError, match=r"00002\.png' has 10×8 pixels and '00000\.jpg' of its sequence 20×16"):
        _checked(tmp_path)


def test_a_first_mask_without_an_object_is_refused(tmp_path):
    Image.new("L", (20, 16)).save(_mask(_write(tmp_path)))
    with pytest.raises(UsageError, match="has no object"):
        _checked(tmp_path)


def test_a_grey_picture_is_no_mask(tmp_path):
    Image.fromarray(np.arange(320, dtype=np.uint8).reshape(16, 20)).save(_mask(_write(tmp_path)))
    with pytest.raises(UsageError, match="has 254 values: a mask has 0 and 255"):
        _checked(tmp_path)


def test_a_coloured_picture_is_no_mask(tmp_path):
    Image.new("RGB", (20, 16), "red").save(_mask(_write(tmp_path)))
    with pytest.raises(UsageError, match="has colours"):
        _checked(tmp_path)


def test_frames_are_read_as_their_masks_are_stored(tmp_path):
    """An orientation of EXIF would turn frames and not masks."""
    frame = tmp_path / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 16), "red").save(frame, exif=exif)
    assert davis.frame(frame).shape == (16, 20, 3)
    assert davis.frame(frame)[0, 0, 0] > 200  # RGB


def test_broken_files_are_refused(tmp_path):
    _write(tmp_path)
    frame = tmp_path / davis.FRAMES / "bird" / "00001.jpg"
    frame.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"00001\.jpg' cannot be read"):
        _checked(tmp_path)
    with pytest.raises(StageError, match=r"00001\.jpg' cannot be read"):
        davis.frame(frame)
    _mask(tmp_path).write_bytes(_mask(tmp_path).read_bytes()[:60])
    with pytest.raises(UsageError, match=r"00000\.png' cannot be read"):
        davis.objects(davis.videos(tmp_path)[0])


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    _write(tmp_path)
    for part in (davis.FRAMES, davis.MASKS):
        for path in sorted((tmp_path / part / "bird").iterdir()):
            path.rename(path.with_name(f"{(1, 2, 10, 11)[int(path.stem)]}{path.suffix}"))
    (video,) = davis.videos(tmp_path)
    assert [path.name for path in video.frames] == ["1.jpg", "2.jpg", "10.jpg", "11.jpg"]
    assert [video.masks[i].name for i in range(4)] == ["1.png", "2.png", "10.png", "11.png"]


def test_a_frame_that_is_there_twice_is_refused(tmp_path):
    _write(tmp_path)
    Image.new("RGB", (20, 16)).save(tmp_path / davis.FRAMES / "bird" / "00001.png")
    with pytest.raises(
        UsageError, match=r"00001\.png' and '00001\.jpg' are the same frame|00001\.jpg' and '00001\.png'"
    ):
        davis.videos(tmp_path)
