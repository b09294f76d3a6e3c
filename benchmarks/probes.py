"""Time and memory of kNN and the linear probe, beside scikit-learn in the same run.

    python benchmarks/probes.py [--images 50000] [--tested 10000] [--classes 10,100] [--threads 2]
                                [--sizes 20000,80000,320000] [--device cpu] [--json FILE]

*Time.* Features are synthetic: D = 512, correlated, rectified as those of a ResNet, of overlapping classes. Both sides
fit and predict the same features with the same number of threads, scikit-learn with the settings that infoaug used to
give it: brute-force cosine kNN, k = 200, and LogisticRegression with at most 200 iterations. `agree` is the share of
test images for which both predict the same class. With `--device cuda` only infoaug's side uses the GPU.

*Memory.* For every size a new process writes features f32[N, 512] to a file, in blocks. It maps them and fits and tests
both classifiers. `resident` is the growth of the process's peak memory, which includes the pages of the file that the
system keeps mapped and can take back. `own` leaves them out. A line is fitted to it.

*ImageNet-1k.* Operations and bytes for 1,281,167 + 50,000 images, D = 2,048, 1,000 classes, and the time that they take
on GPUs whose rates are assumed, not measured.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from infoaug.orchestrator.config import load
from infoaug.orchestrator.evaluation.classifiers import Knn, Probe
from infoaug.orchestrator.evaluation.rows import Rows

DIMENSIONS, HIDDEN, BLOCK = 512, 256, 8192
OVERLAP = 0.2  # distance of the classes' centres in standard deviations, an axis
QUERIES = 1000  # test images where memory is measured
SETTINGS = load(None, []).evaluate
IMAGENET = {"images": 1_281_167, "tested": 50_000, "dimensions": 2048, "classes": 1000}
ITERATIONS, EVALUATIONS = 60, 1.1  # assumed: of L-BFGS, and of the loss in an iteration
GPUS = {"A100": 12.0, "H100": 35.0}  # assumed float32 TFLOP/s of matrix products, 60 % of the data sheets'
LOOK = 0.02  # seconds between looks at memory

Row = dict[str, Any]


def features(seed: int, count: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correlated, rectified features f32[N, 512] of overlapping classes int64[N]."""
    shared = np.random.default_rng(0)
    centres = shared.normal(size=(classes, HIDDEN)).astype(np.float32)
    spectrum = np.arange(1, HIDDEN + 1) ** -0.75
    mixing = (spectrum[:, None] * shared.normal(size=(HIDDEN, DIMENSIONS))).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    hidden = OVERLAP * centres[labels] + rng.standard_normal((count, HIDDEN), dtype=np.float32)
    noise = 0.05 * rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return np.maximum(hidden @ mixing + noise, 0), labels


# ---- time


def times(images: int, tested: int, classes: int, threads: int, device: str) -> list[Row]:
    """Seconds of both sides for kNN and probe."""
    seen, labels = features(1, images, classes)
    unseen, truth = features(2, tested, classes)
    ours: dict[str, Callable[[], Any]] = {
        "kNN": lambda: Knn(Rows(seen, device), labels, SETTINGS).predict(Rows(unseen, device)),
        "probe": lambda: Probe(Rows(seen, device), labels, SETTINGS).predict(Rows(unseen, device)),
    }
    theirs: dict[str, Any] = {
        "kNN": KNeighborsClassifier(
            SETTINGS.neighbours,
            metric="cosine",
            algorithm="brute",
            weights=lambda far: np.exp((far.min(axis=1, keepdims=True) - far) / SETTINGS.temperature),
        ),
        "probe": make_pipeline(StandardScaler(), LogisticRegression(max_iter=SETTINGS.probe_iterations)),
    }
    rows = []
    for name in ours:
        torch.set_num_threads(threads)
        taken, found = timed(ours[name])
        with threadpool_limits(threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reference, expected = timed(lambda name=name: theirs[name].fit(seen, labels).predict(unseen))
        rows.append(
            {
                "classifier": name,
                "classes": classes,
                "scikit-learn": reference,
                "infoaug": taken,
                "accuracy of scikit-learn": float(np.mean(expected == truth)),
                "accuracy": float(np.mean(found == truth)),
                "agree": float(np.mean(found == expected)),
            }
        )
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


# ---- memory


def memory_of(count: int) -> Row:
    """In a process of its own: peak memory in MiB while features from a file are fitted and tested."""
    with tempfile.TemporaryDirectory() as folder:
        mapped = np.memmap(Path(folder) / "features", np.float32, "w+", shape=(count, DIMENSIONS))
        labels = np.empty(count, np.int64)
        for begin in range(0, count, BLOCK):
            end = min(begin + BLOCK, count)
            mapped[begin:end], labels[begin:end] = features(begin + 1, end - begin, 10)
        mapped.flush()
        unseen = Rows(features(0, QUERIES, 10)[0])
        some = SETTINGS.model_copy(update={"probe_iterations": 3})
        Probe(unseen, labels[:QUERIES], some)  # what is imported and started once
        del mapped
        seen = np.memmap(Path(folder) / "features", np.float32, "r+", shape=(count, DIMENSIONS))
        held = np.arange(count) % 5 > 0
        with Watched() as watched:
            for chosen in (None, held):
                rows, own = Rows(seen, chosen=chosen), labels if chosen is None else labels[held]
                Knn(rows, own, SETTINGS).predict(unseen)
                Probe(rows, own, some).predict(unseen)
    return {"images": count, "features": seen.nbytes / 2**20} | watched.growth()


class Watched:
    """Peak memory of this process within a `with` block, by looks at /proc."""

    def __enter__(self) -> "Watched":
        self._first, self._most = self._now(), self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self) -> Row:
        """MiB by which the peaks exceed what was held before: `resident`, and `own` without the pages of files."""
        return {name: (most - self._first[name]) / 1024 for name, most in self._most.items()}

    def _look(self) -> None:
        while not self._stop.wait(LOOK):
            now = self._now()
            self._most = {name: max(most, now[name]) for name, most in self._most.items()}

    @staticmethod
    def _now() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss") or "VmRSS" in line}
        return {"resident": int(found["VmRSS"]), "own": int(found["RssAnon"])}


# ---- ImageNet-1k


def imagenet() -> list[Row]:
    """Operations and seconds of an evaluation on ImageNet-1k, its features extracted."""
    n, m, d, k = (IMAGENET[name] for name in ("images", "tested", "dimensions", "classes"))
    evaluations = ITERATIONS * EVALUATIONS
    work = {
        "kNN, test images": 2 * m * n * d,
        "kNN, held-out fifth": 2 * (n / 5) * (4 * n / 5) * d,
        "probe, all": 4 * n * d * k * evaluations + 2 * n * d * d,
        "probe, four fifths": 0.8 * (4 * n * d * k * evaluations + 2 * n * d * d),
    }
    rows = [
        {"part": part, "TFLOP": flop / 1e12} | {gpu: flop / 1e12 / rate for gpu, rate in GPUS.items()}
        for part, flop in work.items()
    ]
    total: Row = {"part": "all"}
    return [*rows, total | {name: sum(row[name] for row in rows) for name in ("TFLOP", *GPUS)}]


# ---- what is shown


def table(title: str, rows: list[Row]) -> Table:
    """Rows as a table."""
    shown = Table(title=title)
    for name in rows[0]:
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(*(f"{value:,.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    return shown


def numbers(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Measure, show, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tested", type=int, default=10_000)
    parser.add_argument("--classes", type=numbers, default=[10, 100])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=numbers, default=[20_000, 80_000, 320_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of)))
        return
    found: Row = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads",
        "device": arguments.device,
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__},
    }
    console = Console(width=140)
    console.print(found)
    ours = Probe(Rows(features(0, 500, 3)[0]), features(0, 500, 3)[1], SETTINGS)  # what is imported once
    assert ours.iterations
    found["times"] = [
        row | {"ratio": row["scikit-learn"] / row["infoaug"]}
        for classes in arguments.classes
        for row in times(arguments.images, arguments.tested, classes, arguments.threads, arguments.device)
    ]
    if found["times"]:
        console.print(table(f"Seconds, {arguments.images} + {arguments.tested} x {DIMENSIONS}", found["times"]))
    found["memory"] = []
    for count in arguments.sizes:
        command = [sys.executable, __file__, "--memory-of", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found["memory"].append(json.loads(done.stdout.splitlines()[-1]))
    if len(found["memory"]) > 1:
        slope, start = np.polyfit([r["images"] for r in found["memory"]], [r["own"] for r in found["memory"]], 1)
        found["line"] = {"MiB": float(start), "bytes an image": float(slope) * 2**20}
        console.print(table("Growth of memory, MiB", found["memory"]), found["line"])
    found["imagenet"] = imagenet()
    console.print(table("ImageNet-1k on one GPU, seconds, by arithmetic", found["imagenet"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
