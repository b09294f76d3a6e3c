"""Rendered scenes keep what they promise: positions, couplings, cameras and labels are the truth about the pixels."""

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoaug.orchestrator.synthetic import scenes, textures
from infoaug.orchestrator.synthetic.scenes import Scene, render, write

SMALL: dict[str, Any] = {"frames": 8, "sprites": 4, "height": 90, "width": 120, "size": 20}
OPTIONS: dict[str, Any] = {"camera": True, "lighting": True, "occlusion": True}
FINGERPRINT = """
import hashlib
from infoaug.orchestrator.synthetic.scenes import render
scene = render(7, frames=8, sprites=4, height=90, width=120, size=20, camera=True, lighting=True, occlusion=True)
print(hashlib.sha256(scene.frames.tobytes()).hexdigest())
"""


def increments(scene: Scene) -> np.ndarray:
    return np.diff(scene.position.astype(np.float64), axis=1)


def gaussian_information(a: np.ndarray, b: np.ndarray) -> float:
    """MI in nats of two Gaussian samples [N, 2] from their covariances: ½ ln(|A| |B| / |AB|)."""
    joint = np.cov(np.hstack([a, b]).T)
    return 0.5 * float(np.log(np.linalg.det(joint[:2, :2]) * np.linalg.det(joint[2:, 2:]) / np.linalg.det(joint)))


def follow(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 2] of frame 0 followed from frame to frame by pyramidal Lucas–Kanade: [N, T, 2]."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    path: list[Any] = [points.astype(np.float32)[:, None]]
    for previous, current in pairwise(grey):
        guess = path[-1].copy()
        path.append(cv2.calcOpticalFlowPyrLK(previous, current, path[-1], guess, winSize=(21, 21), maxLevel=3)[0])
    return np.concatenate(path, axis=1)


def long_walk(seed: int, rho: float) -> Scene:
    """One coupled pair and one sprite alone, over so many frames that covariances are sharp."""
    shape: dict[str, Any] = {"height": 96, "width": 160, "size": 16}
    return render(seed, frames=1500, sprites=3, coupled=1, static=0, rho=rho, step=0.2, **shape)


# ---- reproducible


def test_the_same_seed_gives_the_same_pixels_in_another_process(in_another_process: Callable[[str], str]) -> None:
    scene = render(7, **SMALL, **OPTIONS)
    here = hashlib.sha256(scene.frames.tobytes()).hexdigest()
    assert in_another_process(FINGERPRINT) == here


def test_another_seed_gives_other_motions_textures_and_background() -> None:
    a, b = render(1, **SMALL), render(2, **SMALL)
    assert not np.allclose(increments(a), increments(b))
    assert (a.frames[0] != b.frames[0]).mean() > 0.9


@pytest.mark.parametrize("option", ["camera", "lighting", "occlusion"])
def test_an_option_changes_neither_motions_nor_roles_nor_labels(option: str) -> None:
    plain, changed = render(3, **SMALL), render(3, **SMALL, **{option: True})
    back = [cv2.invertAffineTransform(affine) for affine in changed.camera]
    world = np.stack([changed.position[:, t] @ m[:, :2].T + m[:, 2] for t, m in enumerate(back)], axis=1)
    assert np.abs(world - plain.position).max() < 1e-3
    for name in ("partner", "static", "label", "mutual_information"):
        assert np.array_equal(getattr(plain, name), getattr(changed, name))
    assert not np.array_equal(plain.frames, changed.frames)


# ---- the law of motion


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_the_true_information_is_that_of_the_sampled_increments(rho: float) -> None:
    scene = long_walk(0, rho)
    ((a, b, truth),) = scene.coupling
    move = increments(scene)
    assert truth == pytest.approx(-np.log(1 - rho**2))
    assert gaussian_information(move[a], move[b]) == pytest.approx(truth, abs=0.1)


def test_a_sprite_alone_walks_with_independent_gaussian_steps() -> None:
    scene = long_walk(1, 0.95)
    (alone,) = np.flatnonzero(scene.partner < 0)
    move = increments(scene)
    assert scene.mutual_information[alone] == 0
    assert move[alone].std(axis=0) == pytest.approx(0.2, rel=0.08)
    for other in np.flatnonzero(scene.partner >= 0):
        assert gaussian_information(move[alone], move[other]) < 0.02
    assert gaussian_information(move[alone, 1:], move[alone, :-1]) < 0.02


def test_every_pair_has_its_own_rotation_or_reflection_and_keeps_the_information() -> None:
    determinants = []
    for seed in range(8):
        scene = render(seed, frames=300, sprites=2, coupled=1, step=0.3, rho=0.99, height=64, width=96, size=12)
        a, b = increments(scene)
        linear = np.linalg.lstsq(a, b, rcond=None)[0]
        assert np.abs(linear @ linear.T - 0.99**2 * np.eye(2)).max() < 0.06
        assert gaussian_information(a, b) == pytest.approx(scene.mutual_information[0], abs=0.35)
        determinants.append(np.linalg.det(linear))
    assert min(determinants) < -0.9
    assert max(determinants) > 0.9


def test_partners_are_mutual_share_a_family_and_are_listed_once() -> None:
    scene = render(5, frames=2, sprites=12, coupled=4, static=2, rho=0.9)
    coupled = np.flatnonzero(scene.partner >= 0)
    assert len(coupled) == 8
    assert np.array_equal(scene.partner[scene.partner[coupled]], coupled)
    assert np.array_equal(scene.label[scene.partner[coupled]], scene.label[coupled])
    assert {frozenset(pair[:2]) for pair in scene.coupling} == {frozenset((i, scene.partner[i])) for i in coupled}
    assert len(scene.coupling) == 4
    assert not (scene.static & (scene.partner >= 0)).any()


def test_exactly_the_static_sprites_stand_still() -> None:
    scene = render(2, frames=8, sprites=8, static=3)
    moved = np.abs(increments(scene)).max(axis=(1, 2))
    assert scene.static.sum() == 3
    assert np.array_equal(moved == 0, scene.static)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, derandomize=True)
def test_sprites_start_apart_and_stay_inside_the_frame(seed: int) -> None:
    position = render(seed, **SMALL).position
    start = position[:, 0]
    distance = np.abs(start[:, None] - start[None]).max(axis=-1) + 1e3 * np.eye(len(start))
    assert distance.min() >= 1.3 * 20 - 1e-3
    assert position.min() >= 20 / 2 - 0.5
    assert (position <= np.array([120, 90]) - 20 / 2 - 0.5).all()


# ---- pixels


@pytest.mark.parametrize("options", [{}, {"camera": True}])
def test_the_true_position_is_the_centre_of_the_drawn_sprite(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textures, "background", lambda rng, h, w, hue=False: np.zeros((h, w, 3), np.uint8))
    monkeypatch.setattr(textures, "sprite", lambda rng, family, side: textures.opaque(np.full((side, side, 3), 200)))
    scene = render(4, frames=20, sprites=1, height=120, width=160, size=30, **options)
    y, x = np.mgrid[:120, :160]
    for frame, truth in zip(scene.frames[..., 0].astype(float), scene.position[0], strict=True):
        centroid = np.array([(frame * x).sum(), (frame * y).sum()]) / frame.sum()
        assert np.abs(centroid - truth).max() < 0.05


@pytest.mark.parametrize("options", [{}, {"camera": True}])
def test_a_tracker_finds_sprites_where_they_truly_are(options: dict[str, bool]) -> None:
    scene = render(0, frames=24, **options)
    seen = scene.visible.all(axis=1)
    error = np.linalg.norm(follow(scene.frames, scene.position[:, 0]) - scene.position, axis=-1)[seen]
    assert seen.sum() >= 6
    assert np.median(error) < 0.15
    assert np.linalg.norm(scene.position[:, -1] - scene.position[:, 0], axis=-1).max() > 4


def test_the_camera_carries_background_points_to_where_a_tracker_finds_them() -> None:
    scene = render(1, frames=24, sprites=2, height=160, width=200, size=24, camera=True)
    x, y = np.meshgrid(np.arange(30, 175, 14), np.arange(30, 135, 14))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    far = (np.abs(points[:, None, None] - scene.position).max(axis=-1) > 30).all(axis=(1, 2))
    points = points[far]
    truth = np.einsum("tij,nj->nti", scene.camera[..., :2], points) + scene.camera[..., 2]
    error = np.linalg.norm(follow(scene.frames, points) - truth, axis=-1)[:, -1]
    assert len(points) > 30
    assert np.median(error) < 0.2
    assert np.linalg.norm(truth[:, -1] - truth[:, 0], axis=-1).min() > 0.5


def test_the_camera_starts_at_rest_and_never_shows_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "background", lambda rng, h, w, hue=False: np.full((h, w, 3), 255, np.uint8))
    monkeypatch.setattr(textures, "sprite", lambda rng, family, side: textures.opaque(np.full((side, side, 3), 255)))
    for seed in range(6):
        for height, width in ((48, 160), (160, 48)):
            scene = render(seed, frames=160, sprites=1, height=height, width=width, size=8, step=0.1, camera=True)
            assert np.allclose(scene.camera[0], np.eye(2, 3), atol=1e-5)
            assert scene.frames.min() >= 254


def test_lighting_is_one_smooth_gain_for_the_whole_frame() -> None:
    plain, lit = render(6, **{**SMALL, "frames": 64}), render(6, **{**SMALL, "frames": 64}, lighting=True)
    gain = lit.frames.mean(axis=(1, 2, 3)) / plain.frames.mean(axis=(1, 2, 3))
    assert gain.min() > 0.68
    assert gain.max() < 1.32
    assert np.ptp(gain) > 0.15
    assert np.abs(np.diff(gain)).max() < 0.05
    unclipped = np.abs(lit.frames - gain[:, None, None, None] * plain.frames)[lit.frames < 255]
    assert np.median(unclipped) < 2


def test_the_bar_sweeps_over_every_sprite_and_hides_it() -> None:
    settings: dict[str, Any] = {**SMALL, "frames": 40, "step": 0.3}
    plain, barred = render(8, **settings), render(8, **settings, occlusion=True)
    assert plain.visible.all()
    hidden = ~barred.visible
    assert hidden.any(axis=1).all()
    assert not hidden.any(axis=0).all()
    for s, t in np.argwhere(hidden):
        x, y = np.rint(barred.position[s, t]).astype(int)
        assert barred.bar[t, 0] <= barred.position[s, t, 0] < barred.bar[t, 1]
        assert barred.owner(barred.position[s, t][None], t)[0] == -1
        patch = np.s_[t, y - 3 : y + 4, max(x - 1, 0) : x + 2]
        assert np.abs(barred.frames[patch].astype(int) - plain.frames[patch]).max() > 10


# ---- who lies under a point


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, derandomize=True)
def test_a_centre_in_the_frame_is_visible_exactly_where_its_sprite_is_on_top(seed: int) -> None:
    crowd: dict[str, Any] = {"frames": 16, "sprites": 9, "height": 130, "width": 130, "size": 30, "step": 3.0}
    scene = render(seed, **crowd, camera=True, occlusion=True)
    owner = np.stack([scene.owner(scene.position[:, t], t) for t in range(16)], axis=1)
    inside = ((scene.position >= -0.5) & (scene.position < 129.5)).all(axis=-1)
    assert np.array_equal(scene.visible, inside & (owner == np.arange(9)[:, None]))


def test_overlapping_sprites_hide_each_other() -> None:
    crowded = [
        render(seed, frames=40, sprites=9, height=130, width=130, size=30, step=2.0).visible.all() for seed in range(4)
    ]
    assert not all(crowded)


def test_a_point_beside_all_sprites_belongs_to_the_background() -> None:
    scene = render(0, **SMALL)
    centre = scene.position[:, 0]
    assert np.array_equal(scene.owner(centre), np.arange(4))
    assert np.array_equal(scene.owner(centre + np.array([9.9, -9.9])), np.arange(4))
    assert (scene.owner(centre + np.array([10.1, 0])) == -1).all()
    assert np.array_equal(scene.owner(centre + np.array([10.1, 0]), margin=0.5), np.arange(4))
    assert (scene.owner(centre + np.array([10.6, 0]), margin=0.5) == -1).all()
    assert scene.owner(np.empty((0, 2))).shape == (0,)


# ---- files


def test_a_written_video_is_read_back_exactly(tmp_path: Path) -> None:
    scene = render(9, frames=8, sprites=2, height=98, width=130, size=20, **OPTIONS)
    path = tmp_path / "clips" / "scene.avi"
    write(scene, path)
    video = cv2.VideoCapture(str(path))
    for frame in scene.frames:
        assert np.array_equal(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB), frame)
    assert not video.read()[0]
    assert [file.name for file in path.parent.iterdir()] == ["scene.avi"]


def test_a_video_that_does_not_come_back_exactly_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "_same", lambda bgr, rgb: False)
    with pytest.raises(OSError, match=r"scene\.avi was not written without loss"):
        write(render(9, **SMALL), tmp_path / "scene.avi")
    assert not list(tmp_path.iterdir())


# ---- bad arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seed", -1),
        ("frames", 0),
        ("sprites", 0),
        ("sprites", 2.5),
        ("height", 0),
        ("width", 0),
        ("size", 4),
        ("size", 60),
        ("coupled", -1),
        ("coupled", 3),
        ("static", -1),
        ("static", 3),
        ("rho", 1.0),
        ("rho", -0.1),
        ("rho", float("nan")),
        ("step", 0.0),
        ("step", float("inf")),
        ("step", 200.0),
    ],
)
def test_a_bad_argument_is_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        render(**{"seed": 0, **SMALL, "coupled": 1, argument: value})


def test_a_bad_point_frame_or_path_is_named(tmp_path: Path) -> None:
    scene = render(0, **SMALL)
    with pytest.raises(ValueError, match="points must have shape"):
        scene.owner([1.0, 2.0])
    with pytest.raises(ValueError, match="frame 8 is outside the clip; choose 0 to 7"):
        scene.owner([[1.0, 2.0]], 8)
    with pytest.raises(ValueError, match=r"must end in \.avi"):
        write(scene, tmp_path / "scene.mp4")
    with pytest.raises(ValueError, match="render an even height and width"):
        write(render(0, **{**SMALL, "width": 121}), tmp_path / "scene.avi")
    assert not list(tmp_path.iterdir())
