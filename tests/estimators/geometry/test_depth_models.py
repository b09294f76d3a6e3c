"""Depth maps come from where told: a folder, an ONNX file or a MiDaS checkpoint; anything else is refused."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infoaug.estimators.geometry import depth_models
from infoaug.estimators.geometry.depth import depth_maps

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
FRAMES.setflags(write=False)  # as a reader of clips gives them


def refused(source, reason: str, **window) -> None:
    """Check that a source is refused with this reason."""
    with pytest.raises(ValueError, match=reason):
        depth_maps(str(source), FRAMES, **window)


def stored(folder: Path, suffix: str, count: int = 12) -> Path:
    """Write maps whose values are their numbers; names count without leading zeros."""
    folder.mkdir(parents=True)
    for number in range(count):
        values = np.full((4, 6), number, np.uint16 if suffix == ".png" else np.float32)
        if suffix == ".npy":
            np.save(folder / f"{number}.npy", values)
        else:
            assert cv2.imwrite(str(folder / f"{number}{suffix}"), values)
    return folder


@pytest.mark.parametrize("suffix", depth_models.MAP_SUFFIXES)
def test_stored_maps_are_taken_by_number_for_the_frames_of_the_window(tmp_path, suffix):
    stored(tmp_path / "maps" / "street", suffix)
    maps = depth_maps(str(tmp_path / "maps"), FRAMES, numbers=range(9, 12), clip=tmp_path / "street.mp4")
    assert maps.shape == (3, 4, 6) and maps.dtype == np.float32
    few = depth_maps(str(tmp_path / "maps"), FRAMES, numbers=[7, 9, 11], clip=tmp_path / "street.mp4")
    assert few[:, 0, 0].tolist() == [7, 9, 11]
    np.testing.assert_array_equal(maps[:, 0, 0], [9, 10, 11])


def test_clips_of_one_name_find_their_maps_by_their_folder(tmp_path):
    stored(tmp_path / "maps" / "b" / "street", ".npy", 3)
    np.save(stored(tmp_path / "maps" / "street", ".npy", 3) / "0.npy", np.full((4, 6), np.inf, np.float32))
    (tmp_path / "a" / "street").mkdir(parents=True)
    maps = [depth_maps(str(tmp_path / "maps"), FRAMES, clip=tmp_path / clip) for clip in ("a/street", "b/street.avi")]
    assert np.isnan(maps[0][0]).all() and (maps[1][0] == 0).all()


def test_a_float_map_counts_before_its_rounded_picture(tmp_path):
    folder = stored(tmp_path / "street", ".pfm", 3)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((4, 6), 99, np.uint8))
    assert depth_maps(str(tmp_path), FRAMES, clip="street.mp4").max() == 2


def test_maps_that_are_missing_unreadable_or_unequal_are_refused(tmp_path):
    refused(tmp_path, r"no depth maps for clip .*street.mp4: .*extract\.depth", clip="street.mp4")
    folder = stored(tmp_path / "street", ".npy", 5)
    late = range(3, 6)
    refused(tmp_path, r"5 depth maps, but frames up to 5 of clip street\.mp4 need 6", numbers=late, clip="street.mp4")
    refused(tmp_path, "need the path of their clip")
    np.save(folder / "1.npy", np.zeros((5, 6), np.float32))
    refused(tmp_path, "differ in size", clip="street.mp4")
    for broken in (b"", b"no numbers"):
        (folder / "1.npy").write_bytes(broken)
        refused(tmp_path, r"1\.npy is not a readable depth map", clip="street.mp4")
    np.save(folder / "1.npy", np.zeros((4, 6, 3), np.float32))
    refused(tmp_path, "of one channel", clip="street.mp4")


def field(number: int, value: bytes | int) -> bytes:
    """Encode one protobuf field: a varint, or bytes with their length."""

    def varint(left: int) -> bytes:
        return bytes([left & 127 | 128]) + varint(left >> 7) if left > 127 else bytes([left])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: bytes, shape: tuple[int | bytes, ...]) -> bytes:
    """Encode a ValueInfoProto of floats; a size in bytes is a name: left open."""
    dims = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def network(file: Path, shape: tuple[int | bytes, ...] = (1, 3, 16, 24), axis: int = 1) -> str:
    """Write an ONNX file of one node, the mean over an axis: over the channels, the brightness for a depth."""
    axes = field(1, b"axes") + field(8, axis) + field(20, 7)
    keep = field(1, b"keepdims") + field(3, 1) + field(20, 2)
    node = field(1, b"x") + field(2, b"y") + field(4, b"ReduceMean") + field(5, axes) + field(5, keep)
    out = tuple(1 if i == axis else size for i, size in enumerate(shape))
    graph = field(1, node) + field(2, b"g") + field(11, tensor(b"x", shape)) + field(12, tensor(b"y", out))
    file.write_bytes(field(1, 7) + field(7, graph) + field(8, field(1, b"") + field(2, 11)))
    return str(file)


@pytest.fixture
def onnxruntime():
    """Skip a test without onnxruntime; no network is cached before or after it."""
    pytest.importorskip("onnxruntime")
    depth_models.onnx.cache_clear()
    yield
    depth_models.onnx.cache_clear()


def test_an_onnx_network_sees_rgb_from_0_to_1_at_its_own_size(tmp_path, onnxruntime):
    maps = depth_maps(network(tmp_path / "mean.onnx"), FRAMES)
    expected = [cv2.resize(f / np.float32(255), (24, 16), interpolation=cv2.INTER_CUBIC).mean(axis=2) for f in FRAMES]
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_imagenets_mean_and_deviation_are_taken_out_where_asked(tmp_path, onnxruntime):
    grey = np.full((1, 16, 24, 3), 128, np.uint8)
    maps = depth_maps("imagenet:" + network(tmp_path / "mean.onnx"), grey)
    colour = (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(maps, colour.mean(), atol=1e-5)


def test_a_network_that_leaves_its_size_open_runs_at_that_of_midas(tmp_path, onnxruntime):
    assert depth_maps(network(tmp_path / "open.onnx", (b"N", 3, b"H", b"W")), FRAMES).shape == (3, 384, 384)


def test_files_that_are_no_network_of_depth_are_refused(tmp_path, onnxruntime):
    file = tmp_path / "network.onnx"
    refused(file, "does not exist")
    whole = Path(network(file)).read_bytes()
    for broken in (b"", b"hello, no network in here", whole[: len(whole) // 2], bytes(range(256))):
        file.write_bytes(broken)
        refused(file, r"network.onnx is no ONNX network .* set extract\.depth")
    network(file, (1, 1, 16, 24))
    refused(file, r"not \[1, 3, H, W\]")
    network(file, axis=3)
    refused(file, r"returns an array of \[1, 3, 16, 1\], not one map")
    file.write_bytes(Path(network(file)).read_bytes().replace(b"ReduceMean", b"NoSuchNode"))
    depth_models.onnx.cache_clear()
    refused(file, "no ONNX network")


def test_without_onnxruntime_an_onnx_file_is_refused_with_the_command_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    depth_models.onnx.cache_clear()
    refused(network(tmp_path / "mean.onnx"), r"pip install 'infoaug\[depth\]'")


HUBCONF = """
import torch
class Network(torch.nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.pretrained = torch.nn.Module()
        self.pretrained.model = torch.nn.Module()
        self.pretrained.model.pos_embed = torch.nn.Parameter(torch.zeros(1))
        if sign > 0:
            self.pretrained.model.patch_embed = torch.nn.Module()
            self.pretrained.model.patch_embed.backbone = torch.nn.Linear(1, 1)
        self.sign = sign
    def forward(self, x):
        return self.sign * x.mean(1) + self.pretrained.model.pos_embed
def DPT_Hybrid(pretrained=True):
    assert not pretrained, "weights would be fetched"
    return Network(1)
def DPT_Large(pretrained=True):
    assert not pretrained, "weights would be fetched"
    return Network(-1)
def transforms():
    import types
    prepare = lambda image: torch.from_numpy(image[::2, ::2] / 255).permute(2, 0, 1)[None].float()
    return types.SimpleNamespace(dpt_transform=prepare)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A torch.hub cache with small stand-ins for MiDaS's entry points, and no way out."""
    code = tmp_path / "hub" / "intel-isl_MiDaS_master"
    code.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUBCONF)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("a download"))
    depth_models.midas.cache_clear()
    yield code
    depth_models.midas.cache_clear()


def checkpoint(file: Path, hybrid: bool) -> str:
    """Write weights as MiDaS publishes them, or inside a training checkpoint."""
    weights = {"pretrained.model.pos_embed": torch.full((1,), 2.0)}
    if hybrid:
        weights |= {f"pretrained.model.patch_embed.backbone.{name}": torch.zeros(1) for name in ("bias",)}
        weights["pretrained.model.patch_embed.backbone.weight"] = torch.zeros(1, 1)
    torch.save(weights if hybrid else {"model": weights, "optimizer": {}}, file)
    return f"midas:{file}"


@pytest.mark.parametrize("hybrid", [True, False])
def test_a_midas_checkpoint_says_which_network_it_is_of(tmp_path, hub, hybrid):
    maps = depth_maps(checkpoint(tmp_path / "any_name.pt", hybrid), FRAMES)
    expected = 2 + (1 if hybrid else -1) * FRAMES[:, ::2, ::2].mean(axis=3) / 255
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_a_network_is_loaded_once_a_process(tmp_path, hub):
    source = checkpoint(tmp_path / "dpt.pt", True)
    first = depth_maps(source, FRAMES)
    (hub / "hubconf.py").unlink()
    np.testing.assert_array_equal(depth_maps(source, FRAMES), first)


def test_what_midas_needs_and_is_not_there_is_named(tmp_path, hub):
    refused(f"midas:{tmp_path}/gone.pt", r"extract\.depth names the checkpoint .*gone\.pt, which does not exist")
    source = checkpoint(tmp_path / "dpt.pt", True)
    (hub / "hubconf.py").write_text("raise RuntimeError('a timm that it does not know')")
    refused(source, "a timm that it does not know")
    (hub / "hubconf.py").unlink()
    refused(source, r"MiDaS's code in .*isl-org_MiDaS_master; put a clone")


def test_checkpoints_that_are_not_dpts_are_refused(tmp_path, hub):
    file = tmp_path / "other.pt"
    for broken in (b"", b"no weights"):
        file.write_bytes(broken)
        refused(f"midas:{file}", r"other\.pt is not a checkpoint that torch loads as plain weights")
    torch.save({"scratch.layer1_rn.weight": torch.zeros(1)}, file)
    refused(f"midas:{file}", "neither DPT-Hybrid nor DPT-Large")
    torch.save({"pretrained.model.pos_embed": torch.zeros(7)}, file)
    refused(f"midas:{file}", r"cannot take .*other\.pt of extract\.depth")
