"""What does a trial of a sweep cost beside its training, by Ray, Tune and MLflow?

    python benchmarks/sweep_overhead.py [--trials 6] [--json FILE]

A tiny training (two rendered scenes, a backbone of a thousandth of a ResNet-18's work, two epochs) is run as trials of
a sweep, one at a time; as a task of Ray without Tune and MLflow, and without the evaluation; and in this process,
without Ray. What the trials share has started before. What a trial takes, less what the same training and evaluation
take here, is the overhead.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from infoaug.models.training import Pairs, Training
from infoaug.orchestrator import config
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, ray_training, score
from infoaug.orchestrator.sweep import config as sweep_config
from infoaug.orchestrator.sweep import runner
from infoaug.orchestrator.sweep.config import SweepConfig

SETTINGS = [
    "scenes.count=2",
    "scenes.frames=48",
    "extract.spacing=40",
    "extract.patch_size=40",
    "extract.image_size=16",
    "score.surrogates=200",
    "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    "pretrain.epochs=2",
    "pretrain.warmup_epochs=0",
    "pretrain.batch_size=32",
    "pretrain.cpus_per_worker=1",
    "evaluate.limit=200",
]


def sweep(places: list[str], seeds: range) -> SweepConfig:
    """A sweep over seeds."""
    return sweep_config.load(None, [*SETTINGS, *places, f"sweep={{grid: [{{seed: {list(seeds)}}}], concurrent: 1}}"])


def directly(one: ExperimentConfig, scored: score.Scored, backbone: StageFolder) -> None:
    """A training and an evaluation in this process, on one thread; what is evaluated is `backbone`."""
    patches = Pairs.from_windows(ray_training.windows(scored, scored.stage.store))
    training = Training(pretrain.training_settings(one), patches, torch.device("cpu"))
    for _ in range(one.pretrain.epochs):
        training.epoch()
    evaluate.delete(one, backbone)  # what is in the store is not measured
    evaluate.measure(one, backbone, "scenes", evaluate.paths(one, backbone, "scenes"))


def measure(trials: int) -> list[dict[str, Any]]:
    """Seconds a trial, in three ways."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        places = [f"store={folder}/store", f"tracking.uri=sqlite:///{folder}/mlflow.db"]

        def one(seed: int) -> ExperimentConfig:
            return config.load(None, [*SETTINGS, *places, f"seed={seed}"])

        with cluster.session(one(0).ray):
            cluster.connect(one(0).ray)
            scored = score.run(one(0), extract.run(one(0), Store(one(0).store)))
            runner.run(sweep(places, range(1)))  # starts what all trials share
            of = sweep(places, range(1, 1 + trials))
            seconds = {"a trial of a sweep": [_taken(lambda: runner.run(of)) / trials]}
            seconds["a training as a task of Ray"] = [
                _taken(lambda seed=seed: pretrain.run(one(seed), scored, lambda _: None))
                for seed in range(100, 100 + max(2, trials // 2))
            ]
            backbone = pretrain.stage(one(1), scored)
            seconds["directly"] = [
                _taken(lambda seed=seed: directly(one(seed), scored, backbone)) for seed in range(200, 200 + trials)
            ]
    return [{"what": what, "seconds": statistics.median(values)} for what, values in seconds.items()]


def _taken(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.trials)
    base = rows[-1]["seconds"]
    table = Table("what", "seconds", "overhead, s", title=f"{arguments.trials} trials; {platform.machine()}")
    for row in rows:
        row["overhead"] = row["seconds"] - base
        table.add_row(row["what"], f"{row['seconds']:.2f}", f"{row['overhead']:.2f}")
    Console(width=100).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
