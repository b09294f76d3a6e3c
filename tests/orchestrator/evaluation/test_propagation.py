"""Propagation of masks by frozen features, on rendered videos whose masks are known."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import davis, propagation
from infoaug.orchestrator.evaluation.propagation import PropagationSettings
from infoaug.orchestrator.reporting import mask_video

pytestmark = pytest.mark.usefixtures("one_thread")

# The stem's convolution tells textures apart already.
SETTINGS = PropagationSettings(size=96, stride=4, layer=0, radius=4, queue=3)
FRAMES, SIZE = 6, (96, 128)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))


def _render(folder: Path, squares: int, *, palette: bool = False, step: int = 4) -> Path:
    """Textured squares of 32 pixels that move over a textured ground, each in its direction and colours."""
    random = np.random.default_rng(0)

    def texture(height: int, width: int, tint: tuple[int, int, int]) -> NDArray[np.uint8]:
        coarse = random.integers(0, 100, (height // 4, width // 4, 1))
        return (np.kron(coarse, np.ones((4, 4, 1))) + np.array(tint)).clip(0, 255).astype(np.uint8)

    ground = texture(*SIZE, (20, 20, 150))
    textures = [texture(32, 32, tint) for tint in ((150, 20, 20), (20, 150, 20))[:squares]]
    for part in (davis.FRAMES, davis.MASKS):
        (folder / part / "squares").mkdir(parents=True)
    for i in range(FRAMES):
        frame, mask = ground.copy(), np.zeros(SIZE, np.uint8)
        for number, square in enumerate(textures, start=1):
            top, left = (16, 16 + step * i) if number == 1 else (56, 80 - step * i)
            frame[top : top + 32, left : left + 32] = square
            mask[top : top + 32, left : left + 32] = number if palette else 255
        Image.fromarray(frame).save(folder / davis.FRAMES / "squares" / f"{i:05d}.png")
        stored = Image.fromarray(mask)
        if palette:
            stored.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        stored.save(folder / davis.MASKS / "squares" / f"{i:05d}.png")
    return folder


def _videos(folder: Path) -> list[davis.Video]:
    return propagation.load(folder)[0]


def test_the_mask_of_a_moving_square_is_carried_nearly_perfectly(tmp_path, backbone):
    found = propagation.measure(_videos(_render(tmp_path, 1)), backbone, SETTINGS)
    assert found["j"] > 0.9 and found["f"] > 0.95
    assert found["jf"] == pytest.approx((found["j"] + found["f"]) / 2)
    assert found["sequences"]["squares"]["frames"] == FRAMES - 2  # without the first and the last
    assert (found["stride"], found["layer"]) == (4, 0)


def test_several_objects_are_told_apart(tmp_path, backbone):
    found = propagation.measure(_videos(_render(tmp_path, 2, palette=True)), backbone, SETTINGS)
    first, second = found["sequences"]["squares"]["objects"]
    assert min(first["j"], second["j"]) > 0.9
    assert found["j"] == pytest.approx((first["j"] + second["j"]) / 2)


def test_a_mask_that_stays_where_it_was_is_worse(tmp_path, backbone):
    """With a radius that the square's steps exceed, its mask cannot follow."""
    videos = _videos(_render(tmp_path, 1, step=12))
    follows = propagation.measure(videos, backbone, SETTINGS)
    stays = propagation.measure(videos, backbone, PropagationSettings(size=96, stride=4, layer=0, radius=1, queue=0))
    assert stays["j"] < 0.5 < 0.8 < follows["j"]


@pytest.mark.parametrize("size", [48, 120])
def test_frames_are_resized_and_the_masks_have_the_size_that_they_had(tmp_path, backbone, size):
    video = davis.videos(_render(tmp_path, 1))[0]
    settings = PropagationSettings(size=size, stride=4, layer=0, queue=2)
    masks = list(propagation.propagated(video, propagation.features_of(backbone, settings, "cpu"), settings))
    assert len(masks) == FRAMES and {mask.shape for mask in masks} == {SIZE}
    true = davis.objects(video).read(video.masks[3])[0] > 0
    assert (true & (masks[3] > 0)).sum() > 0.7 * (true | (masks[3] > 0)).sum()


def test_a_vit_propagates_too(tmp_path):
    torch.manual_seed(0)
    vit = create_backbone("vit_tiny_patch16_224", 32, embed_dim=24, depth=1, num_heads=2)
    found = propagation.measure(_videos(_render(tmp_path, 1)), vit, PropagationSettings(size=96, stride=4, radius=4))
    assert found["j"] > 0.5


def test_means_are_over_frames_then_over_the_objects_of_all_sequences(tmp_path, backbone, monkeypatch):
    """As DAVIS's evaluation has it: a sequence of two objects counts twice."""
    folder = _render(tmp_path, 2, palette=True)
    for part in (davis.FRAMES, davis.MASKS):
        (folder / part / "one").mkdir()
        for path in (folder / part / "squares").iterdir():
            (folder / part / "one" / path.name).write_bytes(path.read_bytes())
    for path in (folder / davis.MASKS / "one").iterdir():
        with Image.open(path) as image:
            values = np.asarray(image) == 1
        Image.fromarray(np.uint8(255) * values).save(path)
    told: list[str] = []
    found = propagation.measure(_videos(folder), backbone, SETTINGS, done=lambda name, values: told.append(name))
    objects = [each["j"] for name in ("one", "squares") for each in found["sequences"][name]["objects"]]
    assert len(objects) == 3 and found["j"] == pytest.approx(np.mean(objects))
    assert told == ["one", "squares"]
    only, _ = propagation.load(folder, ["one"])
    assert propagation.measure(only, backbone, SETTINGS)["sequences"] == {"one": found["sequences"]["one"]}


def test_the_backbone_stays_as_it_is(tmp_path, backbone):
    before = copy.deepcopy(backbone.state_dict())
    propagation.measure(_videos(_render(tmp_path, 1)), backbone.train(), SETTINGS)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_frames_without_a_mask_are_told_of_and_not_measured(tmp_path, backbone):
    folder = _render(tmp_path, 1)
    (folder / davis.MASKS / "squares" / "00002.png").unlink()
    videos, notes = propagation.load(folder)
    assert notes == ["sequence 'squares': 1 frames have no mask and are not measured"]
    assert propagation.measure(videos, backbone, SETTINGS)["sequences"]["squares"]["frames"] == FRAMES - 3


def test_what_cannot_be_measured_is_refused(tmp_path):
    folder = _render(tmp_path, 1)
    own = create_backbone("tests.models.own_models:Tiny", 32)
    with pytest.raises(UsageError, match=r"evaluate\.propagation: 'tests\.models\..*' has no dense features"):
        propagation.measure(_videos(folder), own)
    Image.new("L", SIZE[::-1]).save(folder / davis.MASKS / "squares" / "00000.png")
    with pytest.raises(UsageError, match="has no object"):
        propagation.load(folder)


def test_the_default_layer_is_a_resnets_third_stage_and_a_vits_last_block(backbone):
    vit = create_backbone("vit_tiny_patch16_224", 32, embed_dim=24, depth=3, num_heads=2)
    for settings, layers in ((PropagationSettings(), (3, 2)), (PropagationSettings(layer=1), (1, 1))):
        assert tuple(propagation.features_of(each, settings, "cpu").layer for each in (backbone, vit)) == layers


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"stride": 0}, {"neighbours": 0}, {"temperature": 0.0}, {"radius": -1}, {"queue": -1}]
)
def test_settings_out_of_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PropagationSettings(**wrong)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_of_the_propagated_masks(tmp_path, backbone, suffix):
    paths = []

    def keep(video: davis.Video, masks: list[NDArray[np.uint8]]) -> None:
        paths.append(mask_video.save(video, masks, tmp_path / "videos" / f"{video.name}{suffix}"))

    propagation.measure(_videos(_render(tmp_path, 2, palette=True)), backbone, SETTINGS, keep=keep)
    assert paths[0].stat().st_size > 1000


def test_every_object_has_its_colour():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:8, 2:8], mask[10:18, 10:18] = 1, 2
    picture = mask_video.draw(np.full((20, 30, 3), 100, np.uint8), mask)
    assert (picture[mask == 0] == 100).all()
    assert not np.array_equal(picture[4, 4], picture[14, 14]) and (picture[4, 4] != 100).any()
    assert np.array_equal(picture[2, 2], mask_video.COLOURS[1])  # the contour
