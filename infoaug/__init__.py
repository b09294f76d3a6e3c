"""Visual features from video, with positive pairs chosen by the mutual information of trajectories.

From a clip to twins:

    read_clip, track, extract_window   frames, tracks of points, trajectories of patches
    mutual_information                 of two variables
    pairwise_mutual_information        of all pairs of trajectories
    p_values                           are the pairs dependent?
    find_twins                         the twin of every patch
    inspect                            all of these on one window of a clip

Models:

    create_backbone, load_backbone     timm models fitted to small images; a saved one
    frameworks                         module: available(), create(name, backbone), settings_type(name)

Experiments, as the command `infoaug` runs them:

    load_config                        settings from a YAML file and overrides
    run, sweep, compare                one experiment, many, and their comparison
    scenes                             module: rendered clips with known coupling, render(seed) and write(scene, path)

Each name is imported when it is first used: `import infoaug` alone loads neither PyTorch nor Ray.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports the same
    from infoaug.estimators.information.mutual_information import mutual_information, pairwise_mutual_information
    from infoaug.estimators.information.significance import p_values
    from infoaug.estimators.information.twins import find_twins
    from infoaug.estimators.trackers.tracks import track
    from infoaug.estimators.video.clips import read_clip
    from infoaug.models import frameworks
    from infoaug.models.backbones import create_backbone, load_backbone
    from infoaug.orchestrator.api import compare, inspect, load_config, run, sweep
    from infoaug.orchestrator.stages.extract import extract_window
    from infoaug.orchestrator.synthetic import scenes

__version__ = "0.1.0"

__all__ = [
    "compare",
    "create_backbone",
    "extract_window",
    "find_twins",
    "frameworks",
    "inspect",
    "load_backbone",
    "load_config",
    "mutual_information",
    "p_values",
    "pairwise_mutual_information",
    "read_clip",
    "run",
    "scenes",
    "sweep",
    "track",
]

_MODULES = {
    "compare": "orchestrator.api",
    "create_backbone": "models.backbones",
    "extract_window": "orchestrator.stages.extract",
    "find_twins": "estimators.information.twins",
    "frameworks": "models.frameworks",
    "inspect": "orchestrator.api",
    "load_backbone": "models.backbones",
    "load_config": "orchestrator.api",
    "mutual_information": "estimators.information.mutual_information",
    "p_values": "estimators.information.significance",
    "pairwise_mutual_information": "estimators.information.mutual_information",
    "read_clip": "estimators.video.clips",
    "run": "orchestrator.api",
    "scenes": "orchestrator.synthetic.scenes",
    "sweep": "orchestrator.api",
    "track": "estimators.trackers.tracks",
}
_WHOLE_MODULES = ("frameworks", "scenes")

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, unless the caller configures logging


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    value = module if name in _WHOLE_MODULES else getattr(module, name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
