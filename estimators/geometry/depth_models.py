"""Sources of depth maps: a MiDaS checkpoint, an ONNX file, or a folder of precomputed maps.

Nothing is downloaded. A monocular network predicts inverse depth (larger is nearer) up to a scale and a shift per
frame, which `depth.align_depth` removes.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.video.clips import in_order

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Network = Callable[[Bytes], Floats]  # u8[H, W, 3] RGB → f32[H', W']

# Formats of stored maps, the preferred one first: MiDaS's run.py writes an exact .pfm beside a rounded .png.
MAP_SUFFIXES = (".npy", ".pfm", ".tif", ".tiff", ".png")
# Input size of a network whose file does not declare one, pixels; MiDaS was trained at this size.
_OPEN_SIZE = 384
_IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=np.float32)


@lru_cache(maxsize=1)
def midas(checkpoint: str) -> Network:
    """Load a DPT network of MiDaS v3 (Ranftl et al. 2021) from a local checkpoint, through torch.hub's local cache.

    The checkpoints are MiDaS's published `dpt_hybrid_384.pt` and `dpt_large_384.pt` (or the older
    `dpt_hybrid-midas-501f0c75.pt`, `dpt_large-midas-2f21e586.pt`); the weights tell which of the two it is. The
    code is the repository isl-org/MiDaS in torch.hub's cache, through its entry points `DPT_Hybrid`, `DPT_Large` and
    `transforms`. Networks of v2.1 download other repositories when they are built; use their ONNX files. The network
    runs on the GPU if torch sees one. The last one is cached.

    Raises:
        ValueError: the checkpoint or the code is missing, or they do not fit together.
    """
    import torch

    if not Path(checkpoint).is_file():
        raise ValueError(f"extract.depth names the checkpoint {checkpoint}, which does not exist; correct the path")
    try:
        weights: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights = weights.get("model", weights)
        names = list(weights)
    except Exception as error:
        raise ValueError(
            f"{checkpoint} is not a checkpoint that torch loads as plain weights; set extract.depth to a file that "
            "MiDaS published, such as midas:dpt_hybrid_384.pt"
        ) from error
    if "pretrained.model.pos_embed" not in names:
        raise ValueError(
            f"{checkpoint} is neither DPT-Hybrid nor DPT-Large of MiDaS; set extract.depth to one of these, or to an "
            "ONNX file of the network"
        )
    hybrid = any(name.startswith("pretrained.model.patch_embed.backbone.") for name in names)
    code = _midas_code(Path(torch.hub.get_dir()))
    try:
        network: Any = torch.hub.load(code, "DPT_Hybrid" if hybrid else "DPT_Large", source="local", pretrained=False)
        network.load_state_dict(weights)
        prepare: Any = torch.hub.load(code, "transforms", source="local").dpt_transform
    except Exception as error:  # the code in the cache may raise anything, for example with a newer timm
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the MiDaS code in {code} cannot take {checkpoint} of extract.depth ({type(error).__name__}: {reason}); "
            "update the code, or set extract.depth to an ONNX file"
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.eval().to(device)

    def run(frame: Bytes) -> Floats:
        with torch.inference_mode():
            return _single_map(network(prepare(frame).to(device)).float().cpu().numpy(), checkpoint)

    return run


@lru_cache(maxsize=1)
def onnx(file: str, imagenet: bool = False) -> Network:
    """Load a network from an ONNX file with onnxruntime.

    Its first input is one RGB image [1, 3, H, W] from 0 to 1, to whose size the frame is brought; 384x384 if the file
    leaves the size open. MiDaS's published files (`model-f6b98070.onnx`, `model-small.onnx`) take it so and normalise
    it themselves; with `imagenet` ImageNet's mean and deviation are taken out first, as most other exports want it.
    Its first output is one map. Cached: one network a process. Raises ValueError if onnxruntime or the file is
    missing, or if it is no network of this kind.
    """
    if not Path(file).is_file():
        raise ValueError(f"extract.depth names {file}, which does not exist; correct the path of the ONNX file")
    session = _session(file)
    height, width = _input_size(session, file)
    name = session.get_inputs()[0].name

    def run(frame: Bytes) -> Floats:
        image = cv2.resize(frame.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_CUBIC)
        if imagenet:
            image = (image - _IMAGENET[0]) / _IMAGENET[1]
        try:
            output = session.run(None, {name: np.ascontiguousarray(image.transpose(2, 0, 1)[None])})[0]
        except Exception as error:
            raise ValueError(
                f"the network in {file} cannot be run; set extract.depth to a file that takes one image [1, 3, H, W]"
            ) from error
        return _single_map(output, file)

    return run


def stored_maps(folder: Path, clip: Path, numbers: Sequence[int]) -> Floats:
    """Read the maps of a clip's frames of these numbers, ascending: f32[T, H', W'], NaN where not finite.

    The maps are in FOLDER/PARENT/NAME or, if there is no such folder, in FOLDER/NAME. NAME is the name of the clip
    without its suffix, PARENT that of its folder, for clips that share names. The files are frames 0, 1, 2, … in the
    natural order of their names: `.npy` or `.pfm`, f32[H', W'], or `.tif` or `.png` with one channel of 8 or 16 bits
    (`.tif` also f32). If a folder contains several formats, the first in `MAP_SUFFIXES` is used.

    Raises:
        ValueError: maps are missing, unreadable or of different sizes.
    """
    name = clip.name if clip.is_dir() else clip.stem
    candidates = [folder / clip.resolve().parent.name / name, folder / name]
    map_folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if map_folder is None:
        raise ValueError(
            f"no depth maps for clip {clip}: neither {candidates[0]} nor {candidates[1]} exists; put them there or "
            "correct extract.depth"
        )
    files: list[Path] = []
    for suffix in MAP_SUFFIXES:
        files = files or in_order(f for f in map_folder.iterdir() if f.suffix.lower() == suffix)
    if len(files) <= numbers[-1]:
        raise ValueError(
            f"{map_folder} contains {len(files)} depth maps, but frames up to {numbers[-1]} of clip {clip} need "
            f"{numbers[-1] + 1}; give extract.depth a map for every frame"
        )
    maps = [_stored_map(file) for file in (files[number] for number in numbers)]
    if len({map.shape for map in maps}) > 1:
        raise ValueError(
            f"the depth maps in {map_folder} differ in size; give extract.depth maps of one size for a clip"
        )
    return np.stack(maps)


def _midas_code(hub: Path) -> str:
    """Return the folder of MiDaS's code in torch.hub's cache; ValueError if it is missing."""
    for pattern in ("isl-org_MiDaS_*", "intel-isl_MiDaS_*"):
        for folder in sorted(hub.glob(pattern)):
            if (folder / "hubconf.py").is_file():
                return str(folder)
    raise ValueError(
        f"extract.depth needs MiDaS's code in {hub / 'isl-org_MiDaS_master'}; put a clone of "
        "https://github.com/isl-org/MiDaS there"
    )


def _session(file: str) -> Any:
    """Load an ONNX file with onnxruntime, on the CPU, or raise ValueError."""
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError:
        raise ValueError(
            "extract.depth names an ONNX file, which needs onnxruntime: pip install 'infoaug[depth]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, cv2.getNumThreads())  # no more than the rest of this process may use
    options.log_severity_level = 4  # errors are raised, and need not be logged too
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(
            f"{file} is no ONNX network that onnxruntime can load; set extract.depth to the file of a network "
            "that takes one RGB image"
        ) from error


def _input_size(session: Any, file: str) -> tuple[int, int]:
    """Return the height and width of the network's input image, 384 pixels where the file leaves them open."""
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(
            f"the network in {file} takes an input {shape}, not [1, 3, H, W]; set extract.depth to the ONNX file of a "
            "network that takes one RGB image"
        )
    # An open size is None or a name.
    height, width = (size if isinstance(size, int) and 0 < size < 1 << 16 else _OPEN_SIZE for size in shape[2:])
    return height, width


def _single_map(output: Any, source: str) -> Floats:
    """Drop the axes of length 1 before the last two: f32[H', W']; ValueError if there is more than one map."""
    shape = np.shape(output)
    if len(shape) < 2 or np.prod(shape[:-2]) != 1:
        raise ValueError(
            f"the network in {source} returns an array of {list(shape)}, not one map; set extract.depth to a network "
            "that predicts depth"
        )
    return np.asarray(output, dtype=np.float32).reshape(shape[-2:])


def _stored_map(file: Path) -> Floats:
    """Read one map: f32[H', W'], NaN where not finite; ValueError if it is unreadable or has several channels."""
    values: Any = None
    try:
        if file.is_file():  # a pipe would block
            stored = file.suffix.lower() == ".npy"
            values = np.load(file) if stored else cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, EOFError, MemoryError, cv2.error):
        pass
    if values is None or values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"{file} is not a readable depth map of one channel; replace it or correct extract.depth")
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)
