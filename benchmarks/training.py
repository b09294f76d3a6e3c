"""Speed of a training step, compared with lightly's loop and with the bare backbone; accuracy compared with lightly.

    pip install -e '.[bench]'
    python benchmarks/training.py [--batch 64] [--rounds 8] [--backbone resnet18] [--json FILE]
    python benchmarks/training.py --accuracy path/to/cifar10 [--images 5000] [--epochs 10] [--seeds 3] [--frameworks …]

Images are random, of 32 pixels; every patch has a twin. The two sides of a comparison alternate step by step, so that
other load on the machine affects both. A ratio is the median over rounds, its spread the quartiles. Augmentation is
compared by the CPU time of the process.

1. `same settings`: a step of SimCLR with lightly's heads and loss in a plain loop, against ours without twins.
   Backbone, batch, memory layout, precision and augmentation (ours) are the same.
2. `default recipes`: lightly's (PIL transforms, a DataLoader with a worker per CPU, float32, channels first) against
   ours without twins, which lightly does not have.
3. `limit`: our default step with twins against forward and backward passes of the bare backbone on as many images.
4. `twin branch`: our default step with twins against without.
5. `views by time`: our default step on two crops of a track, augmented and not, against two augmentations of one.
6. `augmentation`: images per CPU-second, lightly's SimCLR transform for 32 pixels against ours.

`--accuracy`: weighted kNN on a folder `train/CLASS/…`, `test/CLASS/…` for SimCLR and BYOL, with configs/recipes and
with the recipes of lightly's CIFAR-10 benchmark; backbone, images, batch and epochs are the same. Means over seeds with
95 % intervals; `ours − lightly` is the mean of the differences seed by seed, in points.
"""

import argparse
import copy
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # or some versions ask a server

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from infoaug.models.augment import CIFAR_MEAN, CIFAR_STD, Augment
from infoaug.models.backbones import create_backbone
from infoaug.models.settings import AugmentSettings
from infoaug.models.training import Pairs, Training, TrainingSettings
from infoaug.models.training.draws import draw
from infoaug.models.training.optimisation import autocast
from infoaug.orchestrator.config import EvaluateConfig, load
from infoaug.orchestrator.evaluation import datasets, probes
from infoaug.orchestrator.reporting.statistics import percent, points, summary

try:
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import BYOLTransform, SimCLRTransform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
except ImportError as error:
    raise SystemExit(f"lightly is missing ({error}): pip install 'lightly>=1.6,<1.7'") from None

SIZE = 32
RECIPES = Path(__file__).parents[1] / "configs" / "recipes"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Lightly(nn.Module):
    """SimCLR or BYOL with the heads, losses, optimiser and settings of lightly's CIFAR-10 benchmark."""

    def __init__(self, framework: str, backbone: nn.Module, batch: int) -> None:
        super().__init__()
        width: int = backbone.num_features  # type: ignore[assignment]
        self.backbone, self.framework = backbone, framework
        if framework == "simclr":
            self.head, self.loss = SimCLRProjectionHead(width, width, 128), NTXentLoss()
        else:
            self.head, self.loss = BYOLProjectionHead(width, 1024, 256), NegativeCosineSimilarity()
            self.predictor = BYOLPredictionHead(256, 1024, 256)
            self.slow, self.slow_head = _copy(backbone), _copy(self.head)
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.06 * batch / 128, momentum=0.9, weight_decay=5e-4)

    def step(self, first: Tensor, second: Tensor, autocast: Any) -> Tensor:
        """Take one step of the optimiser and return the loss."""
        with autocast:
            if self.framework == "simclr":
                outputs = [self.head(self.backbone(view)) for view in (first, second)]
            else:
                update_momentum(self.backbone, self.slow, m=0.99)
                update_momentum(self.head, self.slow_head, m=0.99)
                outputs = [self.predictor(self.head(self.backbone(view))) for view in (first, second)]
                targets = [self.slow_head(self.slow(view)).detach() for view in (first, second)]
        outputs = [output.float() for output in outputs]
        if self.framework == "simclr":
            loss = self.loss(*outputs)
        else:
            loss = 0.5 * (self.loss(outputs[0], targets[1].float()) + self.loss(outputs[1], targets[0].float()))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _copy(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


class Pictures(Dataset):
    """Views of images u8[N, 3, S, S], made by a transform of PIL images."""

    def __init__(self, images: Tensor, transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self.images, self.transform = images.permute(0, 2, 3, 1).numpy(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.images[index]))


def transform(framework: str) -> Callable[[Image.Image], list[Tensor]]:
    """lightly's transform for 32 pixels: for SimCLR half the colour strength, no blur; CIFAR's normalisation."""
    normal = {"mean": list(CIFAR_MEAN), "std": list(CIFAR_STD)}
    if framework == "simclr":
        return SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0, normalize=normal)
    return BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=SIZE, gaussian_blur=0.0, normalize=normal),
        view_2_transform=BYOLView2Transform(input_size=SIZE, gaussian_blur=0.0, normalize=normal),
    )


def loader(images: Tensor, framework: str, batch: int) -> DataLoader:
    """lightly's data loading, with a worker per CPU."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DataLoader(
        Pictures(images, transform(framework)),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


def ours(arguments: argparse.Namespace, **changes: Any) -> Callable[[], Any]:
    """One step of our default training, as a function; every patch has four crops."""
    random_images = torch.Generator().manual_seed(0)
    count = 8 * arguments.batch
    images = torch.randint(0, 256, (count, 4, 3, SIZE, SIZE), dtype=torch.uint8, generator=random_images)
    settings = TrainingSettings(backbone=arguments.backbone, batch_size=arguments.batch, image_size=SIZE, **changes)
    training = Training(settings, Pairs.from_arrays(images, (torch.arange(count) + 1) % count), DEVICE)
    training.model.train()
    random = torch.Generator(DEVICE).manual_seed(0)
    twins = training.model.twin_branch is not None

    def step() -> None:
        rows = torch.randperm(count)[: arguments.batch]
        drawn = draw(training.data, rows, training.settings, torch.default_generator)
        training.step(training.data.batch(drawn, DEVICE, twins), random, progress=0.5)

    return step


def lightly_same(arguments: argparse.Namespace) -> Callable[[], Any]:
    """The same with lightly's heads and loss in a plain loop, and our augmentation."""
    backbone = create_backbone(arguments.backbone, SIZE)
    model = Lightly("simclr", backbone, arguments.batch).to(DEVICE, memory_format=torch.channels_last).train()
    images = torch.randint(0, 256, (8 * arguments.batch, 3, SIZE, SIZE), dtype=torch.uint8).to(DEVICE)
    augment, random = Augment(AugmentSettings()).to(DEVICE), torch.Generator(DEVICE).manual_seed(0)

    def step() -> None:
        chosen = images[torch.randperm(len(images))[: arguments.batch].to(DEVICE)]
        views = [augment(chosen, generator=random).contiguous(memory_format=torch.channels_last) for _ in range(2)]
        model.step(views[0], views[1], autocast("auto", DEVICE))

    return step


def lightly_default(arguments: argparse.Namespace) -> Callable[[], Any]:
    """lightly's own recipe: its loader, float32, channels first."""
    images = torch.randint(0, 256, (64 * arguments.batch, 3, SIZE, SIZE), dtype=torch.uint8)
    model = Lightly("simclr", create_backbone(arguments.backbone, SIZE), arguments.batch).to(DEVICE).train()
    batches = _endless(loader(images, "simclr", arguments.batch))

    def step() -> None:
        first, second = next(batches)
        model.step(first.to(DEVICE), second.to(DEVICE), autocast("float32", DEVICE))

    return step


def _endless(batches: DataLoader) -> Iterator[list[Tensor]]:
    while True:
        yield from batches


def backbone_alone(arguments: argparse.Namespace, views: int) -> Callable[[], Any]:
    """Forward and backward passes on one batch of `views` · batch images in the device's memory."""
    backbone = create_backbone(arguments.backbone, SIZE).to(DEVICE, memory_format=torch.channels_last).train()
    images = torch.randn(views * arguments.batch, 3, SIZE, SIZE, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        with autocast("auto", DEVICE):
            features = backbone(images)
        features.float().square().mean().backward()

    return step


def seconds(step: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one step, seconds."""
    started = clock()
    step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def compare(name: str, top: Callable[[], Any], bottom: Callable[[], Any], rounds: int, clock: Any) -> dict[str, Any]:
    """Median times of both, alternating, and quartiles of the ratio top / bottom."""
    for step in (top, bottom) * 2:
        seconds(step)
    pairs = [(seconds(top, clock), seconds(bottom, clock)) for _ in range(rounds)]
    low, ratio, high = np.quantile([one / other for one, other in pairs], [0.25, 0.5, 0.75]).tolist()
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"name": name, "top": first, "bottom": second, "ratio": ratio, "low": low, "high": high}


def augmentation(arguments: argparse.Namespace) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """lightly's two views of 256 images, and ours."""
    images = torch.randint(0, 256, (256, 3, SIZE, SIZE), dtype=torch.uint8)
    pictures = Pictures(images, transform("simclr"))
    augment, random = Augment(), torch.Generator().manual_seed(0)
    return (
        lambda: [pictures[index] for index in range(len(pictures))],
        lambda: [augment(images, generator=random) for _ in range(2)],
    )


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the ratios; higher is better for us in 1, 2 and 6, lower in 3, 4 and 5."""
    wall = time.perf_counter
    no_twins = ours(arguments, twin_weight=0.0)
    rows = [compare("1 same settings: lightly / ours", lightly_same(arguments), no_twins, arguments.rounds, wall)]
    default = lightly_default(arguments)
    rows.append(compare("2 default recipes: lightly / ours", default, no_twins, arguments.rounds, wall))
    del default
    twins = ours(arguments)
    rows.append(compare("3 limit: ours / backbone", twins, backbone_alone(arguments, 3), arguments.rounds, wall))
    rows.append(compare("4 twin branch: with / without", twins, no_twins, arguments.rounds, wall))
    for views in ("time", "both"):
        other = ours(arguments, twin_weight=0.0, views=views)
        rows.append(compare(f"5 views by time: {views} / augmented", other, no_twins, arguments.rounds, wall))
    sides = augmentation(arguments)
    rows.append(compare("6 augmentation: lightly / ours, CPU", *sides, arguments.rounds, time.process_time))
    return rows


def accuracy(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """kNN accuracy of both recipes for every framework and seed."""
    settings = EvaluateConfig(limit=arguments.images)
    loaded = datasets.load(arguments.accuracy, settings, SIZE)
    train, test = loaded.train, loaded.test
    rows = []
    for framework, side, seed in itertools.product(arguments.frameworks, ("ours", "lightly"), range(arguments.seeds)):
        torch.manual_seed(seed)
        started = time.perf_counter()
        backbone = (_our_backbone if side == "ours" else _lightly_backbone)(arguments, framework, train.images, seed)
        took = time.perf_counter() - started
        x_train, x_test = (probes.features(backbone, split.images, 256, DEVICE) for split in (train, test))
        knn = probes.knn_accuracy(x_train, train.labels.numpy(), x_test, test.labels.numpy(), settings)
        rows.append({"framework": framework, "side": side, "seed": seed, "knn": knn, "seconds": took})
        print(rows[-1], flush=True)
    return rows


def accuracy_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Means over seeds for every framework and recipe, and means of the differences seed by seed."""
    table = Table("framework", "recipe", "kNN, mean ± 95 %", "seeds", "seconds", title=title)
    for framework, group in itertools.groupby(rows, lambda row: row["framework"]):
        runs = list(group)
        knn = {side: np.array([row["knn"] for row in runs if row["side"] == side]) for side in ("ours", "lightly")}
        for side, each in knn.items():
            took = statistics.mean(row["seconds"] for row in runs if row["side"] == side)
            by_seed = " ".join(f"{100 * value:.1f}" for value in each)
            table.add_row(framework, side, percent(summary(each)), by_seed, f"{took:.0f}")
        difference = knn["ours"] - knn["lightly"]
        by_seed = " ".join(f"{100 * value:+.1f}".replace("-", "−") for value in difference)
        table.add_row(framework, "ours − lightly", points(summary(difference)), by_seed, "")
    return table


def _our_backbone(arguments: argparse.Namespace, framework: str, images: Tensor, seed: int) -> nn.Module:
    overrides = [
        f"seed={seed}",
        "score.policy=none",
        f"pretrain.backbone={arguments.backbone}",
        f"pretrain.batch_size={arguments.batch}",
        f"pretrain.epochs={arguments.epochs}",
        f"pretrain.warmup_epochs={arguments.epochs // 10}",
    ]
    from infoaug.orchestrator.stages import pretrain  # imports Ray, which the comparison of speed does not need

    settings = pretrain.training_settings(load(RECIPES / f"{framework}.yaml", overrides))
    training = Training(settings, Pairs(images, torch.full((len(images),), -1)), DEVICE)
    for _ in range(arguments.epochs):
        training.epoch()
    return training.model.backbone


def _lightly_backbone(arguments: argparse.Namespace, framework: str, images: Tensor, seed: int) -> nn.Module:
    model = Lightly(framework, create_backbone(arguments.backbone, SIZE), arguments.batch).to(DEVICE).train()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(model.optimizer, arguments.epochs)
    batches = loader(images, framework, arguments.batch)
    for _ in range(arguments.epochs):
        for first, second in batches:
            model.step(first.to(DEVICE), second.to(DEVICE), autocast("float32", DEVICE))
        schedule.step()
    return model.backbone


def main() -> None:
    """Print the table; write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--accuracy", metavar="FOLDER")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frameworks", nargs="+", choices=("simclr", "byol"), default=("simclr", "byol"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    bf16 = torch.cpu._is_avx512_bf16_supported() if DEVICE.type == "cpu" else torch.cuda.is_bf16_supported()
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {DEVICE.type}"
    machine += f", bfloat16 {'yes' if bf16 else 'no'}, torch {torch.__version__}"
    title = f"{arguments.backbone}, batch of {arguments.batch}; {machine}"
    if arguments.accuracy:
        rows = accuracy(arguments)
        table = accuracy_table(rows, title)
    else:
        rows = speed(arguments)
        table = Table("what", "top, s", "bottom, s", "ratio", "quartiles", title=title)
        for row in rows:
            quartiles = f"{row['low']:.2f}–{row['high']:.2f}"
            table.add_row(row["name"], f"{row['top']:.3f}", f"{row['bottom']:.3f}", f"{row['ratio']:.2f}", quartiles)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": title, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
