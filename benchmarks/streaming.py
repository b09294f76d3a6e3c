"""Images a second of training from memory, from a mapped file and from a stream of shards, on the patches of a config.

    python benchmarks/streaming.py CONFIG [SECTION.KEY=VALUE …] [--shuffle 16384] [--steps 300] [--rounds 3]

The clips of the config must be extracted and scored; the shards are written to its store if they are missing. Each way
of reading trains the same model for so many steps, in turn, `--rounds` times, in a process of its own. `memory` is the
process's own (without pages of files, which the system can take back).
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from infoaug.models.training import Pairs, Stream, Training
from infoaug.models.training.pairs import write_mapped
from infoaug.orchestrator import config as configs
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, pretrain, ray_training, score, shards

WAYS = ("memory", "mapped", "streamed")


class EnoughError(Exception):
    """The steps of a measurement are done."""


def source(way: str, config: ExperimentConfig, scored: score.Scored, folder: Path) -> Pairs | Stream:
    """The patches, as a worker of a training reads them."""
    store = scored.stage.store
    if way == "memory":
        return Pairs.from_windows(ray_training.windows(scored, store))
    if way == "mapped":
        if not (folder / "shape.npy").exists():
            write_mapped(folder, ray_training.windows(scored, store))
        return Pairs.mapped(folder)
    found, _ = shards.sharded(config, scored)
    local = store.local
    if local is None:
        raise SystemExit("the store must be a local folder")

    def opened(number: int) -> Pairs:
        return shards.open_shard(found, local / found.path(number))

    return Stream(found.counts, opened, found.together(int(config.pretrain.shuffle)), config.extract.image_size)


def measure(way: str, config: ExperimentConfig, steps: int, folder: str) -> dict[str, float]:
    """Train for some steps; images a second, the share of the time that waited for data, MiB of memory."""
    scored = score.load(config, extract.load(config, Store(config.store)))
    started = time.perf_counter()
    training = Training(pretrain.training_settings(config), source(way, config, scored, Path(folder)))
    opening = time.perf_counter() - started
    batch, done, begun = training.settings.batch_size, 0, 0.0
    whole, waits = training.step, []

    def step(*given: Any, **named: Any) -> Any:
        nonlocal done, begun
        if done == 20:  # after the caches are warm
            begun = time.perf_counter()
            waits.clear()
        waits.append(-time.perf_counter())
        losses = whole(*given, **named)
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        waits[-1] += time.perf_counter()
        done += 1
        if done == steps + 20:
            raise EnoughError
        return losses

    training.step = step  # type: ignore[method-assign]
    try:
        while True:
            training.epoch()
    except EnoughError:
        seconds = time.perf_counter() - begun
    return {
        "images_per_second": steps * batch / seconds,
        "wait": 1 - sum(waits) / seconds,
        "memory": _own_memory() / 2**20,
        "opening": opening,
    }


def _own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def _measured(connection: Any, *given: Any) -> None:
    connection.send(measure(*given))


def main() -> None:
    """Measure each way in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--shuffle", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    config = configs.load(given.config, [*given.overrides, f"pretrain.shuffle={given.shuffle}"])
    scored = score.load(config, extract.load(config, Store(config.store)))
    with cluster.session(config.ray):
        found, windows = shards.sharded(config, scored)
        shards.write(config, scored, found, windows)
    print(f"{scored.patches} patches in {len(found.counts)} shards, {given.shuffle} shuffled together")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for way in WAYS:
                here, there = spawn.Pipe()
                process = spawn.Process(target=_measured, args=(there, way, config, given.steps, folder))
                process.start()
                results[way].append(here.recv())
                process.join()
    medians = {way: {n: statistics.median(r[n] for r in of) for n in of[0]} for way, of in results.items()}
    print("| way | images/s | of memory's | waits | own memory | to the first step |\n|---|---|---|---|---|---|")
    for way, of in medians.items():
        ratio = of["images_per_second"] / medians["memory"]["images_per_second"]
        print(
            f"| {way} | {of['images_per_second']:.0f} | {ratio:.2f} | {of['wait']:.1%} | {of['memory']:.0f} MiB | "
            f"{of['opening']:.1f} s |"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
