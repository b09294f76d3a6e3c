"""Which patches and frames the report shows, and that what cannot be shown stops nothing."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.config import load
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, look
from tests.orchestrator.conftest import scored_windows

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}


@pytest.fixture
def extracted(tmp_path: Path) -> extract.Extracted:
    """Three clips with a window each, from frame 1 on, of 25 patches of 32 pixels."""
    rng = np.random.default_rng(0)
    clips = {f"c{n}": [(rng.integers(0, 256, (25, 2, 32, 32, 3)).astype(np.uint8), [-1] * 25)] for n in range(3)}
    found = scored_windows(tmp_path / "store", clips).extracted
    paths = []
    for name in clips:
        folder = tmp_path / name
        folder.mkdir()
        for frame in range(3):
            picture = np.full((48, 64, 3), 80 * frame, np.uint8)
            picture[:, 30:] = rng.integers(0, 256, (48, 34, 3))
            cv2.imwrite(str(folder / f"{frame}.png"), picture)
        paths.append(str(folder))
    ledger = found.ledger.append_column("path", pa.array(paths)).append_column("first_frames", pa.array([[1]] * 3))
    return replace(found, ledger=ledger)


@pytest.fixture
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet18", 32, **SMALL)


def test_patches_and_frames_of_the_clips_are_shown(extracted: extract.Extracted, backbone: torch.nn.Module) -> None:
    chosen = look.seen(load(None, []), extracted)
    found = look.arrays(chosen, extracted.stage.store, backbone, load(None, []))
    assert found["patches"].shape == (6, 6, 32, 32, 3)
    assert all(own != other for own, *others in found["patch_names"].tolist() for other in others)
    assert found["frame_names"].tolist() == [f"c{n}.mp4, frame 1" for n in range(3)]
    assert found["frame_0"].shape == (48, 64, 3) and (found["frame_0"][:, :30] == 80).all()
    assert found["components_0"].shape == (6, 8, 3)


def test_frames_are_of_the_data_with_masks_if_there_are_any(tmp_path: Path, extracted: extract.Extracted) -> None:
    for kind in ("JPEGImages/dog", "Annotations/dog", "images/train", "images/val", "masks/train", "masks/val"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for n in range(5):
            Image.new("L", (20, 20), 255 * (n % 2 + 1) // 2).save(tmp_path / "data" / kind / f"{n}.png")
    propagation, segmentation = (f"evaluate.{name}={tmp_path / 'data'}" for name in ("propagation", "segmentation"))
    names = [name for name, _, _ in look.seen(load(None, [propagation]), extracted).frames]
    assert names == ["dog/0.png", "dog/2.png", "dog/4.png"]
    chosen = look.seen(load(None, [segmentation]), extracted)
    assert [(name, Path(path).parent.name, n) for name, path, n in chosen.frames][1] == ("2.png", "val", -1)


def test_one_clip_is_compared_by_windows_and_one_window_not_at_all(tmp_path: Path, backbone: torch.nn.Module) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    for count in (1, 2):
        found = scored_windows(tmp_path / str(count), {"c": [(images, [-1] * 4)] * count}).extracted
        windows = tuple((c, w, extract.trajectory_path(found.stage, folder, w)) for c, folder, w in found.windows)
        arrays = look.arrays(look.Seen(windows, ()), found.stage.store, backbone, load(None, []))
        assert ("patches" in arrays) == (count == 2)
        if count == 2:
            names = arrays["patch_names"].tolist()
            assert all(own != other for own, *others in names for other in others[:4])


def test_a_backbone_without_dense_features_shows_patches_only(
    extracted: extract.Extracted, backbone: torch.nn.Module
) -> None:
    backbone.recipe = replace(backbone.recipe, name="module:Own")
    found = look.arrays(look.seen(load(None, []), extracted), extracted.stage.store, backbone, load(None, []))
    assert "patches" in found and "frame_names" not in found


def test_other_frames_or_windows_lie_in_another_file(extracted: extract.Extracted) -> None:
    chosen = look.seen(load(None, []), extracted)
    fewer = [replace(chosen, windows=chosen.windows[1:]), replace(chosen, frames=chosen.frames[1:])]
    assert len({one.path(extracted.stage) for one in (chosen, *fewer)}) == 3


def test_arrays_are_read_as_they_were_written_and_a_damaged_file_shows_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    look.write(store, "a.npz", {"x": np.arange(3), "names": np.array(["ä", "b"])})
    assert look.read(store, "a.npz")["names"].tolist() == ["ä", "b"]
    whole = store.read_bytes("a.npz")
    for content in (b"", b"PK", whole[: len(whole) // 2], whole.replace(b"\x00", b"\x01")):
        store.write_bytes("a.npz", content)
        assert look.read(store, "a.npz") == {}
    assert look.read(store, "b.npz") == {}


def test_some_of_many_are_evenly_spaced() -> None:
    assert look.evenly(range(10), 4) == [0, 3, 6, 9]
    assert look.evenly("ab", 4) == ["a", "b"] and look.evenly([], 3) == []
