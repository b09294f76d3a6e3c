"""Load learned trackers from a local file of weights and the code that their authors publish.

Nothing is downloaded; an error says what is missing and where to put it. torch is imported only when a tracker runs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infoaug.estimators.trackers.base import Tracks

Floats = NDArray[np.float32]

_SETTING = "extract.tracker_weights (weights= in Python)"


@dataclass(frozen=True)
class Published:
    """A learned tracker as its authors publish it.

    Attributes:
        name: its name in messages.
        module: the module of its package that holds the model's class.
        install: the command that installs its code, as its authors give it.
        hub_folder: the folder that torch.hub's cache gives its repository.
        file: the URL of its weights.
    """

    name: str
    module: str
    install: str
    hub_folder: str
    file: str

    @property
    def remedy(self) -> str:
        """The end of a sentence that says how to get the weights."""
        return f"download {self.file} and set {_SETTING} to the file"


def weights_file(weights: str | Path | None, published: Published) -> tuple[str, int]:
    """Return the path of a file of weights and the time of its last change (ns), the key of a cache.

    Raises:
        ValueError: the file is not set or does not exist.
    """
    if weights is None or str(weights) == "":
        raise ValueError(f"{published.name} needs its weights, which are not set; {published.remedy}")
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"there is no file {path} with the weights of {published.name}; {published.remedy}")
    return str(path.resolve()), path.stat().st_mtime_ns


def read_weights(path: str, published: Published) -> dict[str, Any]:
    """Read the state dict of a checkpoint, which may be under the key `model` or `state_dict`.

    Raises:
        ValueError: torch cannot read the file as plain tensors, without running code from it.
    """
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle with code, a damaged archive, a text: each has its own error
        raise ValueError(
            f"{path} is not a checkpoint that torch loads as plain tensors; for {published.name}, {published.remedy}"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} contains no state dict of a model; for {published.name}, {published.remedy}")
    return content


def build(published: Published, make: Callable[[ModuleType], Any], state: dict[str, Any], path: str) -> Any:
    """Build a model from its published code and load its weights; it is on the GPU if torch sees one.

    Args:
        published: the tracker.
        make: builds the model from the imported module, with any weights.
        state: the weights.
        path: the file of the weights, for messages.

    Raises:
        ValueError: the code is missing or of another version, or the weights are those of another model.
    """
    with own_randomness():
        code = _published_code(published)
        try:
            model = make(code)
        except Exception as error:  # code of another version may raise anything
            raise ValueError(
                f"{code.__name__} from {code.__file__} cannot build {published.name} ({_reason(error)}); update it: "
                f"{published.install}"
            ) from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights {path} are not those of {published.name}; {published.remedy}") from error
    return model.eval().to(device())


def device() -> str:
    """Return the device of trackers: the GPU if torch sees one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def own_randomness() -> Iterator[None]:
    """Seed torch with 0 inside the context, and restore its generators afterwards.

    CoTracker seeds torch when it is imported, and TAPIR shuffles the points in every call.
    """
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield


def finished(position: Floats, visible: NDArray[np.bool_], queries: Floats, published: Published) -> Tracks:
    """Return a model's output as tracks that start at the queries; ValueError if a position is not finite."""
    position = np.ascontiguousarray(position, dtype=np.float32)
    visible = np.ascontiguousarray(visible, dtype=bool)
    position[:, 0], visible[:, 0] = queries, True
    if not np.isfinite(position).all():
        raise ValueError(f"{published.name} gave positions that are not finite; for valid weights, {published.remedy}")
    return Tracks(position, visible)


def _published_code(published: Published) -> ModuleType:
    """Import the module from the installed package or else from torch.hub's cache; ValueError if it fails."""
    import torch

    package = published.module.partition(".")[0]
    folder = Path(torch.hub.get_dir()) / published.hub_folder
    cached = importlib.util.find_spec(package) is None and (folder / package).is_dir()
    if cached:
        sys.path.append(str(folder))
    try:
        return importlib.import_module(published.module)
    except Exception as error:  # mostly ImportError, but importing may raise anything
        raise ValueError(
            f"{published.name} needs the module {published.module}, which cannot be imported ({_reason(error)}); "
            f"run {published.install}, or put a clone of that repository into {folder} and install what it requires"
        ) from error
    finally:
        if cached:
            sys.path.remove(str(folder))


def _reason(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
