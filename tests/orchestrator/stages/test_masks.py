"""Masks laid out as those of DAVIS: which belong to a clip, what a point is on, and masks that do not fit."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, masks, score


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two masks of the clip `bear`: red on the left and blue on the right half of 4 x 8 pixels, a black line below."""
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:3, :4], picture[:3, 4:] = (0, 0, 255), (255, 0, 0)
    (tmp_path / "Annotations/bear").mkdir(parents=True)
    for number in (1, 0):
        cv2.imwrite(str(tmp_path / f"Annotations/bear/{number:05d}.png"), picture)
    return tmp_path


@pytest.mark.parametrize("clip", ["bear", "bear.mp4", "/videos/bear.mp4", "zoo/bear"])
def test_masks_of_a_clip_are_found_by_its_name_with_or_without_suffix(folder: Path, clip: str) -> None:
    for given in (folder, folder / "Annotations"):
        assert [file.name for file in masks.files_of(str(given), clip)] == ["00000.png", "00001.png"]
    assert masks.files_of(str(folder), "swan") == []


def test_masks_are_in_the_order_of_the_frames_and_only_those_that_were_not_are_scored_anew(folder: Path) -> None:
    def key() -> str:
        config = ExperimentConfig.model_validate({"clips": {"path": "x", "masks": str(folder)}})
        extracted = extract.Extracted(StageFolder(Store(str(folder)), "extract", {}), pa.table({}), [], 0)
        return score.stage(config, extracted).hash

    before = key()
    assert not masks.are_reordered(str(folder))
    (folder / "Annotations/swan").mkdir()
    for number in (9, 10):
        cv2.imwrite(str(folder / f"Annotations/swan/{number}.png"), np.zeros((4, 8, 3), np.uint8))
    assert [file.name for file in masks.files_of(str(folder), "swan")] == ["9.png", "10.png"]
    assert masks.are_reordered(str(folder)) and key() != before


def test_frames_of_a_clip_with_an_absolute_name_are_not_its_masks(folder: Path) -> None:
    clip = folder / "frames/swan"
    clip.mkdir(parents=True)
    cv2.imwrite(str(clip / "00000.png"), np.zeros((4, 8, 3), np.uint8))
    assert masks.files_of(str(folder), str(clip)) == []


def test_points_are_on_the_colour_of_the_nearest_pixel_also_in_a_frame_of_another_size(folder: Path) -> None:
    mask = str(masks.files_of(str(folder), "bear")[0])
    points = np.array([[0.0, 0.0], [3.4, 1.0], [3.6, 1.0], [9.0, 9.0]])
    red, blue = 255 << 16, 255
    assert masks.objects_at(mask, points, 8, 4).tolist() == [red, red, blue, 0]
    assert masks.objects_at(mask, 2 * points + 0.5, 16, 8).tolist() == [red, red, blue, 0]


def test_masks_that_do_not_fit_are_refused(folder: Path) -> None:
    masks.check(str(folder), {"bear.mp4": 2, "swan.mp4": 7})
    with pytest.raises(UsageError, match=r"has 2 masks for the 3 frames of clip 'bear.mp4': give one mask a frame"):
        masks.check(str(folder), {"bear.mp4": 3})
    with pytest.raises(UsageError, match=r"no masks of any clip: .* Annotations/swan, one PNG image a frame"):
        masks.check(str(folder), {"swan.mp4": 7})
    (folder / "empty.png").touch()
    with pytest.raises(ValueError, match="cannot be read as an image"):
        masks.objects_at(str(folder / "empty.png"), np.zeros((1, 2)), 8, 4)
