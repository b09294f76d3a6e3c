"""What an experiment would take in time and on disk: its work, counted, at rates that were measured elsewhere.

The rates are of other machines and other video. An estimate can easily be wrong by a factor of two.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import inf
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infoaug.estimators.video.clips import Reader
from infoaug.estimators.video.manifest import is_url
from infoaug.models import own_code
from infoaug.models.backbones import create_backbone
from infoaug.models.training.loop import build_model, example
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, pretrain, score

COUNTED = 4  # patches of the batch whose operations are counted
SAMPLED = 16  # clips that are opened to know their size
# Operations a second in training. A core: the demo of the README, 190 images a second on two. A GPU: an H100,
# docs/gpu.md, where 3,312 patches a second of a ResNet-18 at 224 pixels are 108 and 18,370 at 32 pixels 184 of 10¹².
CORE, GPU = 0.032e12, 110e12
# Seconds on one core for a window of 48 frames, 640 × 360 pixels and 50 patches; docs/scaling.md has how they grow.
EXTRACT, SCORE = 0.53, 0.056
SCAN = 16e-9  # seconds a pixel of every frame, to find shots: docs/scaling.md, 1.421 s for 250 frames of 340 × 256
CROP, FALLS = 1.9, 0.36  # bytes a pixel of a stored crop of 32 pixels, and how they fall with its side: docs/scaling.md
POINT = 12  # bytes of a patch in a frame: its position, and whether it is visible
WEIGHT = 12  # bytes of a weight: in the checkpoint, with its momentum, and in the result
SOURCE = "rates measured on other machines (docs/scaling.md, docs/gpu.md); easily wrong by a factor of two"


@dataclass(frozen=True)
class Video:
    """The clips of an experiment: counted if they were extracted, otherwise reckoned from the size of some.

    Attributes:
        clips: their number.
        frames: of all of them.
        pixels: of a frame, mean.
        windows: of all clips.
        patches: of all windows.
    """

    clips: int
    frames: float
    pixels: float
    windows: float
    patches: float

    def seconds(self, config: ExperimentConfig) -> float:
        """Of one core, to extract and score."""
        if not self.windows:
            return 0.0
        length, patches = config.extract.window / 48, self.patches / self.windows / 50
        track = EXTRACT * length * (self.pixels / 230_400) ** 0.55 * patches**0.22
        pairs = 0.0 if config.score.policy == "none" else SCORE * length**2.34 * patches**0.75
        return self.frames * self.pixels * SCAN + self.windows * (track + pairs)

    def bytes(self, config: ExperimentConfig) -> float:
        """Of the stored patches."""
        settings = config.extract
        crop = settings.image_size**2 * CROP * (settings.image_size / 32) ** -FALLS
        return self.patches * (settings.crops * crop + settings.window * POINT)

    def __str__(self) -> str:
        return (
            f"{self.clips:,} clips, about {self.frames:,.0f} frames, {self.windows:,.0f} windows, "
            f"{self.patches:,.0f} patches"
        )


def video(config: ExperimentConfig) -> Video | None:
    """The clips of an experiment, of which at most `SAMPLED` are opened; None if there are none yet.

    Clips at URLs would have to be fetched, so that they are not looked at either.
    """
    if config.clips.path and is_url(config.clips.path):
        return None
    length = config.extract.window
    stride, cell = config.extract.stride or length, config.extract.cell
    try:
        count = extract.count(config)
        sizes = [*_sizes(config)]
    except UsageError:
        return None
    if not sizes:
        return None
    windows = [max(0, (frames - length) // stride + 1) for frames, _, _ in sizes]
    patches = sum(n * (height // cell) * (width // cell) for n, (_, height, width) in zip(windows, sizes, strict=True))
    scale = count / len(sizes)
    frames, pixels = sum(frames for frames, *_ in sizes), sum(height * width for _, height, width in sizes) / len(sizes)
    return Video(count, scale * frames, pixels, scale * sum(windows), scale * patches)


def _sizes(config: ExperimentConfig) -> Iterator[tuple[int, int, int]]:
    """(frames, height, width) of some clips, evenly over their list."""
    if config.clips.path is None:
        yield config.scenes.frames, config.scenes.height, config.scenes.width
        return
    clips = extract.find(config, Store(config.store))
    for clip in clips[:: -(-len(clips) // SAMPLED)]:
        try:
            with Reader(clip.path, read_timeout=config.extract.read_timeout) as reader:
                height, width = reader.read(0, 1).shape[1:3]
                yield reader.announced, height, width
        except ValueError:  # a clip that cannot be decoded costs nothing
            continue


def scored(config: ExperimentConfig, store: Store) -> score.Scored | None:
    """The scored patches of an experiment; None if they are not scored yet."""
    try:
        return score.load(config, extract.load(config, store))
    except StageError:
        return None


def operations(config: ExperimentConfig, share_with_twin: float) -> float:
    """Floating-point operations of training on one patch for one epoch, forward and backward.

    They are counted in a step of a small batch without twins and in one where every patch has one, and interpolated.
    A patch that is shown with several twins at once is taken to have all of them.
    """
    chosen = config.pretrain.model_dump(include={"framework", "framework_settings", "backbone", "backbone_settings"})
    model = {"pretrain": chosen, "extract": {"image_size": config.extract.image_size}}
    without, with_twins = _counted(json.dumps(model, sort_keys=True))
    if config.score.policy == "none":
        return without
    twins = config.pretrain.rows_with_twin(share_with_twin) * config.pretrain.twins_at_once
    return without + twins * (with_twins - without)


def weights(config: ExperimentConfig) -> int:
    """Number of weights of the backbone."""
    return sum(weight.numel() for weight in _backbone(*_named(config), "meta")[0].parameters())


@cache
def _counted(model: str) -> tuple[float, float]:
    """Operations for a patch without a twin and with one, by the JSON of the settings they depend on.

    The backbone's are counted once, for one image, whatever framework it is in. In the step, images that pass through
    it are counted, those with gradients three times: forward, and backward to weights and inputs. The frameworks of
    infoaug take tensors without values (`meta`), on which nothing is computed; code of the user's own may look at them.
    """
    config = ExperimentConfig.model_validate_json(model)  # whose policy has twins
    size = config.extract.image_size
    device = "cpu" if own_code.is_own(config.pretrain.framework) else "meta"
    backbone, of_an_image = _backbone(*_named(config), device)
    passed, width = 0.0, cast(int, backbone.num_features)

    def instead(self: nn.Module, images: Tensor) -> Tensor:
        nonlocal passed
        area = images.shape[-2] * images.shape[-1] / size**2  # small views cost by their area
        features = next(self.parameters()).mean() * images.new_ones(len(images), width)
        passed += len(images) * area * (3 if features.requires_grad else 1)
        return features + images.mean((1, 2, 3))[:, None]

    backbone.forward = MethodType(instead, backbone)  # which a copy, the momentum backbone, has of its own
    try:
        with torch.device(device):
            built = build_model(pretrain.training_settings(config), backbone).train()
            batch = example(built, size, COUNTED)

        def of_a_step() -> float:
            nonlocal passed
            passed = 0.0
            with torch.device(device), FlopCounterMode(display=False) as counter:
                built(**batch)["loss"].backward()
            return (counter.get_total_flops() + passed * of_an_image) / COUNTED

        with_twins = of_a_step()
        # What is left is the model without twins: building both would take twice as long.
        built.twin_branch = None
        del batch["twin"], batch["twin_rows"]
        return of_a_step(), with_twins
    finally:
        del backbone.forward


def _named(config: ExperimentConfig) -> tuple[str, int, str]:
    settings = config.pretrain
    return settings.backbone, config.extract.image_size, json.dumps(settings.backbone_settings, sort_keys=True)


@cache
def _backbone(name: str, size: int, settings: str, device: str) -> tuple[nn.Module, float]:
    """A backbone, moved to a device, and the operations of one image's way forward through it."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        backbone = create_backbone(name, size, **json.loads(settings))
        with FlopCounterMode(display=False) as counter:
            backbone.eval()(torch.zeros(1, 3, size, size))
    return backbone.to(device), float(counter.get_total_flops())


@dataclass(frozen=True)
class Estimate:
    """What is left to do of one experiment or several.

    Attributes:
        video: seconds of one core to extract and score.
        training: floating-point operations.
        bytes: that will be written.
    """

    video: float
    training: float
    bytes: float

    def lines(self, config: ExperimentConfig, gpu: float = GPU) -> list[tuple[str, str]]:
        """What to tell the user, by what it is of. `gpu`: operations a second that a GPU sustains in training."""
        cores = config.ray.cpus or os.cpu_count() or 1
        cpu, on_gpu = self.training / (CORE * cores), self.training / gpu
        parts = [f"{about(self.video / cores)} to extract and score"] if self.video else []
        parts += [f"{about(cpu)} to train"] if self.training else []
        parts += [f"or {about(on_gpu)} on one GPU at {gpu / 1e12:g}·10¹² operations a second"] if self.training else []
        whole = about(self.video / cores + cpu)
        whole = whole if whole.startswith("under") else f"about {whole}"
        time = f"{whole} on {cores} CPU cores: {', '.join(parts)}" if parts else "none"
        time += "; evaluation is not counted"
        disk = f"about {_size(self.bytes)} in {config.store}"
        return [("time", time), ("disk", disk), ("", f"estimates, at {SOURCE}")]


def of_run(config: ExperimentConfig, found: score.Scored | None, clips: Video | None, trained: bool) -> Estimate:
    """The estimate of one experiment; what is scored or trained already costs nothing."""
    if clips is None and found is None:
        return Estimate(0.0, 0.0, 0.0)
    patches = found.counts["patches"] if found else clips.patches if clips else 0.0
    share = found.share_with_twin if found else 1.0
    spent = 0.0 if trained else operations(config, share) * patches * config.pretrain.epochs
    written = 0.0 if trained else float(weights(config) * WEIGHT)
    if found or not clips:
        return Estimate(0.0, spent, written)
    return Estimate(clips.seconds(config), spent, written + clips.bytes(config))


def about(seconds: float) -> str:
    """A duration in one unit: `under a minute`, `12 min`, `3.4 h`, `5.1 days`, `12 years`."""
    years = (63_072_000, 31_536_000, " years")
    for least, divisor, unit in (years, (172_800, 86_400, " days"), (5_400, 3_600, " h"), (59, 60, " min")):
        if seconds >= least:
            value = seconds / divisor
            return f"{value:,.0f}{unit}" if value >= 10 else f"{value:.2g}{unit}"
    return "under a minute"


def _size(count: float) -> str:
    for limit, unit in ((1e6, "kB"), (1e9, "MB"), (1e12, "GB"), (inf, "TB")):
        if count < limit:
            value = count / (limit if limit < inf else 1e15) * 1e3
            return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
    raise AssertionError
