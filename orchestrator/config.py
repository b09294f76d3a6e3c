"""One typed config for the whole experiment: YAML in, `--set` overrides on top, clear errors out."""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from infoaug.estimators.information.mutual_information import CONDITIONAL, ESTIMATORS
from infoaug.estimators.information.twins import POLICIES
from infoaug.estimators.trackers.tracks import LEARNED, METHODS
from infoaug.estimators.video.clips import MAX_WINDOW_BYTES, READ_TIMEOUT
from infoaug.models import frameworks
from infoaug.orchestrator import settings

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ListOfNames = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class Section(BaseModel):
    """Settings that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        return {} if values is None else values  # a section whose settings are all commented out


def _choose(name: str, known: Sequence[str] | dict[str, Any], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(known))}"
        raise ValueError(f"unknown {what} '{name:.60}', {remedy}")


class ClipsConfig(Section):
    """Which video."""

    path: str | None = Field(
        None,
        description="a video, a folder of frames, a folder of either, a glob, or a manifest (.txt, .csv or .parquet); "
        "none: the rendered scenes",
    )


class ScenesConfig(Section):
    """The embedded input: synthetic clips rendered with known coupling (see orchestrator/scenes.py)."""

    seed: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1, le=100_000)] = Field(8, description="clips")
    frames: Annotated[int, Field(ge=2)] = 96
    sprites: Annotated[int, Field(ge=1, le=10_000)] = 8
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

    @model_validator(mode="after")
    def _fits(self) -> "ScenesConfig":
        needed = 3 * self.frames * self.height * self.width
        if needed > MAX_WINDOW_BYTES:
            raise ValueError(
                f"{self.frames} frames of {self.width}x{self.height} take {needed >> 20} MiB, more than "
                f"{MAX_WINDOW_BYTES >> 20}: set frames, height or width lower"
            )
        return self


class ExtractConfig(Section):
    """Clips to trajectories and patch images."""

    window: Annotated[int, Field(ge=3)] = Field(48, description="frames of a window")
    stride: Positive | None = Field(None, description="frames from a window to the next; none: the window's length")
    patch_size: Annotated[int, Field(ge=8)] = Field(64, description="side of a patch in the clip, pixels")
    image_size: Annotated[int, Field(ge=16, le=4096)] = Field(32, description="side of the stored patch image, pixels")
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
    read_timeout: Annotated[float, Field(gt=0)] = Field(
        READ_TIMEOUT, description="seconds without a frame from a clip's disk until the clip is given up"
    )
    max_window_mb: Positive = Field(
        MAX_WINDOW_BYTES >> 20,
        description="largest window, 3 bytes a pixel and frame, MiB; what a larger one would take is not allocated",
    )

    @model_validator(mode="after")
    def _known(self) -> "ExtractConfig":
        _choose(self.tracker, METHODS, "tracker")
        if self.tracker in LEARNED and not self.tracker_weights:
            raise ValueError(
                f"tracker '{self.tracker}' needs tracker_weights: docs/method.md says which file, from where"
            )
        return self


class ScoreConfig(Section):
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
    surrogates: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        100_000,
        description="largest size of a window's null, which bounds its p-values (docs/method.md); 0: no test",
    )
    alpha: Share = Field(0.05, description="false discovery rate of a window's twins")
    candidates: Annotated[int, Field(ge=1, le=10_000)] = Field(
        3, description="how many of a patch's best partners to list"
    )
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


class PretrainConfig(Section):
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
    images_on_device: bool | Literal["auto"] = Field(
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


class EvaluateConfig(Section):
    """Frozen backbone, head dropped: weighted kNN and a linear probe."""

    datasets: ListOfNames = Field(
        ["scenes"], description="`scenes`, `cifar10`, `cifar100`, `stl10`, an image folder, or an .npz file"
    )
    domains: ListOfNames = Field(
        [], description="folders `DOMAIN/CLASS/image`: trained on one domain, tested on every other one"
    )
    every: Positive | None = Field(
        None,
        description="epochs between validations while training: weighted kNN on the held-out fifth of the first data "
        "set's training images; none: only afterwards",
    )
    data: str = Field("data", description="where torchvision's data sets are, or are downloaded to")
    download: bool = True
    limit: Positive | None = Field(None, description="images of each split, for a quick look; none: all")
    batch_size: Positive = Field(512, description="on a GPU; a CPU takes fewer images at once")
    neighbours: Positive = 200
    temperature: Annotated[float, Field(gt=0)] = 0.1
    probe_iterations: Positive = 200
    probe_c: Annotated[float, Field(gt=0)] = Field(1.0, description="inverse regularisation of the probe")

    @model_validator(mode="after")
    def _fits(self) -> "EvaluateConfig":
        if both := set(self.datasets) & set(self.domains):
            raise ValueError(f"'{min(both)}' is among datasets and among domains: name it in one of them")
        if self.every and not self.datasets:
            raise ValueError("every needs a data set to validate on: name one in datasets")
        return self


class TrackingConfig(Section):
    """Where results are kept."""

    uri: str | None = Field(None, description="none: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db")
    experiment: str = "infoaug"


class RayConfig(Section):
    """Which machines."""

    address: str | None = Field(None, description="of a running cluster; none: RAY_ADDRESS, or this machine")
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = Field(None, description="of this machine; none: all")
    object_store_mb: Annotated[int, Field(ge=80)] | None = None


# Where an experiment runs, is kept and is looked at: not what it is. For pydantic's `exclude`.
RUNTIME: dict[str, Any] = {
    "store": True,
    "tracking": True,
    "ray": True,
    "extract": {"gpus_per_task", "max_window_mb", "read_timeout"},
    "pretrain": {"workers", "cpus_per_worker", "gpu", "max_failures", "checkpoint_every", "images_on_device"},
    "evaluate": {"datasets", "domains", "every", "data", "download", "batch_size"},
}


class ExperimentConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "experiment"
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the training; input and twins have their own")
    store: str = Field(
        "outputs", description="a folder, or a URL that pyarrow can open; not set: INFOAUG_STORE, or outputs"
    )
    clips: ClipsConfig = ClipsConfig()
    scenes: ScenesConfig = ScenesConfig()
    extract: ExtractConfig = ExtractConfig()
    score: ScoreConfig = ScoreConfig()
    pretrain: PretrainConfig = PretrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _is_of_one(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sweep" in values and "sweep" not in cls.model_fields:
            raise ValueError("this is the config of a sweep: run `infoaug sweep` with it")
        return values

    @model_validator(mode="before")
    @classmethod
    def _store_of_the_environment(cls, values: Any) -> Any:
        # As if the file had said it: a process elsewhere, with another environment, keeps to this store.
        store = os.environ.get("INFOAUG_STORE")
        return {"store": store, **values} if store and isinstance(values, dict) else values

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load` reads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, as `--set` takes it."""
        return dict(_flatten(self.model_dump(mode="json")))


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a config file and put the overrides on top; see `settings.read` for both, and for what is raised."""
    return settings.read(ExperimentConfig, path, overrides)


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
