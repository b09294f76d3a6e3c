"""Rendered scenes as a data set: boxes and masks lie on the sprites, and the same arguments give the same files."""

from pathlib import Path

import numpy as np
import pytest

from infoaug.orchestrator.evaluation import objects
from infoaug.orchestrator.synthetic import detection, scenes


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    first, second, other = (
        contents(detection.write(tmp_path / name, 2, 1, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second and len(first) == 9
    assert all(first[name] != other[name] for name in first)
    assert first["images/train/00000.png"] != first["images/test/00000.png"]
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b", "c"}


def test_boxes_and_masks_are_those_of_the_visible_sprites(tmp_path: Path) -> None:
    data = objects.load(str(detection.write(tmp_path / "scenes", 6, 2, sprites=(4, 6))))
    assert data.masks and set(data.classes) <= set(range(10))
    for number, picture in enumerate(data.pictures["train"]):
        random = np.random.default_rng([0, False, number])
        scene = detection._scene(random, 120, 160, (20, 56), (4, 6))
        image, found = data.read(picture)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), scene.frames[-1])
        y, x = np.mgrid[:120, :160]
        owner = scene.owner(np.stack([x.ravel(), y.ravel()], axis=1), 1).reshape(120, 160)
        for box, mask in zip(found["boxes"].numpy(), found["masks"].numpy().astype(bool), strict=True):
            sprites, counts = np.unique(owner[mask], return_counts=True)
            sprite = sprites[counts.argmax()]
            assert sprite >= 0 and (owner == sprite)[mask].mean() > 0.97
            assert mask.sum() > 0.9 * (owner == sprite).sum()
            rows, columns = np.nonzero(owner == sprite)
            assert np.abs(box - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists: name a new folder"):
        detection.write(tmp_path, 1, 1)
    with pytest.raises(ValueError, match=r"sizes=\(20, 200\) .* sizes from 8 to 92"):
        detection.write(tmp_path / "a", 1, 1, sizes=(20, 200))
    assert scenes.SPACING * 92 < 120
