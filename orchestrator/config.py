"""One typed config for the whole experiment: YAML in, `--set` overrides on top, clear errors out.

Importing this module and reading a config loads no estimator, no OpenCV and no PyTorch: names and limits come from
`estimators/options.py`, the settings of frameworks and augmentations from `models/settings.py` and
`models/frameworks/settings.py`.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from infoaug.estimators.options import (
    CONDITIONAL,
    ESTIMATORS,
    KERNELS,
    LARGEST_K,
    LEARNED_TRACKERS,
    MATCHING_WINDOW,
    MAX_WINDOW_BYTES,
    READ_TIMEOUT,
    TRACKERS,
    Backend,
    Policy,
)
from infoaug.models import frameworks, own_code
from infoaug.models.frameworks.settings import FrameworkSettings
from infoaug.models.settings import AugmentSettings, Numbers, TwinChoice, TwinTime, Views
from infoaug.orchestrator import settings
from infoaug.orchestrator.masking import masked

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
IMAGE_SHARE = 0.5
ListOfNames = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
ONE_OR_SEVERAL = BeforeValidator(lambda v: [v] if isinstance(v, int) else v)  # numbers


class Runtime:
    """Marks a setting or section that says where and how an experiment runs, and not what it computes.

    Such settings are left out of the identity of an experiment and of the hashes of its stages.
    """


class Section(Numbers):
    """Settings that belong together; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        return {} if values is None else values  # a section whose settings are all commented out


def runtime_settings(model: type[BaseModel]) -> dict[str, Any]:
    """The settings of a config that are marked `Runtime`, as pydantic's `exclude` takes them.

    Returns:
        By field, True for a setting or a whole section, or the set of a section's settings.
    """
    marked: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if Runtime in field.metadata:
            marked[name] = True
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            marked[name] = set(runtime_settings(field.annotation))
    return {name: which for name, which in marked.items() if which}


def _check_name(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else f"choose one of {', '.join(sorted(known))}"
        raise ValueError(f"unknown {what} '{name:.60}', {remedy}")


class ClipsConfig(Section):
    """Input video."""

    path: str | None = Field(
        None,
        description="a video, a folder of frames, a folder of either, a glob, or a manifest (.txt, "
        ".lst, .csv, .tsv, .jsonl or .parquet), here or at a URL (s3://, gs://, abfss://, hf://); "
        "null: rendered synthetic scenes",
    )
    masks: str | None = Field(
        None,
        description="masks of objects, laid out as those of DAVIS: a folder with Annotations/NAME/*.png, one image a "
        "frame of clip NAME, one colour an object, black the background; for score.policy oracle",
    )

    @model_validator(mode="after")
    def _masks_are_of_clips(self) -> "ClipsConfig":
        if self.masks is not None and self.path is None:
            raise ValueError("masks are those of clips: set path too")
        return self


class ScenesConfig(Section):
    """Synthetic input: clips rendered with known coupling (orchestrator/synthetic/scenes.py)."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of the scenes")
    count: Annotated[int, Field(ge=1, le=100_000)] = Field(8, description="number of clips")
    frames: Annotated[int, Field(ge=2)] = Field(96, description="frames of a clip")
    sprites: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="sprites in a scene")
    coupled: Annotated[int, Field(ge=0)] = Field(2, description="pairs of sprites with coupled motion")
    static: Annotated[int, Field(ge=0)] = Field(1, description="sprites that do not move")
    height: Positive = Field(240, description="height of a frame, pixels")
    width: Positive = Field(320, description="width of a frame, pixels")
    size: Positive = Field(40, description="side of a sprite, pixels")
    rho: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.95, description="correlation of the displacements of a coupled pair"
    )
    step: Annotated[float, Field(gt=0)] = Field(1.2, description="standard deviation of a displacement, pixels")
    camera: bool = Field(False, description="render camera motion")
    lighting: bool = Field(False, description="render changes of brightness")
    occlusion: bool = Field(False, description="render occlusions")

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
    """From clips to trajectories and patch images."""

    window: Annotated[int, Field(ge=3)] = Field(48, description="frames of a window")
    stride: Positive | None = Field(
        None, description="frames between the starts of neighbouring windows; null: the length of a window"
    )
    spacing: Annotated[int, Field(ge=4)] | None = Field(
        None, description="side of the cells that get one patch each, pixels; null: half of patch_size"
    )
    patch_size: Annotated[int, Field(ge=8)] = Field(
        64, description="side of a patch in the clip, a square around its tracked point, pixels"
    )
    image_size: Annotated[int, Field(ge=16, le=4096)] = Field(32, description="side of a stored patch image, pixels")
    # Left out where it is the default, so that experiments keep the identity that they had before there was a choice.
    crops: Annotated[int, Field(ge=1, le=64)] = Field(
        4,
        exclude_if=lambda value: value == 4,
        description="most images of a track: of the window's first frame, and of later ones in which it is visible",
    )
    point: Literal["eigenvalue", "centre"] = Field(
        "eigenvalue", description="tracked point of a patch: the best corner of its cell (Shi and Tomasi) or the centre"
    )
    tracker: str = Field(
        "auto", description="lucas-kanade (auto), dense-flow, cotracker, tapir, or module:function of your own"
    )
    tracker_weights: str | None = Field(None, description="file with the weights of a learned tracker")
    forward_backward: Annotated[float, Field(gt=0)] = Field(1.5, description="largest forward–backward error, pixels")
    camera: Literal["translation", "similarity", "affine", "homography"] = Field(
        "homography", description="model of the camera motion"
    )
    depth: str | None = Field(
        None,
        description="source of depth, the third coordinate: midas:CHECKPOINT.pt, FILE.onnx, imagenet:FILE.onnx, or a "
        "folder of depth maps; null: positions are two-dimensional",
    )
    gpus_per_task: Annotated[float, Field(ge=0), Runtime] = Field(
        0, description="GPUs of a task, for learned trackers and depth networks"
    )
    read_timeout: Annotated[float, Field(gt=0), Runtime] = Field(
        READ_TIMEOUT, description="a clip is skipped if its disk delivers no frame for this many seconds"
    )
    cache: Annotated[float, Field(gt=0), Runtime] = Field(
        20, description="GiB of a node's disk (TMPDIR) that copies of clips at a URL may take"
    )
    max_window_mb: Annotated[Positive, Runtime] = Field(
        MAX_WINDOW_BYTES >> 20, description="largest window, 3 bytes a pixel and frame, MiB; larger ones are refused"
    )

    @property
    def cell(self) -> int:
        """Side of the cells that get one patch each, pixels: `spacing`, or what null stands for."""
        return self.spacing or self.patch_size // 2

    @model_validator(mode="after")
    def _tracker_is_known(self) -> "ExtractConfig":
        if own_code.is_own(self.tracker):  # imported when clips are extracted
            own_code.check_name(self.tracker)
        else:
            _check_name(self.tracker, TRACKERS, "tracker")
        if self.tracker in LEARNED_TRACKERS and not self.tracker_weights:
            raise ValueError(
                f"tracker '{self.tracker}' needs tracker_weights: docs/method.md says which file, from where"
            )
        return self


class ScoreConfig(Section):
    """From trajectories to mutual information and twins."""

    policy: Policy = Field(
        "mutual-information", description="how twins are chosen; all others are controls (docs/method.md, section 7)"
    )
    estimator: str = Field("ksg", description="ksg, ksg2, 3kl, or npeet (as ksg, hundreds of times slower)")
    k: Positive = Field(
        5,
        description=f"nearest neighbours of the estimator; more than {LARGEST_K} take about a hundred times as long",
    )
    theiler: Annotated[int, Field(ge=0)] = Field(
        0, description="Theiler window: samples at most this many time steps apart are not compared"
    )
    trajectory: Literal["position", "colour", "both"] = Field(
        "position", description="what is scored: the path of a patch, the course of its mean colour, or both jointly"
    )
    samples: Literal["innovations", "displacements", "positions"] = Field(
        "innovations",
        description="samples of the mutual information: innovations (the residuals of an autoregression of the "
        "displacements), displacements, or positions; significance is always tested on innovations",
    )
    rank: Literal["gaussian", "samples"] = Field(
        "gaussian",
        description="what ranks a patch's partners: the Gaussian mutual information of displacements, or the estimate "
        "that is tested, of samples by estimator",
    )
    mutual: Annotated[int, Field(ge=0)] = Field(
        5, description="patch and twin are each among the other's best so many partners; 1: each other's best; 0: any"
    )
    camera: Literal["subtract", "condition", "ignore"] = Field(
        "subtract", description="camera motion: subtracted from the trajectories, conditioned on, or left in"
    )
    remove_lighting: bool = Field(
        True, description="take from colours the changes of brightness that all patches, or all of a row, share"
    )
    min_spread: Annotated[float, Field(ge=0)] = Field(
        1.0, description="a trajectory is static if its RMS distance from its mean is smaller, pixels"
    )
    min_entropy: float | None = Field(
        None, description="a trajectory is static if the entropy of its displacements is smaller, nats; null: no limit"
    )
    min_frames: Annotated[int, Field(ge=4)] = Field(12, description="fewest frames in which both patches are visible")
    min_distance: Annotated[float, Field(ge=0)] = Field(
        float(MATCHING_WINDOW),
        description="smallest distance between twins in the first frame, pixels; "
        "points that are closer share what the tracker matches",
    )
    noise: Annotated[float, Field(gt=0)] = Field(0.1, description="error of the tracker, pixels")
    depth_noise: Annotated[float, Field(gt=0)] = Field(0.02, description="error of depth, share of the scene's depth")
    colour_noise: Annotated[float, Field(gt=0)] = Field(0.002, description="error of a patch's mean colour, range 0–1")
    surrogates: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        100_000,
        description="largest size of a window's null distribution, which limits how small p-values can be "
        "(docs/method.md); 0: no test",
    )
    alpha: Share = Field(0.05, description="false discovery rate of the twins of a window")
    candidates: Annotated[int, Field(ge=1, le=10_000)] = Field(
        5, description="number of best partners that are stored for every patch"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="seed of the noise that breaks ties, of the surrogates and of the random policy"
    )
    backend: Annotated[Backend, Runtime] = Field(
        "auto",
        description="implementation: cpu (compiled), cuda (the same numbers to 1e-9 on a GPU), reference (slow); "
        "auto: cpu where it supports estimator and k, otherwise reference",
    )
    gpus_per_task: Annotated[float, Field(gt=0), Runtime] = Field(
        1, description="GPUs of a task with backend cuda; with 0.25, four tasks share a GPU"
    )

    @model_validator(mode="after")
    def _estimator_is_possible(self) -> "ScoreConfig":
        _check_name(self.estimator, ESTIMATORS, "estimator")
        if self.camera == "condition" and self.estimator not in CONDITIONAL:
            raise ValueError(f"estimator '{self.estimator}' cannot be conditioned: use one of {', '.join(CONDITIONAL)}")
        if self.theiler and self.estimator == "npeet":
            raise ValueError("estimator 'npeet' has no Theiler window: use ksg, which gives the same numbers")
        if self.backend in ("cpu", "cuda") and (self.estimator not in KERNELS or self.k > LARGEST_K):
            raise ValueError(
                f"backend '{self.backend}' supports {', '.join(KERNELS)} with k up to {LARGEST_K}, not "
                f"'{self.estimator}' with k = {self.k}: set backend to auto"
            )
        return self


class PretrainConfig(Section):
    """Training of the two branches."""

    framework: str = Field("simclr", description="name of a framework, or module:Class of your own")
    framework_settings: FrameworkSettings = Field(
        {}, validate_default=True, description="settings of the framework (models/frameworks/settings.py)"
    )
    backbone: str = Field("resnet18", description="name of a timm model, or module:Class of your own")
    backbone_settings: dict[str, Any] = Field(
        {},
        description="arguments of timm.create_model, or of your class; not checked before the backbone is built. "
        "fit_stem: false keeps the stem of a ResNet as timm has it",
    )
    # Settings of which the default is left out when they are stored, so that what was stored before they existed is
    # found again.
    init: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="weights to start from: `pretrained` (those that timm publishes for the backbone), a folder or "
        "file of weights (a saved backbone, an export, timm's local-dir, .safetensors), a config, or an MLflow run; "
        "null: random ones",
    )
    freeze_layers: Annotated[int, Field(ge=0)] = Field(
        0,
        exclude_if=lambda value: value == 0,
        description="layers of the backbone that are not trained: 1, the stem or embedding of patches; 2, its first "
        "block too; and so on",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="factor from a layer's learning rate to that of the layer before; the last has it once; null: all "
        "have the same",
    )
    twin_weight: Annotated[float, Field(ge=0)] = Field(0.5, description="λ in L = L_view + λ · L_twin")
    epochs: Positive = Field(100, description="epochs of training, each of `patches // batch_size` steps")
    batch_size: Annotated[int, Field(ge=4)] = Field(256, description="global batch size, over all workers")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.12, description="learning rate at a global batch size of 256; scaled linearly"
    )
    optimizer: str = Field("sgd", description="name in timm.optim; sgd is with Nesterov momentum, momentum without")
    optimizer_settings: dict[str, Any] = Field(
        {},
        description="further arguments of the timm optimizer, such as trust_coeff of lars; not checked before the "
        "optimizer is built",
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(10, description="epochs of linear learning-rate warm-up")
    momentum: Share = Field(0.9, description="momentum of the optimizer")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="weight decay; not of biases and norms")
    clip_gradients: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest norm of the gradients of all parameters together; null: no clipping"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast where the hardware supports it"
    )
    # Settings of which the default is left out when they are stored, so that what was stored before they existed is
    # found again.
    views: Views = Field(
        "augmented",
        exclude_if=lambda value: value == "augmented",
        description="the two views of a patch: `augmented`, two augmentations of one crop of its track; `time`, two "
        "crops of different frames in place of augmentation; `both`, two such crops, augmented",
    )
    twin_time: TwinTime = Field(
        "own",
        exclude_if=lambda value: value == "own",
        description="the frame in which a twin is shown: `own`, that of any of its crops; `same`, that of the first "
        "view, without which the twin is left out of the step; `nearest`, the nearest to it",
    )
    twins: Positive = Field(
        1,
        exclude_if=lambda value: value == 1,
        description="how many of a patch's best partners by mutual information count as its twins, at most "
        "score.candidates; a patch with fewer has those",
    )
    twin_choice: TwinChoice = Field(
        "uniform",
        exclude_if=lambda value: value == "uniform",
        description="of several twins, the one that is shown is drawn in every step, all with the same chance "
        "(`uniform`) or in proportion to the strength of the dependence by score.rank (`strength`); or `all` are shown "
        "in every step, and the loss weighs them by that strength",
    )
    augment: AugmentSettings = Field(
        {}, validate_default=True, description="augmentation settings (models/settings.py, AugmentSettings)"
    )
    augment_second: AugmentSettings = Field(
        {}, validate_default=True, description="settings that differ from augment for second views and twins"
    )
    # The defaults of the next three are left out when they are stored, so that what was stored before they existed is
    # found again.
    images: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="images that the view branch trains on beside the video: an image folder, an .npz file, `cifar10`, "
        "`cifar100`, `stl10` (its unlabelled split) or `scenes`, never their test images; null: video only",
    )
    image_share: Share = Field(
        IMAGE_SHARE,
        exclude_if=lambda value: value == IMAGE_SHARE,
        description="share of each batch that is images, where images are given; the rest is patches",
    )
    twin_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="share of each batch that is patches with a twin by mutual information, the same rows for all "
        "policies, `none` included; null: patches as they come",
    )
    # No part of the identity: where patches are streamed, the stage's key says how many are shuffled together.
    shuffle: Annotated[Literal["auto", "all"] | Annotated[int, Field(ge=1)], Runtime] = Field(
        "auto",
        description="patches that an epoch shuffles together: `all`, held in memory or in a mapped file; or a number, "
        "for which training streams shards from the store; auto: all up to 32 GiB of pixels, else 262,144 patches",
    )
    compile: bool = Field(False, description="compile the backbone with torch.compile")
    images_on_device: Annotated[bool | Literal["auto"], Runtime] = Field(
        "auto", description="keep images in device memory instead of a memory-mapped file; auto: if they fit"
    )
    checkpoint_every: Annotated[Positive, Runtime] = Field(1, description="epochs between checkpoints")
    checkpoint_minutes: Annotated[float, Field(ge=0), Runtime] = Field(
        10, description="minutes between checkpoints within an epoch, of a streamed training"
    )
    cache: Annotated[float, Field(gt=0), Runtime] = Field(
        100, description="GiB of a node's disk (TMPDIR) that shards from an object storage may take"
    )
    workers: Annotated[Positive, Runtime] = Field(1, description="training processes")
    min_workers: Annotated[Positive | None, Runtime] = Field(
        None, description="processes that training goes on with while nodes for `workers` are missing; null: all"
    )
    cpus_per_worker: Annotated[Positive | None, Runtime] = Field(
        None, description="CPUs of a worker; null: an equal share of the cluster's CPUs"
    )
    gpu: Annotated[bool | None, Runtime] = Field(
        None, description="train on GPUs; null: if the cluster has one for each worker"
    )
    max_failures: Annotated[int, Field(ge=0), Runtime] = Field(3, description="restarts after failed workers")

    @property
    def stills(self) -> str | None:
        """The images that training reads beside the video; None if it reads none."""
        return self.images if self.image_share else None

    @property
    def share_of_patches(self) -> float:
        """The share of each batch that is patches."""
        return 1 - self.image_share if self.stills else 1.0

    @property
    def twins_at_once(self) -> int:
        """The most twins that a patch is shown with in one step."""
        return self.twins if self.twin_choice == "all" else 1

    def rows_with_twin(self, patches_with_twin: float) -> float:
        """The share of a batch's rows that have a twin, if this share of the patches has one."""
        return patches_with_twin * self.share_of_patches if self.twin_share is None else self.twin_share

    @field_validator("framework")
    @classmethod
    def _framework_is_known(cls, name: str) -> str:
        if own_code.is_own(name):
            frameworks.settings_type(name)  # which imports it
        else:
            _check_name(name, frameworks.available(), "framework")
        return name

    @field_validator("framework_settings", mode="wrap")
    @classmethod
    def _typed_by_framework(cls, values: Any, _: Any, info: ValidationInfo) -> FrameworkSettings | Any:
        if "framework" not in info.data:  # refused already
            return values
        return cls.framework_settings_type(info.data["framework"]).model_validate(values)

    @classmethod
    def framework_settings_type(cls, framework: Any) -> type[FrameworkSettings]:
        """The type of `framework_settings` for a framework."""
        return frameworks.settings_type(framework)

    @classmethod
    def types_by_value(cls, values: dict[str, Any]) -> dict[str, type[BaseModel]]:
        """Types of the fields whose type depends on other values of this section, to name the nearest known key."""
        framework = values.get("framework", cls.model_fields["framework"].default)
        try:
            return {"framework_settings": cls.framework_settings_type(framework)}
        except ValueError:  # refused already
            return {}

    @classmethod
    def belongs_to(cls, key: str) -> str:
        """What an unknown key is a setting of, if it is one of other frameworks."""
        section, _, name = key.partition(".")
        known = [other for other in frameworks.available() if name in cls.framework_settings_type(other).model_fields]
        return f"it is a setting of {', '.join(known)}" if section == "framework_settings" and known else ""


# Settings of `evaluate` that name data sets.
PROTOCOLS = ("datasets", "domains", "propagation", "keypoints", "segmentation", "detection")
# What is measured, each with a result of its own, and the settings of `evaluate` that the result depends on. Beside the
# protocols: what `low_shot` and `fine_tune` measure further on `datasets`, and what the report shows of patches and
# frames. No other setting is in the key of the result, or seen by what measures it: see `EvaluateConfig.only`.
_PROBE = ("probe_iterations", "probe_c")
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "datasets": ("limit", "neighbours", "temperature", *_PROBE),
    "low_shot": ("limit", "low_shot", *_PROBE),
    "fine_tune": ("limit", "low_shot", "fine_tune", "fine_tune_rate", "fine_tune_batch"),
    "domains": ("limit", "neighbours", "temperature", *_PROBE),
    "propagation": (),
    "keypoints": (),
    "segmentation": ("limit", "void", *_PROBE),
    "detection": ("limit", "detector"),
    "look": (),
}


class DetectorConfig(Section):
    """The detectors of `evaluate.detection` and their training (docs/evaluation.md, Detection)."""

    frozen: bool = Field(False, description="train the pyramid and the heads on the frozen backbone; false: all of it")
    batch_norm: Literal["train", "frozen"] = Field(
        "train",
        description="batch norm of a fine-tuned backbone: with the statistics of the batch, or with its own, for "
        "batches of fewer than 8 images",
    )
    size: Annotated[int, Field(ge=16, le=4096)] | None = Field(
        None,
        description="shorter side to which images are resized, pixels; null: 800, or, where the network's last stage "
        "has another stride than 32, in proportion to it",
    )
    epochs: Positive = Field(12, description="epochs of training; the learning rate falls tenfold at 2/3 and at 11/12")
    batch_size: Positive = Field(8, description="images of a step")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="learning rate at 16 images a step, scaled linearly; null: 0.02 (SGD) on networks of stages, "
        "0.0001 (AdamW) on plain ones such as ViTs",
    )
    width: Annotated[int, Field(ge=8, le=1024)] = Field(
        256, description="channels of the pyramid and of the mask head; the box head has four times as many"
    )
    proposals: Annotated[int, Field(ge=8)] = Field(512, description="regions of an image that the heads are trained on")
    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="seed of the heads and of the order of the images, the same for all backbones"
    )


class EvaluateConfig(Section):
    """Evaluation of the backbone: accuracy of classifiers, propagated labels, linear segmentation, detection."""

    # What an accuracy is measured on and when is no part of the experiment's identity: results are stored by data set,
    # so that another data set can be added to a finished experiment.
    datasets: Annotated[ListOfNames, Runtime] = Field(
        ["scenes"], description="`scenes`, `cifar10`, `cifar100`, `stl10`, an image folder, or an .npz file"
    )
    domains: Annotated[ListOfNames, Runtime] = Field(
        [], description="folders `DOMAIN/CLASS/image`: trained on one domain, tested on every other one"
    )
    propagation: Annotated[ListOfNames, Runtime] = Field(
        [], description="folders `JPEGImages/SEQUENCE` and `Annotations/SEQUENCE`, as DAVIS: masks are propagated"
    )
    keypoints: Annotated[ListOfNames, Runtime] = Field(
        [],
        description="folders as those of propagation, with `Keypoints/SEQUENCE.json`, as BADJA: joints are propagated",
    )
    segmentation: Annotated[ListOfNames, Runtime] = Field(
        [], description="folders `images/SPLIT` and `masks/SPLIT` (PNG, class indices): linear segmentation"
    )
    detection: Annotated[ListOfNames, Runtime] = Field(
        [],
        description="COCO's JSON, or folders with annotations/*.json or with `images/SPLIT` and `labels/SPLIT` (YOLO): "
        "Faster R-CNN, or with masks Mask R-CNN",
    )
    every: Annotated[Positive | None, Runtime] = Field(
        None,
        description="epochs between validations during training: weighted kNN on the held-out fifth of the first data "
        "set's training images; null: no validation",
    )
    data: Annotated[str, Runtime] = Field("data", description="folder of torchvision's data sets")
    download: Annotated[bool, Runtime] = Field(True, description="download torchvision's data sets that are missing")
    limit: Positive | None = Field(None, description="largest number of images of each split; null: all")
    low_shot: Annotated[list[Literal[1, 10]], ONE_OR_SEVERAL] = Field(
        [],
        exclude_if=lambda value: value == [],
        description="percentages of the training labels, 1 or 10, by which further linear probes are fitted, "
        "and backbones fine-tuned",
    )
    fine_tune: Positive | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="epochs of fine-tuning the backbone with a linear head, on all training labels and those of "
        "low_shot; null: no fine-tuning",
    )
    fine_tune_rate: Annotated[float, Field(gt=0)] = Field(
        0.05,
        exclude_if=lambda value: value == 0.05,
        description="learning rate of fine-tuning at a batch of 256; scaled linearly",
    )
    fine_tune_batch: Annotated[int, Field(ge=2)] = Field(
        256, exclude_if=lambda value: value == 256, description="batch size of fine-tuning"
    )
    void: Annotated[list[Annotated[int, Field(ge=0, le=255)]], ONE_OR_SEVERAL] = Field(
        [255],
        exclude_if=lambda value: value == [255],
        description="class indices in the masks of segmentation that do not count",
    )
    detector: DetectorConfig = Field(
        DetectorConfig(),
        exclude_if=lambda value: value == DetectorConfig(),
        description="the detectors of detection and their training",
    )
    batch_size: Annotated[Positive, Runtime] = Field(512, description="batch size on a GPU; smaller on a CPU")
    neighbours: Positive = Field(200, description="k of the kNN classifier")
    temperature: Annotated[float, Field(gt=0)] = Field(0.1, description="temperature of the kNN classifier's weights")
    probe_iterations: Positive = Field(200, description="most iterations of the linear probe's solver")
    probe_c: Annotated[float, Field(gt=0)] = Field(
        1.0, description="inverse regularisation strength of the linear probe"
    )

    @property
    def names(self) -> list[str]:
        """All data sets, in the order in which they are measured and shown."""
        return [name for protocol in PROTOCOLS for name in getattr(self, protocol)]

    def protocol(self, name: str) -> str:
        """The one of `PROTOCOLS` that names this data set; `datasets` if none does."""
        return next((protocol for protocol in PROTOCOLS if name in getattr(self, protocol)), "datasets")

    def measured(self, name: str) -> list[str]:
        """What is measured on a data set: its protocol, and of `datasets` what `low_shot` and `fine_tune` ask for."""
        protocol = self.protocol(name)
        further = [of for of in ("low_shot", "fine_tune") if protocol == "datasets" and getattr(self, of)]
        return [protocol, *further]

    def only(self, measured: str) -> "EvaluateConfig":
        """These settings as one of `DEPENDS_ON` sees them: those that it does not depend on have their defaults."""
        fields = type(self).model_fields.items()
        other = {n for n, field in fields if n not in DEPENDS_ON[measured] and Runtime not in field.metadata}
        return self.model_copy(update={name: field.default for name, field in fields if name in other})

    @model_validator(mode="after")
    def _fits(self) -> "EvaluateConfig":
        for one, other in combinations(PROTOCOLS, 2):
            if both := set(getattr(self, one)) & set(getattr(self, other)):
                raise ValueError(f"'{min(both)}' is among {one} and among {other}: name it in one of them")
        if self.every and not self.datasets:
            raise ValueError("every needs a data set to validate on: name one in datasets")
        return self


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = Field(None, description="tracking server; null: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db")
    experiment: str = Field("infoaug", description="name of the MLflow experiment")
    register_as: str | None = Field(
        None, description="name in MLflow's model registry that the trained backbone becomes a version of; null: none"
    )
    system_metrics: bool = Field(
        True,
        description="log CPU, memory, disk and network of the driver's machine to MLflow every 10 s of a training, "
        "and its GPU if nvidia-ml-py is installed; for a sweep to the run of each trial, from its start to its end",
    )
    tensorboard: str | None = Field(
        None, description="folder for TensorBoard's event files, one folder in it for each run; null: none"
    )

    @field_validator("experiment")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.strip() or not name.isprintable() or {".", ".."} & set(name.split("/")):
            raise ValueError("the name of an MLflow experiment names a folder too: give it letters, and no '..'")
        if len(name.encode()) > 200:
            raise ValueError(
                f"the name of an MLflow experiment has at most 200 bytes, this one has {len(name.encode())}"
            )
        return name

    @field_validator("register_as")
    @classmethod
    def _can_be_registered(cls, name: str | None) -> str | None:
        # MLflow would refuse it only once the model is trained.
        if name is None or (name.strip() and name.isprintable() and name not in (".", "..") and not {*"/:"} & {*name}):
            return name
        raise ValueError("the name of a registered model needs letters and has no '/' and no ':': give another one")


class RayConfig(Section):
    """Ray cluster."""

    address: str | None = Field(None, description="address of a running cluster; null: RAY_ADDRESS, or this machine")
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = Field(None, description="CPUs of this machine; null: all")
    object_store_mb: Annotated[int, Field(ge=80)] | None = Field(
        None, description="Ray's object store on this machine, MiB; null: Ray's default"
    )


class ExperimentConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        "experiment", description="name of the experiment, in its folder, its report and MLflow"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of the training; scenes and score have their own")
    store: Annotated[str, Runtime] = Field(
        "outputs",
        description="folder of all outputs, or a URL that pyarrow can open; default: INFOAUG_STORE, or outputs",
    )
    clips: ClipsConfig = ClipsConfig()
    scenes: ScenesConfig = ScenesConfig()
    extract: ExtractConfig = ExtractConfig()
    score: ScoreConfig = ScoreConfig()
    pretrain: PretrainConfig = PretrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: Annotated[TrackingConfig, Runtime] = TrackingConfig()
    ray: Annotated[RayConfig, Runtime] = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _is_no_sweep(cls, values: Any) -> Any:
        if isinstance(values, dict) and "sweep" in values and "sweep" not in cls.model_fields:
            raise ValueError("this is the config of a sweep: run `infoaug sweep` with it")
        return values

    @model_validator(mode="before")
    @classmethod
    def _store_from_the_environment(cls, values: Any) -> Any:
        # Set as if the file had named it, so that a worker with another environment uses the same store.
        store = os.environ.get("INFOAUG_STORE")
        return {"store": store, **values} if store and isinstance(values, dict) else values

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load` reads back to an equal config, but for the secrets of URLs: `***`."""
        return yaml.safe_dump(masked(self.model_dump(mode="json")), sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, as `--set` takes it. The secrets of URLs are `***`."""
        return dict(_flatten(masked(self.model_dump(mode="json"))))


# The settings that are no part of an experiment's identity, for pydantic's `exclude`.
RUNTIME: dict[str, Any] = runtime_settings(ExperimentConfig)


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a config file and put the overrides on top; see `settings.read` for both, and for what is raised."""
    return settings.read(ExperimentConfig, path, overrides)


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
