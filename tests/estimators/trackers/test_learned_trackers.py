"""The adapters of learned trackers, against small packages that have the published classes and track by a known rule.

The rule: half way between the query and the centroid of the red channel, in the model's own coordinates. So a wrong
scale, order, half pixel, channel or range on the way in or out moves the answer.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infoaug.estimators.trackers import cotracker, tapir, weights
from infoaug.estimators.trackers.base import Tracks

COTRACKER = """
import torch
torch.manual_seed(0)
BUILT = []

class CoTrackerPredictor(torch.nn.Module):
    def __init__(self, checkpoint="elsewhere.pth", offline=True, v2=False, window_len=60):
        super().__init__()
        assert checkpoint is None and offline and not v2 and window_len == 60
        BUILT.append(self)
        self.interp_shape = (384, 512)
        self.model = torch.nn.Linear(2, 3)

    def forward(self, video, queries=None):
        assert not self.training and torch.is_inference_mode_enabled() and video.max() > 100
        _, _, channels, height, width = video.shape
        assert channels == 3 and (queries[..., 0] == 0).all()
        # The published predictor brings any size to its own, corner pixels onto corner pixels.
        given, own = torch.tensor([width - 1, height - 1]), torch.tensor([511, 383])
        red = video[0, :, 0]
        x = (red.sum(1) * torch.arange(width)).sum(1) / red.sum((1, 2))
        y = (red.sum(2) * torch.arange(height)).sum(1) / red.sum((1, 2))
        tracks = (torch.stack([x, y], 1)[None, :, None] + queries[:, None, :, 1:]) / 2 * self.model.weight[0, 0]
        return tracks, (tracks / given * own)[..., 0] > 256
"""
TAPIR = """
import torch
BUILT, SHUFFLED = [], []

class TAPIR(torch.nn.Module):
    def __init__(self, pyramid_level=0, use_casual_conv=False):
        super().__init__()
        assert pyramid_level == 1
        BUILT.append(self)
        self.torch_pips_mixer = torch.nn.Linear(1, 1)

    def forward(self, video, query_points, is_training=False, query_chunk_size=None):
        assert not self.training and torch.is_inference_mode_enabled() and video.shape[2:] == (256, 256, 3)
        SHUFFLED.append(torch.randperm(query_points.shape[1]))
        red = (video[0, ..., 0] + 1) / 2
        raster = torch.arange(256) + 0.5
        x = (red.sum(1) * raster).sum(1) / red.sum((1, 2))
        y = (red.sum(2) * raster).sum(1) / red.sum((1, 2))
        query = query_points[:, :, None].flip(-1)[..., :2]
        tracks = (torch.stack([x, y], 1)[None, None] + query) / 2 * self.torch_pips_mixer.weight[0, 0]
        # Visible, doubtful in both ways at once, occluded, imprecise, visible, ...
        occlusion = torch.tensor([9, -0.5, 9, -9, -9, -9]).expand(tracks.shape[:3])
        return {"tracks": tracks, "occlusion": occlusion, "expected_dist": occlusion.flip(-1) * 0 + torch.tensor(
            [9, -0.5, -9, 9, -9, -9])}
"""
TAPNEXT = """
import torch
BUILT = []

class TAPNext(torch.nn.Module):
    def __init__(self, image_size):
        super().__init__()
        assert image_size == (256, 256)
        BUILT.append(self)
        self.image_pos_emb = torch.nn.Parameter(torch.zeros(1))

    def forward(self, video, query_points=None, state=None):
        assert not self.training and torch.is_inference_mode_enabled() and video.shape[1:] == (1, 256, 256, 3)
        step, query_points = state or (0, query_points)
        assert (query_points[..., 0] == 0).all()
        red = (video[0, 0, ..., 0] + 1) / 2
        raster = torch.arange(256) + 0.5
        y, x = (red.sum(1) * raster).sum() / red.sum(), (red.sum(0) * raster).sum() / red.sum()
        tracks = (torch.stack([y, x]) + query_points[:, None, :, 1:]) / 2 * self.image_pos_emb
        logits = torch.full((*tracks.shape[:3], 1), 1.0 if step in (1, 4, 5) else -1.0)
        return tracks, None, logits, (step + 1, query_points)
"""
FILES = {
    "cotracker/predictor.py": COTRACKER,
    "tapnet/torch/tapir_model.py": TAPIR,
    "tapnet/tapnext/tapnext_torch.py": TAPNEXT,
}
STATES: dict[str, dict[str, Any]] = {
    "cotracker": {"weight": torch.ones(3, 2), "bias": torch.zeros(3)},
    "tapir": {"torch_pips_mixer.weight": torch.ones(1, 1), "torch_pips_mixer.bias": torch.zeros(1)},
    "tapnext": {"state_dict": {"tapnext.image_pos_emb": torch.ones(1)}, "epoch": 3},
}
PUBLISHED = {"cotracker": cotracker.COTRACKER3, "tapir": tapir.BOOTSTAPIR, "tapnext": tapir.TAPNEXT}
URLS = {model: published.file for model, published in PUBLISHED.items()}
ADAPTERS = pytest.mark.parametrize("adapter", ["cotracker", "tapir"])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache of torch.hub, and no tracker's code or model left from another test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    _forget()
    yield
    _forget()


def _forget() -> None:
    cotracker._predictor.cache_clear()
    tapir._model.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cotracker", "tapnet")]:
        del sys.modules[name]


@pytest.fixture(params=sorted(STATES))
def model(request: pytest.FixtureRequest) -> str:
    """Each of the three models in turn."""
    return str(request.param)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The packages, importable."""
    folder = tmp_path / "site"
    _write_packages(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def _write_packages(folder: Path) -> None:
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (folder / name.partition("/")[0] / "__init__.py").touch()
        (file.parent / "__init__.py").touch()
        file.write_text(text)


def _weights(model: str, folder: Path, times: float = 1.0) -> Path:
    state = STATES[model]
    inner = {name: value * times for name, value in state.get("state_dict", state).items()}
    torch.save({**state, "state_dict": inner} if "state_dict" in state else inner, folder / f"{model}.pt")
    return folder / f"{model}.pt"


def _blob_clip(shape: tuple[int, int], count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A red blob that moves, u8[T, H, W, 3], and its centre f[T, 2]; something else is in the other channels."""
    height, width = shape
    centre = np.array([0.8 * width, 0.25 * height]) + np.arange(count)[:, None] * [-0.021 * width, 0.013 * height]
    y, x = np.mgrid[:height, :width]
    distance = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    frames[..., 0] = np.round(255 * np.exp(-distance / (2 * (0.06 * min(shape)) ** 2)))
    frames[:, : height // 3, : width // 5, 1:] = 200
    return frames, centre


def _queries(shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    return np.array([[0, 0], [width - 1, height - 1], [0.3 * width, 0.7 * height]], dtype=np.float32)


FRAMES, CENTRE = _blob_clip((90, 130))
QUERIES = _queries((90, 130))


def _track(model: str, file: str | Path | None, frames: np.ndarray = FRAMES, queries: np.ndarray = QUERIES) -> Tracks:
    adapter = cotracker if model == "cotracker" else tapir
    return adapter.track(frames, queries, weights=file)


def _sentence(model: str, file: str | Path | None) -> str:
    """The one sentence with which the adapter refuses, checked to be one that says where weights or code come from."""
    with pytest.raises(ValueError) as refusal:
        _track(model, file)
    sentence = str(refusal.value)
    assert "\n" not in sentence and ". " not in sentence
    assert URLS[model] in sentence or PUBLISHED[model].install in sentence
    return sentence


@pytest.mark.parametrize("shape", [(90, 130), (600, 700), (384, 512)])
def test_positions_are_pixels_of_the_clip_whatever_size_the_model_sees(
    model: str, shape: tuple[int, int], installed: Path, tmp_path: Path
) -> None:
    frames, centre = _blob_clip(shape)
    queries = _queries(shape)
    tracks = _track(model, _weights(model, tmp_path), frames, queries)
    assert tracks.position.dtype == np.float32 and tracks.visible.dtype == bool
    assert tracks.position.shape == (3, 6, 2) and tracks.visible.shape == (3, 6)
    np.testing.assert_allclose(tracks.position[:, 1:], (queries[:, None] + centre[None, 1:]) / 2, atol=0.03)


def test_in_frame_0_a_point_is_visible_at_its_query_whatever_the_model_says(
    model: str, installed: Path, tmp_path: Path
) -> None:
    tracks = _track(model, _weights(model, tmp_path))
    np.testing.assert_array_equal(tracks.position[:, 0], QUERIES)
    assert tracks.visible[:, 0].all()


def test_visibility_follows_the_published_rule_of_each_model(model: str, installed: Path, tmp_path: Path) -> None:
    expected = {
        "cotracker": [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
        "tapir": [[0, 0, 0, 1, 1]] * 3,
        "tapnext": [[1, 0, 0, 1, 1]] * 3,
    }[model]
    np.testing.assert_array_equal(_track(model, _weights(model, tmp_path)).visible[:, 1:], expected)


def test_a_grey_clip_gives_what_the_same_clip_in_three_channels_gives(
    model: str, installed: Path, tmp_path: Path
) -> None:
    grey, file = FRAMES[..., 0], _weights(model, tmp_path)
    colour = _track(model, file, np.repeat(grey[..., None], 3, axis=3))
    np.testing.assert_allclose(_track(model, file, grey).position, colour.position, atol=1e-3)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_frames_that_cannot_be_written_to_are_tracked_without_a_warning(
    model: str, channels: tuple[int, ...], installed: Path, tmp_path: Path
) -> None:
    frames, file = FRAMES if channels else np.ascontiguousarray(FRAMES[..., 0]), _weights(model, tmp_path)
    expected = _track(model, file, frames)
    fixed = frames.copy()
    fixed.setflags(write=False)
    torch.set_warn_always(True)  # by default torch says it once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tracks = _track(model, file, fixed)
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(tracks.position, expected.position)
    np.testing.assert_array_equal(fixed, frames)


def test_no_points_and_a_single_frame_are_answered(model: str, installed: Path, tmp_path: Path) -> None:
    file = _weights(model, tmp_path)
    assert _track(model, file, queries=QUERIES[:0]).position.shape == (0, 6, 2)
    single = _track(model, file, FRAMES[:1])
    np.testing.assert_array_equal(single.position[:, 0], QUERIES)
    assert single.visible.all() and single.visible.shape == (3, 1)


def test_cotracker_keeps_the_order_of_points_that_it_tracks_in_groups(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.random.default_rng(0).uniform(0, 89, (11, 2)).astype(np.float32)
    file = _weights("cotracker", tmp_path)
    together = _track("cotracker", file, queries=queries)
    monkeypatch.setattr(cotracker, "_POINT_FRAMES", 20)
    apart = _track("cotracker", file, queries=queries)
    np.testing.assert_allclose(apart.position, together.position, atol=1e-4)
    np.testing.assert_array_equal(apart.visible, together.visible)


def test_a_file_is_loaded_once_and_again_when_it_has_changed(model: str, installed: Path, tmp_path: Path) -> None:
    first = _track(model, _weights(model, tmp_path))
    _track(model, str(tmp_path / f"{model}.pt"))
    built: list[Any] = sys.modules[PUBLISHED[model].module].BUILT
    assert len(built) == 1
    second = _track(model, _weights(model, tmp_path, times=2))
    assert len(built) == 2
    assert not np.allclose(first.position[:, 1:], second.position[:, 1:])


def test_the_random_numbers_of_the_process_are_left_alone(model: str, installed: Path, tmp_path: Path) -> None:
    file = _weights(model, tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    _track(model, file)
    torch.testing.assert_close(torch.rand(4), expected)


def test_tapir_shuffles_its_points_alike_in_every_call(installed: Path, tmp_path: Path) -> None:
    queries, file = np.tile(QUERIES, (20, 1)), _weights("tapir", tmp_path)
    _track("tapir", file, queries=queries)
    torch.rand(1)
    _track("tapir", file, queries=queries)
    first, second = sys.modules["tapnet.torch.tapir_model"].SHUFFLED
    torch.testing.assert_close(first, second)


def test_code_that_is_not_installed_is_taken_from_the_cache_of_torch_hub(model: str, tmp_path: Path) -> None:
    folder = "facebookresearch_co-tracker_main" if model == "cotracker" else "google-deepmind_tapnet_main"
    _write_packages(tmp_path / "torch" / "hub" / folder)
    path = list(sys.path)
    tracks = _track(model, _weights(model, tmp_path))
    np.testing.assert_allclose(tracks.position[:, 1:], (QUERIES[:, None] + CENTRE[None, 1:]) / 2, atol=0.03)
    assert sys.path == path


@ADAPTERS
def test_weights_that_are_unset_or_missing_are_refused_with_where_to_get_them(adapter: str, tmp_path: Path) -> None:
    for unset in (None, ""):
        sentence = _sentence(adapter, unset)
        assert "not set" in sentence and "extract.tracker_weights" in sentence and "weights=" in sentence
    sentence = _sentence(adapter, tmp_path / "absent.pt")
    assert "no file" in sentence and "absent.pt" in sentence and "extract.tracker_weights" in sentence


class _Trap:
    """What would run code if its pickle were trusted."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


@ADAPTERS
def test_a_file_that_is_no_checkpoint_of_plain_tensors_is_refused_without_running_it(
    adapter: str, tmp_path: Path
) -> None:
    file = tmp_path / "other.pt"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 cut off"):
        file.write_bytes(content)
        assert "other.pt is not a checkpoint that torch loads as plain tensors" in _sentence(adapter, file)
    torch.save({"weight": _Trap(tmp_path / "sprung")}, file)
    assert "other.pt is not a checkpoint that torch loads as plain tensors" in _sentence(adapter, file)
    assert not (tmp_path / "sprung").exists()
    for saved in ([1, 2], {"epoch": 3}, torch.ones(2)):
        torch.save(saved, file)
        assert "other.pt contains no state dict" in _sentence(adapter, file)


@pytest.mark.parametrize(
    ("adapter", "state", "reason"),
    [
        ("cotracker", STATES["tapir"], "given.pt are not those of CoTracker3 offline"),
        ("cotracker", {"weight": torch.ones(3, 3)}, "given.pt are not those of CoTracker3 offline"),
        ("tapir", STATES["cotracker"], "given.pt are neither BootsTAPIR's nor TAPNext++'s"),
        ("tapir", {"torch_pips_mixer.weight": torch.ones(3, 3)}, "given.pt are not those of BootsTAPIR"),
        ("tapnext", {"image_pos_emb": torch.ones(3, 3)}, "given.pt are not those of TAPNext++"),
    ],
)
def test_weights_of_another_model_or_size_are_refused(
    adapter: str, state: dict[str, Any], reason: str, installed: Path, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "given.pt")
    assert reason in _sentence(adapter, tmp_path / "given.pt")


def test_the_causal_bootstapir_is_refused_by_its_name(installed: Path, tmp_path: Path) -> None:
    file = _weights("tapir", tmp_path).rename(tmp_path / "causal_bootstapir_checkpoint.pt")
    assert "causal BootsTAPIR" in _sentence("tapir", file)


def test_missing_code_is_refused_with_how_to_install_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = PUBLISHED[model].module.partition(".")[0]
    monkeypatch.setitem(sys.modules, package, None)
    sentence = _sentence(model, _weights(model, tmp_path))
    assert f"needs the module {package}." in sentence and "cannot be imported" in sentence
    assert "pip install" in sentence and str(tmp_path / "torch" / "hub") in sentence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_package_that_nobody_has", "a_package_that_nobody_has"),
        ("", "cannot build CoTracker3 offline"),
        ("class CoTrackerPredictor:\n    def __init__(self, checkpoint): pass", "cannot build CoTracker3 offline"),
    ],
)
def test_code_that_does_not_run_or_is_of_another_version_is_refused_with_how_to_renew_it(
    text: str, reason: str, installed: Path, tmp_path: Path
) -> None:
    (installed / "cotracker" / "predictor.py").write_text(text)
    sentence = _sentence("cotracker", _weights("cotracker", tmp_path))
    assert reason in sentence and "pip install" in sentence


def test_positions_that_are_not_finite_are_refused(model: str, installed: Path, tmp_path: Path) -> None:
    assert "not finite" in _sentence(model, _weights(model, tmp_path, times=np.nan))


def test_importing_the_adapters_does_not_import_torch() -> None:
    code = "import sys; from infoaug.estimators.trackers import cotracker, tapir; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(weights.__file__).parents[2]).returncode == 0
