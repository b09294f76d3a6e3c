"""BootsTAPIR (Doersch et al. 2024, arXiv:2402.00847) and TAPNext++ (Zholus et al. 2025, arXiv:2504.05579).

Both take the clip at 256×256 and use raster coordinates: (0, 0) is the corner of the top-left pixel, not its centre.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.trackers.base import Tracks
from infoaug.estimators.trackers.weights import (
    Published,
    build,
    device,
    finished,
    own_randomness,
    read_weights,
    weights_file,
)

_INSTALL = "pip install 'tapnet[torch] @ git+https://github.com/google-deepmind/tapnet'"
_HUB_FOLDER = "google-deepmind_tapnet_main"

BOOTSTAPIR = Published(
    name="BootsTAPIR",
    module="tapnet.torch.tapir_model",
    install=_INSTALL,
    hub_folder=_HUB_FOLDER,
    file="https://storage.googleapis.com/dm-tapnet/bootstap/bootstapir_checkpoint_v2.pt",
)
TAPNEXT = Published(
    name="TAPNext++",
    module="tapnet.tapnext.tapnext_torch",
    install=_INSTALL,
    hub_folder=_HUB_FOLDER,
    file="https://storage.googleapis.com/dm-tapnet/tapnextpp/tapnextpp_ckpt.pt",
)

# Side of the square that the models were trained on, pixels.
_SIDE = 256


def track(frames: NDArray[np.uint8], queries: NDArray[np.float32], *, weights: str | Path | None) -> Tracks:
    """Track points of the first frame with BootsTAPIR or TAPNext++.

    Args:
        frames: u8[T, H, W, 3] RGB or u8[T, H, W].
        queries: f32[N, 2], (x, y) in frame 0.
        weights: the published `bootstapir_checkpoint_v2.pt` or `tapnextpp_ckpt.pt`, a local file. The
            names of its tensors tell which of the two it is.

    The code is the package `tapnet`, or its repository in torch.hub's cache. BootsTAPIR tracks every point
    independently; it is visible where (1 − sigmoid(occlusion)) · (1 − sigmoid(expected_dist)) > 1/2. TAPNext++ tracks
    the points jointly, frame by frame; a point is visible where its logit is positive.

    Raises:
        ValueError: the weights or the code are missing or do not fit together.
    """
    import torch

    model, published = _model(*weights_file(weights, BOOTSTAPIR))
    count, length = len(queries), len(frames)
    if count == 0 or length == 1:
        return Tracks(
            np.repeat(np.asarray(queries, dtype=np.float32)[:, None], length, axis=1), np.ones((count, length), bool)
        )
    scale = _SIDE / np.array(frames.shape[2:0:-1])
    timed = np.concatenate([np.zeros((count, 1)), ((queries + 0.5) * scale)[:, ::-1]], axis=1).astype(np.float32)
    with torch.inference_mode(), own_randomness():
        run = _bootstapir if published is BOOTSTAPIR else _tapnext
        points, seen = run(model, torch.from_numpy(_video(frames))[None], torch.from_numpy(timed)[None].to(device()))
    return finished((points / scale - 0.5).astype(np.float32), seen, queries, published)


@lru_cache(maxsize=1)
def _model(path: str, changed: int) -> tuple[Any, Published]:
    """Load the model and return which one it is; cached by its file and the time of the file's last change (ns)."""
    state = {name.removeprefix("tapnext."): value for name, value in read_weights(path, BOOTSTAPIR).items()}
    if "image_pos_emb" in state:
        return build(TAPNEXT, lambda code: code.TAPNext(image_size=(_SIDE, _SIDE)), state, path), TAPNEXT
    if not any(name.startswith("torch_pips_mixer.") for name in state):
        raise ValueError(f"the weights {path} are neither BootsTAPIR's nor TAPNext++'s; {BOOTSTAPIR.remedy}")
    if "causal" in Path(path).name:  # its tensors have the same names and shapes
        raise ValueError(f"{path} is the causal BootsTAPIR, which does not use later frames; {BOOTSTAPIR.remedy}")
    return build(BOOTSTAPIR, lambda code: code.TAPIR(pyramid_level=1), state, path), BOOTSTAPIR


def _bootstapir(model: Any, video: Any, queries: Any) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return (x, y) f[N, T, 2] in raster coordinates and visible bool[N, T]; 64 points at a time."""
    output = model(_signed(video), queries, query_chunk_size=64)
    visible = (1 - output["occlusion"][0].sigmoid()) * (1 - output["expected_dist"][0].sigmoid()) > 0.5
    return output["tracks"][0].cpu().numpy(), visible.cpu().numpy()


def _tapnext(model: Any, video: Any, queries: Any) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return (x, y) f[N, T, 2] in raster coordinates and visible bool[N, T]; the model returns (y, x)."""
    points, seen, state = [], [], None
    for t in range(video.shape[1]):
        first = {"query_points": queries} if state is None else {"state": state}
        point, _, logit, state = model(video=_signed(video[:, t : t + 1]), **first)
        points.append(point[0, 0].cpu().numpy()[:, ::-1])
        seen.append(logit[0, 0, :, 0].cpu().numpy() > 0)
    return np.stack(points, axis=1), np.stack(seen, axis=1)


def _signed(video: Any) -> Any:
    """Move bytes to the device, as floats from −1 to 1."""
    return video.to(device()).float() / 255 * 2 - 1


def _video(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return u8[T, 256, 256, 3]: reduced by area averaging or enlarged linearly, borders aligned."""
    mode = cv2.INTER_AREA if min(frames.shape[1:3]) >= _SIDE else cv2.INTER_LINEAR
    video = np.empty((len(frames), _SIDE, _SIDE, 3), dtype=np.uint8)
    for picture, frame in zip(video, frames, strict=True):
        small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=mode)
        picture[:] = small if frame.ndim == 3 else small[:, :, None]
    return video
