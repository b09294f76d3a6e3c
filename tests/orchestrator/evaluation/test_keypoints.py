"""PCK of propagated joints: by hand, on rendered videos whose joints are known, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infoaug.models.backbones import create_backbone
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.evaluation import davis, keypoint_files, keypoints
from infoaug.orchestrator.evaluation.keypoint_files import Joints
from infoaug.orchestrator.evaluation.propagation import PropagationSettings

pytestmark = pytest.mark.usefixtures("one_thread")

# The stem's convolution tells textures apart, and the low temperature leaves the best of its matches only.
SETTINGS = PropagationSettings(size=96, stride=4, layer=0, radius=4, queue=3, temperature=0.005)
FRAMES, SHAPE, STEP = 6, (96, 128), 4
POINTS = np.array([[20, 18], [30, 40], [44, 24]])  # rows and columns, in the first frame


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create_backbone("resnet18", 32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))


def _render(folder: Path, name: str = "square", *, larger: int = 1, step: int = STEP) -> Path:
    """A textured square of 40 pixels that moves to the right, with three joints; every second frame is annotated.

    The joints are those of a picture that is so many times `larger`.
    """
    random = np.random.default_rng(0)
    ground, square = (
        np.kron(random.integers(low, high, (side, wide, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        for low, high, side, wide in ((0, 120, 24, 32), (100, 256, 10, 10))
    )
    for part in (davis.FRAMES, davis.MASKS):
        (folder / part / name).mkdir(parents=True)
    entries = []
    for i in range(FRAMES):
        frame, mask = ground.copy(), np.zeros(SHAPE, np.uint8)
        frame[12:52, 10 + step * i : 50 + step * i], mask[12:52, 10 + step * i : 50 + step * i] = square, 255
        Image.fromarray(frame).save(folder / davis.FRAMES / name / f"{i:05d}.png")
        Image.fromarray(mask).save(folder / davis.MASKS / name / f"{i:05d}.png")
        if i % 2:  # the first frame is not annotated
            joints = (larger * (POINTS + np.array([0, step * i]))).tolist()
            entries.append({"image_path": f"a/{name}/{i:05d}.jpg", "joints": joints, "visibility": [True] * 3})
    _write(folder, entries, name)
    return folder


def _write(folder: Path, stored: Any, name: str = "square") -> None:
    (folder / keypoint_files.FOLDER).mkdir(exist_ok=True)
    (folder / keypoint_files.FOLDER / f"{name}.json").write_text(json.dumps(stored))


def _stored(folder: Path, name: str = "square") -> Any:
    return json.loads((folder / keypoint_files.FOLDER / f"{name}.json").read_text())


# ---- by hand


def test_a_joint_is_correct_within_a_share_of_the_length() -> None:
    true = np.array([[10.0, 10.0]] * 5)
    found = true + np.array([[0, 0], [0, 10], [6, 8.1], [20, 0], [12, 16.1]])  # 0, 10, 10.08, 20, 20.08 away
    of = keypoints.correct(found, true, length=100)
    assert of["pck_10"].tolist() == [True, True, False, False, False]
    assert of["pck_20"].tolist() == [True, True, True, True, False]
    assert not keypoints.correct(np.full((1, 2), np.nan), true[:1], 100)["pck_20"].any()


def test_pck_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two joints that are visible in the first frame, one is hidden in the last: three are measured."""
    nan = [np.nan, np.nan]
    points = {0: np.array([[0.0, 0], [50, 50], nan]), 2: np.array([[0.0, 0], [50, 50], [9, 9]])}
    points[3] = np.array([nan, [50.0, 50], [9, 9]])
    sequence = Joints("a", (Path(),) * 4, (100, 100), points, {2: 100.0, 3: 50.0})
    found = [points[0], points[0], np.array([[0, 15], [50, 59.0], nan]), np.array([[0, 0], [50, 57.0], nan])]
    monkeypatch.setattr(keypoints, "propagated", lambda *_: iter(found))
    monkeypatch.setattr(keypoints.propagation, "features_of", lambda *_: type("Dense", (), {"stride": 8, "layer": 3}))
    result = keypoints.measure([sequence], torch.nn.Identity())
    # Distances 15 and 9 of a length of 100, and 7 of one of 50.
    assert result["sequences"]["a"] == {"pck_10": 1 / 3, "pck_20": 1.0, "joints": 3, "frames": 2}
    assert (result["pck_10"], result["pck_20"]) == (1 / 3, 1.0)


def test_the_peak_of_a_joints_heat_is_its_place() -> None:
    points = torch.tensor([[2.5, 3.5], [6.5, 1.5], [4.0, 4.5]])
    heat = keypoints.heat_maps(points, (9, 8))
    assert heat.shape == (9, 8, 3) and (heat[..., 0].amax(), heat[8, 7, 0]) == (1, 0)
    assert (keypoints.peaks(heat) - points).abs().max() < 0.35
    assert keypoints.peaks(torch.zeros(9, 8, 1)).isnan().all()


# ---- on rendered videos


def test_the_joints_of_a_moving_square_are_followed_exactly(tmp_path: Path, backbone: torch.nn.Module) -> None:
    sequences, notes = keypoint_files.load(_render(tmp_path))
    assert notes == []
    (square,) = sequences
    assert (len(square.frames), square.lengths) == (5, {2: 40.0, 4: 40.0})  # from the second frame on
    found = keypoints.measure(sequences, backbone, SETTINGS)
    assert (found["pck_10"], found["pck_20"]) == (1, 1)
    assert found["sequences"]["square"] == {"pck_10": 1, "pck_20": 1, "joints": 6, "frames": 2}
    assert (found["stride"], found["layer"]) == (4, 0)


def test_joints_that_stay_where_they_were_are_lost(tmp_path: Path, backbone: torch.nn.Module) -> None:
    sequences, _ = keypoint_files.load(_render(tmp_path, step=8))
    stays = replace(SETTINGS, radius=1, queue=0)
    assert keypoints.measure(sequences, backbone, stays)["pck_20"] < 0.5
    assert keypoints.measure(sequences, backbone, SETTINGS)["pck_20"] == 1


@pytest.mark.parametrize("size", [48, 144])
def test_frames_are_resized_and_joints_are_in_the_pixels_that_they_were_in(tmp_path: Path, backbone, size: int) -> None:
    (square,), _ = keypoint_files.load(_render(tmp_path))
    settings = replace(SETTINGS, size=size, radius=8)
    dense = keypoints.propagation.features_of(backbone, settings, "cpu")
    *_, last = keypoints.propagated(square, dense, settings)
    assert np.abs(last - square.points[4]).max() < 8


def test_a_joint_is_carried_as_if_it_was_alone(tmp_path: Path, backbone: torch.nn.Module) -> None:
    (square,), _ = keypoint_files.load(_render(tmp_path))
    dense = keypoints.propagation.features_of(backbone, SETTINGS, "cpu")
    near = {0: np.vstack([square.points[0], square.points[0] + 1])}
    alone = [*keypoints.propagated(square, dense, SETTINGS)][3]
    both = [*keypoints.propagated(Joints("a", square.frames, SHAPE, near, {}), dense, SETTINGS)][3]
    np.testing.assert_allclose(both[:3], alone, atol=1e-2)


def test_means_are_over_sequences(tmp_path: Path, backbone: torch.nn.Module) -> None:
    folder = _render(_render(tmp_path), "wide", step=12)
    sequences, _ = keypoint_files.load(folder)
    near = replace(SETTINGS, radius=2)  # cells of 4 pixels: less than a step of the wide one
    found = keypoints.measure(sequences, backbone, near)
    assert [*found["sequences"]] == ["square", "wide"]
    shares = [each["pck_20"] for each in found["sequences"].values()]
    assert shares[1] < shares[0] and found["pck_20"] == np.mean(shares)


# ---- files


def test_joints_are_of_the_frames_of_the_size_that_the_file_names(tmp_path: Path) -> None:
    (plain,), _ = keypoint_files.load(_render(tmp_path / "plain"))
    folder = _render(tmp_path / "larger", larger=10)
    _write(folder, {"size": [960, 1280], "frames": _stored(folder)})
    (scaled,), _ = keypoint_files.load(folder)
    assert np.abs(plain.points[0] - scaled.points[0]).max() < 0.5


def test_joints_of_badja_are_those_of_davis_in_full_resolution(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    entries = _stored(folder)
    for entry in entries:
        entry["image_path"] = f"DAVIS/JPEGImages/Full-Resolution/{entry['image_path']}"
        entry["joints"] = [[540, 960]] * 3
    _write(folder, entries)
    (square,), _ = keypoint_files.load(folder)
    np.testing.assert_allclose(square.points[0], [[48.04, 64.03]] * 3, atol=0.01)  # the middle


def test_a_joint_on_the_border_is_in_the_frame(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    entries = _stored(folder)
    entries[0]["joints"] = [[96, 128], [0, 0], [5, 5]]
    _write(folder, entries)
    (square,), _ = keypoint_files.load(folder)
    assert square.points[0].tolist() == [[96.5, 128.5], [0.5, 0.5], [5.5, 5.5]]


def test_without_masks_the_box_around_the_joints_is_the_measure(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    (folder / davis.MASKS).rename(tmp_path / "other")
    (square,), notes = keypoint_files.load(folder)
    assert square.lengths == {2: 24, 4: 24}
    assert "sequence 'square': it has no masks, so distances are shares of the longer side of the box" in notes[0]


def test_what_is_not_measured_is_told(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    entries = _stored(folder)
    entries.append(entries[-1] | {"image_path": "00017.jpg"})
    _write(folder, entries)
    _write(folder, entries, "absent")
    (folder / davis.MASKS / "square" / "00003.png").unlink()
    (square,), notes = keypoint_files.load(folder)
    assert [*square.lengths] == [4]
    assert notes == [
        "sequence 'absent': it has no frames and is not measured",
        "sequence 'square': 1 annotated frames are not among its frames",
        "sequence 'square': 1 annotated frames have no mask and are not measured",
    ]


def test_the_area_of_a_mask_is_that_of_its_objects_without_void(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    values = np.zeros(SHAPE, np.uint8)
    values[:10, :10], values[20:30, :30], values[50:60] = 1, 2, 255
    Image.fromarray(values).save(folder / davis.MASKS / "square" / "00003.png")
    (square,), _ = keypoint_files.load(folder)
    assert square.lengths == {2: 20, 4: 40}


def test_other_joints_are_another_content(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    before = keypoint_files.fingerprint(folder)
    assert before == keypoint_files.fingerprint(folder)
    _write(folder, _stored(folder)[:2])
    assert before != keypoint_files.fingerprint(folder)


def _with(entry: int, **values: Any) -> Any:
    return lambda entries: [each | (values if i == entry else {}) for i, each in enumerate(entries)]


WRONG = [
    (lambda entries: {"frames": 3}, "must hold a list of"),
    (lambda entries: [], "must hold a list of"),
    (lambda entries: ["a"], "frame 0: "),
    (lambda entries: [{"image_path": "a.jpg"}], "frame 0: it has no 'joints'"),
    (_with(1, joints=[[1, 2]]), "frame 1: it has 1 joints and 3 values of visibility"),
    (_with(1, joints=[[1, 2]], visibility=[True]), r"'a/square/00003\.jpg': 1 joints, the frames before have other"),
    (_with(1, visibility=[True, "false", True]), 'frame 1: a visibility is "false", not true or false; it must hold'),
    (_with(1, visibility=[True, 2, True]), "frame 1: a visibility is 2, not true or false"),
    (_with(1, visibility=[True, None, True]), "frame 1: a visibility is null, not true or false"),
    (_with(1, image_path="b/00001.png"), r"has the frame '00001' twice \('b/00001\.png'\): list each frame once"),
    (_with(1, joints=[[1, "x"], [1, 2], [1, 2]]), "frame 1: could not convert"),
    (_with(1, joints=[[1, float("nan")], [1, 2], [1, 2]]), "frame 1: joint 0 is no finite number"),
    (_with(1, joints=[[1, 300], [1, 2], [1, 2]]), r"joint 0 at \(row, column\) 1, 300 lies outside .* 128×96 pixels"),
    (lambda entries: {"size": [0, 5], "frames": entries}, "frame 0: its size is 0 rows and 5 columns"),
    (lambda entries: entries[:1], "has no joint to follow"),
    (_with(0, visibility=[False] * 3), "has no joint to follow"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    folder = _render(tmp_path)
    _write(folder, change(_stored(folder)))
    with pytest.raises(UsageError, match=said):
        keypoint_files.load(folder)


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, backbone: torch.nn.Module) -> None:
    with pytest.raises(UsageError, match=r"has no Keypoints/SEQ\.json: it must hold JPEGImages/SEQ"):
        keypoint_files.load(tmp_path)
    folder = _render(tmp_path)
    (folder / keypoint_files.FOLDER / "square.json").write_text("{")
    with pytest.raises(UsageError, match=r"square\.json' cannot be read"):
        keypoint_files.load(folder)
    (folder / keypoint_files.FOLDER / "square.json").unlink()
    _write(folder, [], "other")
    with pytest.raises(UsageError, match=r"has no frames of '.*other\.json': put them into"):
        keypoint_files.load(folder)


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = _render(tmp_path)
    Image.new("L", (10, 8)).save(folder / davis.MASKS / "square" / "00003.png")
    with pytest.raises(UsageError, match=r"00003\.png' has 10×8 pixels"):
        keypoint_files.load(folder)
