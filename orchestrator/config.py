"""One typed config for the whole experiment: YAML in, `--set` overrides on top, clear errors out."""

import difflib
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from estimators.mutual_information import CONDITIONAL, ESTIMATORS
from estimators.tracks import LEARNED, METHODS
from estimators.twins import POLICIES
from models import frameworks
from orchestrator.errors import UsageError

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ListOfNames = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        return {} if values is None else values  # a section whose settings are all commented out


def _choose(name: str, known: Sequence[str] | dict[str, Any], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(known))}"
        raise ValueError(f"unknown {what} '{name}', {remedy}")


class ClipsConfig(_Section):
    """Which video."""

    path: str | None = Field(
        None,
        description="a video, a folder of frames, a folder of either, a glob, or a manifest (.txt, .csv or .parquet); "
        "none: the rendered scenes",
    )


class ScenesConfig(_Section):
    """The embedded input: synthetic clips rendered with known coupling (see orchestrator/scenes.py)."""

    seed: Annotated[int, Field(ge=0)] = 0
    count: Positive = Field(8, description="clips")
    frames: Annotated[int, Field(ge=2)] = 96
    sprites: Positive = 8
    coupled: Annotated[int, Field(ge=0)] = Field(2, description="coupled pairs of sprites in a scene")
    static: Annotated[int, Field(ge=0)] = Field(1, description="sprites that do not move")
    height: Positive = 240
    width: Positive = 320
    size: Positive = Field(40, description="side of a sprite, pixels")
    rho: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="correlation of a coupled pair's displacements")
    step: Annotated[float, Field(gt=0)] = Field(1.2, description="standard deviation of a displacement, pixels")
    camera: bool = False
    lighting: bool = False
    occlusion: bool = False


class ExtractConfig(_Section):
    """Clips to trajectories and patch images."""

    window: Annotated[int, Field(ge=3)] = Field(48, description="frames of a window")
    stride: Positive | None = Field(None, description="frames from a window to the next; none: the window's length")
    patch_size: Annotated[int, Field(ge=8)] = Field(64, description="side of a patch in the clip, pixels")
    image_size: Annotated[int, Field(ge=16)] = Field(32, description="side of the stored patch image, pixels")
    point: Literal["eigenvalue", "centre"] = "eigenvalue"
    tracker: str = Field("auto", description="lucas-kanade (auto), dense-flow, cotracker or tapir")
    tracker_weights: str | None = Field(None, description="file of a learned tracker's weights")
    forward_backward: Annotated[float, Field(gt=0)] = Field(1.5, description="largest forward–backward error, pixels")
    camera: Literal["translation", "similarity", "affine", "homography"] = "homography"
    depth: str | None = Field(
        None,
        description="third coordinate: midas:CHECKPOINT.pt, FILE.onnx, imagenet:FILE.onnx, or a folder of depth maps; "
        "none: position is two-dimensional",
    )
    gpus_per_task: Annotated[float, Field(ge=0)] = Field(0, description="for learned trackers and depth networks")

    @model_validator(mode="after")
    def _known(self) -> "ExtractConfig":
        _choose(self.tracker, METHODS, "tracker")
        if self.tracker in LEARNED and not self.tracker_weights:
            raise ValueError(
                f"tracker '{self.tracker}' needs tracker_weights: docs/method.md says which file, from where"
            )
        return self


class ScoreConfig(_Section):
    """Trajectories to mutual information and twins."""

    policy: Literal["mutual-information", "random", "nearest", "none"] = "mutual-information"
    estimator: str = Field("ksg", description="ksg, ksg2, 3kl, or npeet (ksg's numbers, hundreds of times slower)")
    k: Positive = 5
    theiler: Annotated[int, Field(ge=0)] = Field(0, description="samples so near in time are not compared")
    trajectory: Literal["position", "colour", "both"] = Field(
        "position", description="what is scored: where a patch goes, how its mean colour changes, or both together"
    )
    samples: Literal["innovations", "displacements", "positions"] = Field(
        "innovations",
        description="whose mutual information is estimated: what of a trajectory's displacements its own past does not "
        "foretell, the displacements, or the positions; the test for significance is always of innovations",
    )
    camera: Literal["subtract", "condition", "ignore"] = Field(
        "subtract", description="the camera's motion: taken out of the trajectories, or conditioned on"
    )
    remove_lighting: bool = Field(True, description="of a colour trajectory, what all patches brighten by together")
    min_spread: Annotated[float, Field(ge=0)] = Field(
        1.0, description="RMS distance from its mean below which a residual trajectory counts as static, pixels"
    )
    min_entropy: float | None = Field(
        None, description="entropy of the displacements below which a trajectory counts as static, nats"
    )
    min_frames: Annotated[int, Field(ge=4)] = Field(24, description="least number of frames that both patches are in")
    min_distance: Annotated[float, Field(ge=0)] = Field(
        0.0, description="least distance of twins in the first frame, pixels"
    )
    noise: Annotated[float, Field(gt=0)] = Field(0.1, description="the tracker's error, pixels")
    depth_noise: Annotated[float, Field(gt=0)] = Field(0.02, description="of depth, share of the scene's depth")
    colour_noise: Annotated[float, Field(gt=0)] = Field(0.002, description="of a patch's mean colour, which is 0 to 1")
    surrogates: Annotated[int, Field(ge=0)] = Field(
        100_000,
        description="largest size of a window's null, which bounds its p-values (docs/method.md); 0: no test",
    )
    alpha: Share = Field(0.05, description="false discovery rate of a window's twins")
    candidates: Positive = Field(3, description="how many of a patch's best partners to list")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the surrogates and of the random policy")

    @model_validator(mode="after")
    def _known(self) -> "ScoreConfig":
        _choose(self.estimator, ESTIMATORS, "estimator")
        _choose(self.policy, POLICIES, "twin policy")
        if self.camera == "condition" and self.estimator not in CONDITIONAL:
            raise ValueError(
                f"estimator '{self.estimator}' cannot be conditioned: take one of {', '.join(CONDITIONAL)}"
            )
        if self.theiler and self.estimator == "npeet":
            raise ValueError("estimator 'npeet' knows no theiler window: take ksg, whose numbers are the same")
        return self


class PretrainConfig(_Section):
    """Two-branch training."""

    framework: str = "simclr"
    framework_settings: dict[str, Any] = {}
    backbone: str = "resnet18"
    backbone_settings: dict[str, Any] = Field({}, description="passed on to timm.create_model")
    twin_weight: Annotated[float, Field(ge=0)] = Field(0.5, description="λ in L = L_view + λ · L_twin")
    epochs: Positive = 100
    batch_size: Annotated[int, Field(ge=4)] = Field(256, description="global, over all workers")
    learning_rate: Annotated[float, Field(gt=0)] = Field(0.12, description="at a global batch of 256; scaled linearly")
    optimizer: str = Field("sgd", description="as timm.optim names it; sgd is Nesterov's, momentum the plain one")
    optimizer_settings: dict[str, Any] = Field(
        {}, description="passed on to the optimiser, such as trust_coeff of lars"
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="not of biases and norms")
    clip_gradients: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest norm of all gradients together; none: they are left as they are"
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    augment: dict[str, Any] = Field({}, description="settings of models/augment.py")
    augment_second: dict[str, Any] = Field({}, description="of those, what is otherwise for second views and for twins")
    compile: bool = Field(False, description="the backbone, by torch.compile")
    resident: bool | Literal["auto"] = Field(
        "auto", description="images in the device's memory, or in a file mapped into the host's; auto: if there is room"
    )
    checkpoint_every: Positive = Field(1, description="epochs")
    workers: Positive = 1
    cpus_per_worker: Positive | None = Field(None, description="none: the machine's CPUs, divided")
    gpu: bool | None = Field(None, description="none: if the cluster has one for each worker")
    max_failures: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _known(self) -> "PretrainConfig":
        _choose(self.framework, frameworks.available(), "framework")
        return self


class EvaluateConfig(_Section):
    """Frozen backbone, head dropped: weighted kNN and a linear probe."""

    datasets: ListOfNames = Field(
        ["scenes"], description="`scenes`, `cifar10`, `cifar100`, `stl10`, an image folder, or an .npz file"
    )
    data: str = Field("data", description="where torchvision's data sets are, or are downloaded to")
    download: bool = True
    limit: Positive | None = Field(None, description="images of each split, for a quick look; none: all")
    batch_size: Positive = 512
    neighbours: Positive = 200
    temperature: Annotated[float, Field(gt=0)] = 0.1
    probe_iterations: Positive = 200
    probe_c: Annotated[float, Field(gt=0)] = Field(1.0, description="inverse regularisation of the probe")


class TrackingConfig(_Section):
    """Where results are kept."""

    uri: str | None = Field(None, description="none: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db")
    experiment: str = "infoaug"


class RayConfig(_Section):
    """Which machines."""

    address: str | None = Field(None, description="of a running cluster; none: RAY_ADDRESS, or this machine")
    cpus: Positive | None = Field(None, description="of this machine; none: all")
    object_store_mb: Annotated[int, Field(ge=80)] | None = None


# Where an experiment runs, is kept and is looked at: not what it is. For pydantic's `exclude`.
RUNTIME: dict[str, Any] = {
    "store": True,
    "tracking": True,
    "ray": True,
    "extract": {"gpus_per_task"},
    "pretrain": {"workers", "cpus_per_worker", "gpu", "max_failures", "checkpoint_every", "resident"},
    "evaluate": {"datasets", "data", "download", "batch_size"},
}


class ExperimentConfig(_Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "experiment"
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the training; input and twins have their own")
    store: str = Field("outputs", description="a folder, or a URL that pyarrow can open")
    clips: ClipsConfig = ClipsConfig()
    scenes: ScenesConfig = ScenesConfig()
    extract: ExtractConfig = ExtractConfig()
    score: ScoreConfig = ScoreConfig()
    pretrain: PretrainConfig = PretrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load` reads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, as `--set` takes it."""
        return dict(_flatten(self.model_dump(mode="json")))


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a config file and put the overrides on top.

    Args:
        path: a YAML file; None for the defaults.
        overrides: `key=value` with a dotted key; the value is read as YAML (`[a, b]` is a list, `null` is none).

    Raises:
        UsageError: the file is missing or no YAML mapping, a key is unknown (the nearest known one is named), or a
            value is not of its setting's type or range.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else {}
    except FileNotFoundError:
        raise UsageError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"config file '{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"config file '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UsageError(f"config file '{path}' must hold a mapping of settings, not a {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path or 'settings'}: {'; '.join(map(_sentence, error.errors()))}") from None


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set takes key=value, got '{override}'")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {key}: '{text}' is not a YAML value") from None
    *sections, last = key.split(".")
    place = values
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise UsageError(f"--set {key}: '{section}' is a setting, not a section")
    place[last] = value


def _sentence(error: Any) -> str:
    """One pydantic error as a sentence that names the setting and the remedy."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_suggestion(key)}"
    if error["type"] == "model_type":
        return f"{key}: this is a section, which holds settings of its own (got {error['input']!r:.60})"
    if error["type"] == "value_error":  # one of ours, which says what it got
        return f"{key}: {error['ctx']['error']}"
    message = error["msg"]
    return f"{key or 'config'}: {message[0].lower()}{message[1:]} (got {error['input']!r:.60})"


def _suggestion(key: str) -> str:
    known = list(_known_keys(ExperimentConfig))
    by_last_part = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1) or [
        by_last_part[part] for part in difflib.get_close_matches(key.rpartition(".")[2], by_last_part, n=1)
    ]
    return f"; did you mean '{near[0]}'?" if near else f"; sections are {', '.join(ExperimentConfig.model_fields)}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = field.annotation
        candidates = get_args(inner) if get_origin(inner) in (Union, types.UnionType) else (inner,)
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _known_keys(candidate, f"{prefix}{name}.")


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
