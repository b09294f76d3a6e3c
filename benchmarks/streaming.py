"""Images a second of training from memory, from a mapped file and from a stream of shards, on the patches of a config.

    python benchmarks/streaming.py CONFIG [SECTION.KEY=VALUE …] [--shuffle 16384] [--steps 300] [--rounds 3]
        [--ways memory,mapped,streamed,bucket] [--bucket URL] [--copies 1] [--memory MIB]

The clips of the config must be extracted and scored; the shards are written to its store if they are missing. Each way
of reading trains the same model for so many steps, in turn, `--rounds` times, in a process of its own. `own memory` is
the process's own (without pages of files, which the system can take back).

`bucket` streams from an object storage, through the cache of `pretrain.cache` GiB, which is empty at first. `--copies`
makes up a larger set for both streams: every shard so many times. `--memory` puts each process into a control group of
its own, which limits its memory, pages of files included; it needs the right to make one (Linux, usually root). For a
try on one machine, `python -m moto.server --port 9000` speaks S3, `curl -X PUT http://127.0.0.1:9000/shards` makes a
bucket, and its URL is `s3://shards/here?endpoint_override=127.0.0.1%3A9000&scheme=http&region=us-east-1`.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import torch

from infoaug.models.training import Pairs, Stream, Training
from infoaug.models.training.pairs import write_mapped
from infoaug.orchestrator import config as configs
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.runtime import cluster
from infoaug.orchestrator.runtime.cache import Cache
from infoaug.orchestrator.runtime.store import StageFolder, Store
from infoaug.orchestrator.stages import extract, pretrain, ray_training, score, shards

WAYS = ("memory", "mapped", "streamed", "bucket")
GROUPS = Path("/sys/fs/cgroup")


class EnoughError(Exception):
    """The steps of a measurement are done."""


class Places(NamedTuple):
    """Where the ways read from.

    Attributes:
        folder: for the mapped file, the copies of shards and the cache.
        shards: the store with all copies of the shards, by way.
        copies: of each shard.
    """

    folder: str
    shards: dict[str, str]
    copies: int


def source(way: str, config: ExperimentConfig, scored: score.Scored, places: Places) -> Pairs | Stream:
    """The patches, as a worker of a training reads them."""
    store, folder = scored.stage.store, Path(places.folder)
    if way == "memory":
        return Pairs.from_windows(ray_training.windows(scored, store))
    if way == "mapped":
        if not (folder / "shape.npy").exists():
            write_mapped(folder, ray_training.windows(scored, store))
        return Pairs.mapped(folder)
    found = copied(shards.sharded(config, scored)[0], Store(places.shards[way]), places.copies)
    cache = Cache(found.stage.store, int(config.pretrain.cache * 2**30), folder / "cache")

    def opened(number: int) -> Pairs:
        return shards.open_shard(found, cache.fetch(found.path(number)))

    return Stream(found.counts, opened, found.together(int(config.pretrain.shuffle)), config.extract.image_size)


def copied(found: shards.Sharded, store: Store, copies: int) -> shards.Sharded:
    """These shards, each so many times, in another store."""
    stage = StageFolder(store, found.stage.name, found.stage.key)
    return replace(found, stage=stage, counts=found.counts * copies)


def copy(found: shards.Sharded, to: shards.Sharded) -> int:
    """Write the copies of shards that are missing; give the bytes of all."""
    present, each = to.stage.store.files(to.stage.folder), len(found.counts)
    total = 0
    for number in range(len(to.counts)):
        content = found.stage.store.read_bytes(found.path(number % each))
        total += len(content)
        if to.path(number).rpartition("/")[2] not in present:
            to.stage.store.write_bytes(to.path(number), content)
    return total


@contextlib.contextmanager
def limited(mib: int | None) -> Iterator[Path | None]:
    """A control group with so much memory; processes that are started within are in it, this one only meanwhile."""
    if mib is None:
        yield None
        return
    own = dict(line.strip().split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root, name = (GROUPS / "memory", "memory.limit_in_bytes") if "memory" in own else (GROUPS, "memory.max")
    home = root / own.get("memory", own.get("", "/")).lstrip("/")
    group = home / f"infoaug-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
        (group / name).write_text(str(mib << 20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise SystemExit(f"no control group that limits memory can be made ({error}): leave out --memory") from error
    try:
        yield group
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))


def peak(group: Path) -> float:
    """The most memory that a group held, MiB, pages of files included. The group is removed."""
    name = "memory.max_usage_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.peak"
    most = int((group / name).read_text()) / 2**20
    group.rmdir()
    return most


def measure(way: str, config: ExperimentConfig, steps: int, places: Places) -> dict[str, float]:
    """Train for some steps; images a second, the share of the time that waited for data, MiB of memory."""
    scored = score.load(config, extract.load(config, Store(config.store)))
    started = time.perf_counter()
    training = Training(pretrain.training_settings(config), source(way, config, scored, places))
    opening = time.perf_counter() - started
    batch, done, begun = training.settings.batch_size, 0, 0.0
    whole = training.step
    waits: list[float] = []

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
        "memory": own_memory() / 2**20,
        "opening": opening,
    }


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def in_a_process(function: Callable[..., dict[str, float]], *given: Any, memory: int | None = None) -> dict[str, float]:
    """Call a function in a process of its own, with so much memory, MiB. Raises SystemExit if it dies."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_call, args=(there, function, *given))
    resource_tracker.ensure_running()  # or it starts with the process, within its group
    with limited(memory) as group:
        process.start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        raise SystemExit("the process has died; with --memory, perhaps of it") from None
    process.join()
    return found | ({"group": peak(group)} if group else {})


def _call(connection: Any, function: Callable[..., dict[str, float]], *given: Any) -> None:
    connection.send(function(*given))


def options(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark of the shards of a config."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    return parser


def written(config: ExperimentConfig) -> tuple[score.Scored, shards.Sharded]:
    """The scored windows of a config, and their shards; those that are missing are written."""
    scored = score.load(config, extract.load(config, Store(config.store)))
    with cluster.session(config.ray):
        found, windows = shards.sharded(config, scored)
        shards.write(config, scored, found, windows)
    return scored, found


def main() -> None:
    """Measure each way in turn, and print the medians."""
    parser = options(__doc__)
    parser.add_argument("--shuffle", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default="memory,mapped,streamed")
    parser.add_argument("--bucket", metavar="URL", help="a folder of an object storage that takes the shards")
    parser.add_argument("--copies", type=int, default=1, help="of each shard, for streams")
    parser.add_argument("--memory", type=int, metavar="MIB", help="limit of each process")
    given = parser.parse_args()
    ways = given.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        raise SystemExit(f"--ways has {', '.join(unknown)}: choose from {', '.join(WAYS)}")
    if "bucket" in ways and not given.bucket:
        raise SystemExit("the way bucket needs --bucket URL")
    config = configs.load(given.config, [*given.overrides, f"pretrain.shuffle={given.shuffle}"])
    scored, found = written(config)
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        stores = {"streamed": config.store if given.copies == 1 else f"{folder}/copies", "bucket": given.bucket}
        places = Places(folder, {way: store for way, store in stores.items() if way in ways}, given.copies)
        for way, store in places.shards.items():
            content = copy(found, copied(found, Store(store), given.copies))
            print(f"{way}: {len(found.counts) * given.copies} shards, {content / 2**20:.0f} MiB")
        print(f"{scored.patches * given.copies} patches, {given.shuffle} shuffled together")
        for _ in range(given.rounds):
            for way in ways:
                shutil.rmtree(Path(folder, "cache"), ignore_errors=True)
                results[way].append(in_a_process(measure, way, config, given.steps, places, memory=given.memory))
                print(way, results[way][-1], flush=True)
    medians = {way: {n: statistics.median(r[n] for r in of) for n in of[0]} for way, of in results.items()}
    first = next(iter(medians))
    print(f"| way | images/s | of {first}'s | waits | own memory | most in the group | to the first step |")
    print("|---|---|---|---|---|---|---|")
    for way, of in medians.items():
        ratio = of["images_per_second"] / medians[first]["images_per_second"]
        group = f"{of['group']:.0f} MiB" if "group" in of else "–"
        print(
            f"| {way} | {of['images_per_second']:.0f} | {ratio:.2f} | {of['wait']:.1%} | {of['memory']:.0f} MiB | "
            f"{group} | {of['opening']:.1f} s |"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
