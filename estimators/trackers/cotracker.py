"""CoTracker3, offline: all frames of a clip at once, the points jointly (Karaev et al. 2024, arXiv:2410.11831)."""

from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.trackers.base import Tracks
from infoaug.estimators.trackers.weights import Published, build, device, finished, read_weights, weights_file

COTRACKER3 = Published(
    name="CoTracker3 offline",
    module="cotracker.predictor",
    install="pip install git+https://github.com/facebookresearch/co-tracker",
    hub_folder="facebookresearch_co-tracker_main",
    file="https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth",
)

# The correlations of one point in one frame take about 0.1 MB, those of a group of this many about 2 GB.
_POINT_FRAMES = 20_000
_FRAMES_AT_ONCE = 8


def track(frames: NDArray[np.uint8], queries: NDArray[np.float32], *, weights: str | Path | None) -> Tracks:
    """Track points of the first frame with CoTracker3 offline.

    Args:
        frames: u8[T, H, W, 3] RGB or u8[T, H, W].
        queries: f32[N, 2], (x, y) in frame 0.
        weights: the published `scaled_offline.pth` or `baseline_offline.pth`, a local file.

    The code is the package `cotracker`, or its repository in torch.hub's cache. Points are tracked jointly with a
    sparse grid that the predictor adds. Many points are tracked in independent groups of about 20 000 / T.

    Raises:
        ValueError: the weights or the code are missing or do not fit together.
    """
    import torch

    predictor = _predictor(*weights_file(weights, COTRACKER3))
    count, length = len(queries), len(frames)
    position = np.repeat(np.asarray(queries, dtype=np.float32)[:, None], length, axis=1)
    visible = np.ones((count, length), dtype=bool)
    if count == 0 or length == 1:
        return Tracks(position, visible)
    height, width = predictor.interp_shape
    # The model aligns the centres of the corner pixels of both images.
    scale = (np.array([width, height]) - 1) / np.maximum(np.array(frames.shape[2:0:-1]) - 1, 1)
    timed = np.concatenate([np.zeros((count, 1)), queries * scale], axis=1).astype(np.float32)
    groups = np.array_split(np.arange(count), -(-count * length // _POINT_FRAMES))
    with torch.inference_mode():
        video = _video(frames, (height, width))
        for group in (group for group in groups if len(group)):
            points, seen = predictor(video, queries=torch.from_numpy(timed[group])[None].to(video.device))
            position[group] = points[0].transpose(0, 1).float().cpu().numpy() / scale
            visible[group] = seen[0].transpose(0, 1).cpu().numpy()
    return finished(position, visible, queries, COTRACKER3)


@lru_cache(maxsize=1)
def _predictor(path: str, changed: int) -> Any:
    """Load the predictor; the last one is cached, by its file and the time of the file's last change (ns)."""
    # The file contains the network, which is the attribute `model` of the predictor.
    state = {f"model.{name}": value for name, value in read_weights(path, COTRACKER3).items()}

    def make(code: ModuleType) -> Any:
        # As in the repository's hubconf, but without a checkpoint: it would be unpickled, which may run code.
        return code.CoTrackerPredictor(checkpoint=None, window_len=60, v2=False)

    return build(COTRACKER3, make, state, path)


def _video(frames: NDArray[np.uint8], shape: tuple[int, int]) -> Any:
    """Return f32[1, T, 3, H', W'] from 0 to 255, resized like the predictor does, but a few frames at a time."""
    import torch
    from torch.nn.functional import interpolate

    pictures = []
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        # A copy, because torch wants writable memory.
        some = torch.from_numpy(frames[start : start + _FRAMES_AT_ONCE].copy()).to(device())
        some = some.permute(0, 3, 1, 2) if some.ndim == 4 else some[:, None].expand(-1, 3, -1, -1)
        pictures.append(interpolate(some.float(), tuple(shape), mode="bilinear", align_corners=True))
    return torch.cat(pictures)[None]
