"""What do the windows of a large set cost the process that leads an experiment, when all of them are on the store?

    python benchmarks/ledgers.py [--windows 10000,100000,1000000] [--json benchmarks/results/ledgers.json]

The store is made up: ledgers of random counts, and an empty file for each clip, window and shard, five windows a clip
as in Kinetics-700. Nothing is decoded, tracked, scored or trained. Measured are the steps that every command takes
before it computes anything, in one process, and the whole of `infoaug run` in another, from its start to its report,
each with its seconds, those of the CPU, and the most memory that the process held. No step needs Ray.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

WINDOWS_PER_CLIP, FRAMES, CLASSES = 5, 250, 700  # of Kinetics-700
PATCHES = 40, 120  # of a window, at least and below
Row = dict[str, Any]


def settings(folder: Path) -> list[str]:
    """The config of the made-up experiment."""
    return [
        "name=ledgers",
        f"clips.path={folder / 'clips'}",
        f"store={folder / 'store'}",
        f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
        "ray.address=local",
        "evaluate.datasets=scenes",
        "pretrain.shuffle=65536",
    ]


def make(folder: Path, count: int) -> None:
    """Make up a store on which an experiment of so many windows is complete."""
    from infoaug.estimators.video import clips
    from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE
    from infoaug.orchestrator import config as configs
    from infoaug.orchestrator.runtime.store import Store
    from infoaug.orchestrator.stages import evaluate, extract, pretrain, score, shards

    experiment = configs.load(None, settings(folder))
    store = Store(experiment.store)
    named = [f"class {number % CLASSES}/{number:07d}.mp4" for number in range(count // WINDOWS_PER_CLIP)]
    _touch(folder / "clips", named)
    ids = sorted(named)
    folders = [f"{name.replace('/', '_').replace(' ', '_')}-0123456789" for name in ids]
    windows = [*range(WINDOWS_PER_CLIP)]
    random = np.random.default_rng(0)
    many = len(ids)
    table = {"clip_id": ids, "path": [str(folder / "clips" / name) for name in ids], "status": ["ok"] * many}
    table |= {"reason": [""] * many, "folder": folders, "frames": [FRAMES] * many, "fps": [25.0] * many}
    table |= {"width": [340] * many, "height": [256] * many, "cuts": [[]] * many, "repeats": [[]] * many}
    table |= {"first_frames": [[FRAMES // WINDOWS_PER_CLIP * w for w in windows]] * many, "windows": [windows] * many}
    table["signature"] = clips.signatures(table["path"])
    place, source = extract.stage(experiment, store), extract.clips_digest(experiment)
    ledger = pa.Table.from_pydict(table, schema=extract.STORED)
    store.write_table(place.path(f"ledger-{source}.parquet"), ledger)
    extracted = extract.load(experiment, store)
    of_score = score.stage(experiment, extracted)
    clip = np.repeat(np.arange(many), WINDOWS_PER_CLIP)
    counts = {name: np.zeros(len(clip), np.int32) for name in score.LEDGER.names[4:]}
    counts["patches"] = random.integers(*PATCHES, len(clip), np.int32)
    counts["twin"] = counts["patches"] // 5
    counts["static"] = counts["patches"] - counts["twin"]
    keys = {"clip_id": ledger["clip_id"].take(clip), "folder": ledger["folder"].take(clip)}
    keys |= {"window": np.tile(np.arange(WINDOWS_PER_CLIP), many), "reason": pa.repeat("", len(clip))}
    scores = pa.table({**keys, **counts}).cast(score.LEDGER)
    store.write_table(of_score.path(f"ledger-{source}.parquet"), scores)
    for path in (place.path("trajectories"), of_score.path("twins")):
        _touch(folder / "store" / path, [extract.window_file(name, window) for name in folders for window in windows])
    scored = score.load(experiment, extracted)
    sharded, _ = shards.sharded(experiment, scored)
    _touch(folder / "store", map(sharded.path, range(len(sharded.counts))))
    trained = pretrain.stage(experiment, scored)
    epochs = [
        {"epoch": n + 1.0, "seconds": 3.0, "loss": 2.0, "view_loss": 1.0, "twin_loss": 1.0, "share_with_twin": 0.2}
        | {"images_per_second": 1000.0, "learning_rate": 0.1, "collapsed": 0.0, "feature_std": 1.0, "rank_me": 10.0}
        for n in range(experiment.pretrain.epochs)
    ]
    store.write_json(trained.path("history.json"), epochs)
    for name in (WEIGHTS_FILE, RECIPE_FILE):
        store.write_bytes(trained.path(name), b"")
    result = {"dataset": "scenes", "train": 1, "test": 1, "classes": 10}
    result |= {"knn": 0.5, "probe": 0.5, "floor_knn": 0.5, "floor_probe": 0.5}
    for path in evaluate.paths(experiment, trained, "scenes").values():
        store.write_json(path, result)


def _touch(root: Path, names: Any) -> None:
    """Make empty files."""
    made = set[str]()
    for name in names:
        path = f"{root}/{name}"
        if (parent := path.rpartition("/")[0]) not in made:
            Path(parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def steps(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is measured, by name, in the order of a run."""
    from ray import cloudpickle

    from infoaug.orchestrator import config as configs
    from infoaug.orchestrator import dry_run
    from infoaug.orchestrator.runtime.store import Store
    from infoaug.orchestrator.stages import extract, look, pretrain, score, shards

    config = configs.load(None, settings(folder))
    held = configs.load(None, [*settings(folder), "pretrain.shuffle=all"])
    found: dict[str, Any] = {}

    def start(config: configs.ExperimentConfig) -> int:
        scored = found["scored"].for_training(config)
        return len(cloudpickle.dumps(pretrain.job(config, scored, pretrain.stage(config, scored), "starting")))

    yield "libraries", lambda: None
    yield "list the clips", lambda: extract.check(config)
    yield "plan (--dry-run)", lambda: dry_run.plan(config)
    yield "extract: all there", lambda: found.update(extracted=extract.run(config, Store(config.store)))
    yield "score: all there", lambda: found.update(scored=score.run(config, found["extracted"]))
    yield "shards: index", lambda: shards.sharded(config, found["scored"])
    yield "start of a streamed training", lambda: start(config)
    yield "start of a training that holds all", lambda: start(held)
    yield "what a worker loads of it", lambda: score.load(held, extract.load(held, Store(held.store))).extracted.windows
    yield "choose what the report shows", lambda: look.seen(config, found["scored"].extracted)


def measure(folder: Path) -> Row:
    """Seconds and MiB of each step, in this process; for the start of a training, the bytes that workers are sent."""
    from infoaug.models import memory

    rows = {}
    for name, step in steps(folder):
        memory.reset_peak()
        started, computed = time.perf_counter(), time.process_time()
        value = step()
        taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - computed}
        rows[name] = {**taken, "mib": memory.peak() / 2**20}
        if isinstance(value, int):
            rows[name]["sent_kib"] = value / 2**10
    return rows


def whole(folder: Path) -> Row:
    """Run the command that finds all complete."""
    from infoaug.models import memory
    from infoaug.orchestrator import config as configs
    from infoaug.orchestrator import experiment

    experiment.run(configs.load(None, settings(folder)))
    return {"cpu_seconds": time.process_time(), "mib": memory.peak() / 2**20}


def main() -> None:
    """Print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", default="10000,100000,1000000")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # a function and its folder: in a process of its own
    given = parser.parse_args()
    if given.step:
        print(json.dumps({"measure": measure, "whole": whole}[given.step[0]](Path(given.step[1]))))
        return
    found: Row = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "windows": {}}
    counts = [int(count) for count in given.windows.split(",")]
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), count)
            found["windows"][str(count)] = rows = _in_a_process("measure", name)[0]
            told, seconds = _in_a_process("whole", name)
            rows["infoaug run, from start to end"] = told | {"seconds": seconds}
        print(count, rows, file=sys.stderr)
    print("|  |", " | ".join(f"{count:,} windows" for count in counts), "|\n|---|" + "---|" * len(counts))
    for step in found["windows"][str(counts[0])]:
        print("|", step, "|", " | ".join(_told(found["windows"][str(count)][step]) for count in counts), "|")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def _in_a_process(step: str, folder: str) -> tuple[Row, float]:
    command, started = [sys.executable, __file__, "--step", step, folder], time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - started


def _told(row: Row) -> str:
    sent = f", {row['sent_kib']:,.0f} KiB sent" if "sent_kib" in row else ""
    return f"{row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s CPU), {row['mib']:,.0f} MiB{sent}"


if __name__ == "__main__":
    main()
