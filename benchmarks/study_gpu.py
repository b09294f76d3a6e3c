"""Train the arms of the study (docs/study.md) side by side on one GPU, without Ray, MLflow or the store.

    python benchmarks/study_gpu.py pack FOLDER [CONFIG]    # where the study's clips have been extracted and scored
    python benchmarks/study_gpu.py train FOLDER            # on the machine with the GPU, which needs FOLDER only
    python benchmarks/study.py CONFIG --trained FOLDER     # the results

`infoaug sweep` trains the same arms anywhere. With a backbone as small as the study's, a GPU waits for Python to start
its kernels: here the kernels of a step are recorded once and replayed as a CUDA graph. `train` goes on where it
stopped, and ends by itself after `--minutes`.

The folder holds the patches, twins, still images and evaluation images of all arms (`pack`), their results in
results.json, and their backbones.
"""

import argparse
import heapq
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # the processes share the cores

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import infoaug  # noqa: E402

if not (ROOT / "infoaug" / "models").is_dir():
    # A checkout copied without symbolic links: the sub-packages are the top-level folders.
    infoaug.__path__.append(str(ROOT))

from infoaug.models.augment import Augment  # noqa: E402
from infoaug.models.backbones import create_backbone, load_backbone, save_backbone  # noqa: E402
from infoaug.models.training import Pairs, Training, TrainingSettings  # noqa: E402
from infoaug.models.training.draws import draw  # noqa: E402
from infoaug.models.training.pairs import Batch, Window  # noqa: E402
from infoaug.models.training.sampling import Sampler, generator, seed_of  # noqa: E402
from infoaug.orchestrator.config import EvaluateConfig  # noqa: E402
from infoaug.orchestrator.evaluation import probes  # noqa: E402

RESULTS = "results.json"
WARM_UP = 3  # steps before one is recorded, in which libraries choose their kernels
METRICS = {"probe": probes.probe_accuracy, "knn": probes.knn_accuracy}
Row = dict[str, Any]


# ---- packing


def pack(config: str, folder: Path) -> None:
    """Write all that the trials of the study train on and are evaluated on."""
    import study  # which imports Ray

    from infoaug.models.training import Pairs
    from infoaug.orchestrator.evaluation import datasets, opening
    from infoaug.orchestrator.runtime.store import Store
    from infoaug.orchestrator.stages import initial_weights, pretrain, ray_training
    from infoaug.orchestrator.sweep import config as sweep_config

    folder.mkdir(parents=True, exist_ok=True)
    trials = study.planned(sweep_config.load(config))
    common, rows = trials[0][1].config, []
    store, pairs, twins = Store(common.store), None, {}
    for grid, trial in trials:
        asked, scored = trial.config, study.scored_for(trial.config)
        if pairs is None:
            pairs = Pairs.from_windows(ray_training.windows(scored, store))
            np.save(folder / "pictures.npy", pairs.images.numpy())
            np.savez(folder / "patches.npz", frames=pairs.frames, paired=pairs.paired)
        drawn = f"{asked.score.policy}-{scored.draw}"
        if drawn not in twins:
            twins[drawn] = np.concatenate(study.twins_among_all(scored))
        row = study.arm(grid, trial) | {"twins": drawn, "key": key_of(grid, trial.name)}
        rows.append(row | {"settings": pretrain.training_settings(asked).model_dump(mode="json")})
        if asked.pretrain.init and not (folder / "init").exists():
            save(initial_weights.backbone(asked), folder / "init")
        if asked.pretrain.stills and not (folder / "stills.npy").exists():
            opened = opening.open_images(asked.pretrain.stills, asked.evaluate, asked.extract.image_size, fetch=False)
            blocks = datasets.image_blocks(opened, asked.extract.image_size)
            np.save(folder / "stills.npy", torch.cat([*blocks]).numpy())
    np.savez_compressed(folder / "twins.npz", **twins)
    for name in common.evaluate.datasets:
        loaded = datasets.load(name, common.evaluate, common.extract.image_size)
        parts = {"train": loaded.train.images, "test": loaded.test.images}
        labels = {"y_train": loaded.train.labels, "y_test": loaded.test.labels}
        np.savez(folder / f"images-{Path(name).name}.npz", **{n: t.numpy() for n, t in (parts | labels).items()})
    study_settings = {"evaluate": common.evaluate.model_dump(mode="json"), "trials": rows}
    (folder / "study.json").write_text(json.dumps(study_settings))


def key_of(grid: str, name: str) -> str:
    """The name of a trial's files; an arm in two grids is trained in each."""
    return f"{grid}-{name}".replace("/", "-").replace(" ", "-")


def save(backbone: nn.Module, folder: Path) -> None:
    """Write a backbone as `infoaug pretrain` does."""
    augment = Augment.of(backbone)
    save_backbone(backbone, folder, mean=augment.mean.flatten().tolist(), std=augment.std.flatten().tolist())


# ---- training


class Replayed:
    """Runs a `Training` with the kernels of its steps recorded once and replayed; on a CPU, step by step as usual.

    What changes from step to step is copied into tensors that the record reads: the rows, the crops, the learning rate.
    One record serves steps with the same number of twins. It is for one rank, one crop a view and one twin a row, and
    for frameworks whose state is in tensors that keep their place.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.device = training, training.device
        self.random = torch.Generator(device=self.device)
        self.records: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, Tensor], dict[str, Tensor]]] = {}
        self.warm = 0
        self.alone = torch.ones(training.settings.batch_size, dtype=torch.bool, device=self.device)
        if self.device.type == "cuda":
            for group in training.optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
                group["capturable"] = True

    def epoch(self, most: int | None = None) -> dict[str, float]:
        """Train for an epoch, or `most` of its steps; return the mean losses, which also join the training's history.

        Raises:
            ValueError: the settings show several crops or twins of a row.
        """
        training, settings, started = self.training, self.training.settings, time.perf_counter()
        number, steps = len(training.history), min(training.steps, most or training.steps)
        training._prepare(number)
        sampler = Sampler(settings, training.data.is_paired, training.data.stills)
        rows = sampler.epoch(number).view(training.steps, settings.batch_size)
        drawn = draw(training.data, rows, settings, generator(settings.seed, number, 0, 2))
        if drawn.twin.shape[-1] > 1 or not torch.equal(drawn.first, drawn.second):
            raise ValueError("steps are replayed with one crop and one twin of a row only")
        self.random.manual_seed(seed_of(settings.seed, number, 1))
        totals: dict[str, Tensor] = {}
        for step, chosen in enumerate(self._indices(drawn, steps)):
            losses = self._step(chosen)
            training.schedule.step()
            training.model.after_step((number + (step + 1) / training.steps) / settings.epochs)
            totals = totals or {name: torch.zeros_like(value) for name, value in losses.items()}
            torch._foreach_add_([*totals.values()], [losses[name] for name in totals])
        means = {name: (total / steps).item() for name, total in totals.items()}
        means |= {"epoch": number + 1, "seconds": time.perf_counter() - started}
        means["share_with_twin"] = (drawn.twin >= 0).any(dim=-1).double().mean().item()
        training.history = [*training.history, means]
        return means

    def _indices(self, drawn: Any, steps: int) -> Iterator[dict[str, Tensor]]:
        """The rows and crops of every step, on the device; an epoch's are sent at once."""
        twins = drawn.twin[..., 0] if self.training.model.twin_branch is not None else torch.full_like(drawn.rows, -1)
        there = twins >= 0
        counts = there.sum(dim=1).tolist()
        sent = {
            "first": drawn.first,
            "rows": drawn.rows,
            "known": self.training.data.partners[drawn.rows],
            "shown": drawn.shown,
        }
        whole = {name: part.to(self.device) for name, part in sent.items()}
        twin, place = twins[there].to(self.device).split(counts), there.nonzero()[:, 1].to(self.device).split(counts)
        for step in range(steps):
            parts = {name: part[step] for name, part in whole.items()}
            yield parts | {"twin": twin[step], "twin_rows": place[step]}

    def _step(self, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type != "cuda":
            return self._compute(chosen)
        if self.warm < WARM_UP:
            self.warm += 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                losses = self._compute(chosen)
            torch.cuda.current_stream().wait_stream(side)
            return losses
        twins = len(chosen["twin"])
        if twins not in self.records:
            read = {name: part.clone() for name, part in chosen.items()}
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.random)
            self.training.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                losses = self._compute(read)
            self.records[twins] = graph, read, losses
        graph, read, losses = self.records[twins]
        for name, part in chosen.items():
            read[name].copy_(part)
        graph.replay()
        return losses

    def _compute(self, chosen: dict[str, Tensor]) -> dict[str, Tensor]:
        """`Training.update`, with the crops collected on the device."""
        pictures = self.training.data.images
        images = pictures[chosen["first"]]
        batch = Batch(
            images, images, pictures[chosen["twin"]], chosen["twin_rows"], chosen["rows"], chosen["known"],
            chosen["shown"], self.alone,
        )  # fmt: skip
        return self.training.update(batch, self.random)


class Packed:
    """What `pack` wrote, with the pictures on the device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.pictures = self._sent("pictures.npy")
        stills = folder / "stills.npy"
        self.stills = self._sent(stills.name) if stills.exists() else self.pictures[:0]
        self.patches, self.twins = np.load(folder / "patches.npz"), np.load(folder / "twins.npz")

    def training(self, row: Row) -> Training:
        """The training of a trial."""
        stills = self.stills if row["image_share"] else self.pictures[:0]
        window = Window(
            np.empty((0, *self.pictures.shape[1:]), np.uint8),
            self.twins[row["twins"]],
            self.patches["frames"],
            self.patches["paired"],
        )
        rows = Pairs.from_windows([window], [np.empty((len(stills), *self.pictures.shape[1:]), np.uint8)])
        pictures = torch.cat([self.pictures, stills]) if len(stills) else self.pictures
        data = Pairs(pictures, rows.twin, stills=len(stills), frames=rows.frames, paired=rows.paired)
        start = load_backbone(self.folder / "init") if row["init"] else None
        return Training(TrainingSettings.model_validate(row["settings"]), data, self.device, None, start)

    def features(self, backbone: nn.Module, images: str, batch_size: int) -> dict[str, Any]:
        """Features of the training and test images of a data set, with their labels."""
        loaded = np.load(self.folder / images)
        parts = {part: torch.from_numpy(loaded[part]) for part in ("train", "test")}
        found = {part: probes.features(backbone, of, batch_size, self.device) for part, of in parts.items()}
        return found | {name: loaded[name] for name in ("y_train", "y_test")}

    def _sent(self, name: str) -> Tensor:
        return torch.from_numpy(np.load(self.folder / name)).to(self.device)


def train(folder: Path, minutes: float, trainers: int, fitters: int, most: int | None) -> None:
    """Train and evaluate the trials that have no results yet, in their order; write results.json as they come."""
    end = time.monotonic() + 60 * minutes
    asked = json.loads((folder / "study.json").read_text())
    sets = [path.stem.removeprefix("images-") for path in sorted(folder.glob("images-*.npz"))]
    target = folder / RESULTS
    results: dict[str, Row] = json.loads(target.read_text()) if target.exists() else {}
    rows = [*asked["trials"], *baselines(asked["trials"])]
    order = {row["key"]: number for number, row in enumerate(rows)}
    context = multiprocessing.get_context("spawn")
    tasks, done = context.Queue(), context.Queue()
    for row in [row for row in rows if row["key"] not in results] + [None] * trainers:
        tasks.put(row)
    at_work = folder, asked["evaluate"]["batch_size"], sets, most, tasks, done
    workers = [context.Process(target=_train, args=at_work, daemon=True) for _ in range(trainers)]
    for worker in workers:
        worker.start()
    waiting = [job for key in results for job in jobs(results[key], sets, order)]
    running: dict[Future[float], tuple[str, str]] = {}
    failed, said = 0, 0.0
    with ProcessPoolExecutor(fitters, mp_context=context) as pool:
        while time.monotonic() < end:
            # Asked first: a worker that has ended has put its results.
            alive = any(worker.is_alive() for worker in workers)
            while not done.empty():
                row = done.get()
                if "error" in row:
                    failed += 1
                    print(row["key"], row["error"], flush=True)
                    continue
                results[row["key"]] = row
                waiting += jobs(row, sets, order)
            heapq.heapify(waiting)
            while waiting and len(running) < fitters:
                _, _, key, name, metric = heapq.heappop(waiting)
                path = str(folder / f"{key}.{name}.npz")
                running[pool.submit(fit, path, metric, asked["evaluate"])] = key, f"{name} {metric}"
            for future in [future for future in running if future.done()]:
                key, measure = running.pop(future)
                results[key][measure] = future.result()
            if time.monotonic() - said > 15:
                said = time.monotonic()
                print(f"{len(results)} of {len(rows)} trained, {len(waiting) + len(running)} to fit", flush=True)
                target.write_text(json.dumps(results))
            if not (alive or waiting or running) and done.empty():
                break
            time.sleep(0.05)
        for future in running:
            future.cancel()
    target.write_text(json.dumps(results))
    for worker in workers:
        worker.kill()
    if failed:
        sys.exit(f"{failed} trials failed")


def baselines(trials: list[Row]) -> list[Row]:
    """The untrained backbone of every seed, and the weights that trials start from."""
    every = {("floor-init" if row["init"] else f"floor-{row['seed']}"): row for row in trials}
    return [row | {"key": key, "floor": True} for key, row in every.items()]


def jobs(row: Row, sets: list[str], order: dict[str, int]) -> list[tuple[int, int, str, str, str]]:
    """The accuracies that a trial still lacks, the cheap ones first."""
    every = [(name, metric) for metric in METRICS for name in sets]
    return [
        (number, order[row["key"]], row["key"], name, metric)
        for number, (name, metric) in enumerate(every)
        if f"{name} {metric}" not in row
    ]


def fit(features: str, metric: str, evaluate: dict[str, Any]) -> float:
    """An accuracy by features that were written into a file, as `infoaug evaluate` measures it."""
    of = np.load(features)
    settings = EvaluateConfig.model_validate(evaluate)
    return METRICS[metric](of["train"], of["y_train"], of["test"], of["y_test"], settings)


def _train(folder: Path, batch_size: int, sets: list[str], most: int | None, tasks: Any, done: Any) -> None:
    """In a process of its own: train what the queue gives, and leave features and backbones in the folder."""
    torch.set_num_threads(1)
    packed = Packed(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    while (row := tasks.get()) is not None:
        try:
            backbone = _floor(row, folder) if row.get("floor") else None
            if backbone is None:
                replayed = Replayed(packed.training(row))
                while len(replayed.training.history) < replayed.training.settings.epochs:
                    replayed.epoch(most)
                row["history"] = replayed.training.history
                backbone = replayed.training.model.kept_backbone
            save(backbone, folder / row["key"])
            for name in sets:
                found = packed.features(backbone, f"images-{name}.npz", batch_size)
                np.savez(folder / f"{row['key']}.{name}.npz", **found)
            done.put(row)
        except Exception:  # any error of one trial must not stop the others
            shutil.rmtree(folder / row["key"], ignore_errors=True)
            done.put({"key": row["key"], "error": traceback.format_exc()})


def _floor(row: Row, folder: Path) -> nn.Module:
    if row["init"]:
        return load_backbone(folder / "init")
    settings = TrainingSettings.model_validate(row["settings"])
    torch.manual_seed(row["seed"])
    return create_backbone(settings.backbone, settings.image_size, **settings.backbone_settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("pack", "train"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("config", nargs="?", default="configs/study.yaml")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which training stops")
    parser.add_argument("--trainers", type=int, default=4, help="trials at the same time")
    parser.add_argument("--fitters", type=int, default=11, help="classifiers fitted at the same time, a CPU each")
    parser.add_argument("--steps", type=int, help="of every epoch, for a trial of this script")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.config, arguments.folder)
    else:
        train(arguments.folder, arguments.minutes, arguments.trainers, arguments.fitters, arguments.steps)
