"""How fast are all pairs of a window? The compiled kernel beside NPEET itself, in the same run.

    python benchmarks/mutual_information.py [--patches 196] [--frames 32,64,128,256,512] [--json FILE]

NPEET does one pair after the other; a sample of its pairs is timed. The kernel's numbers are compared with NPEET's on
that sample.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from npeet_plus import estimators as npeet
from rich.console import Console
from rich.table import Table

from estimators.mutual_information import pairwise_mutual_information

K, REPEATS, NPEET_PAIRS = 3, 3, 40


def seconds(work: Callable[[], Any]) -> float:
    """Best of some repeats, after one for compiling."""
    work()
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def rows(patches: int, lengths: list[int]) -> list[dict[str, Any]]:
    """A row for every length, dimension, precision and number of threads."""
    found = []
    all_threads = numba.get_num_threads()
    for dimensions in (2, 3):
        for frames in lengths:
            samples = np.random.default_rng(frames).normal(size=(patches, frames, dimensions)).cumsum(1)
            samples = (samples - samples.mean(1, keepdims=True)) / samples.std(1, keepdims=True)
            chosen = [(0, j) for j in range(1, min(patches, NPEET_PAIRS + 1))]
            begin = time.perf_counter()
            reference = [npeet.mi(samples[i], samples[j], k=K, base=np.e) for i, j in chosen]
            slow = len(chosen) / (time.perf_counter() - begin)
            for dtype in ("float64", "float32"):
                for threads in sorted({1, all_threads}):
                    numba.set_num_threads(threads)

                    def all_pairs(samples: Any = samples, dtype: str = dtype) -> Any:
                        return pairwise_mutual_information(samples, k=K, backend="cpu", dtype=dtype)

                    pairs = patches * (patches - 1) / 2 / seconds(all_pairs)
                    matrix = all_pairs()
                    off = max(abs(matrix[pair] - value) for pair, value in zip(chosen, reference, strict=True))
                    row = {"d": dimensions, "frames": frames, "dtype": dtype, "threads": threads, "pairs_per_s": pairs}
                    found.append(row | {"npeet_pairs_per_s": slow, "ratio": pairs / slow})
                    found[-1]["largest_difference"] = off
    numba.set_num_threads(all_threads)
    return found


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--frames", default="32,64,128,256,512")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = rows(arguments.patches, [int(length) for length in arguments.frames.split(",")])
    title = f"all pairs of {arguments.patches} patches, k = {K}, {platform.processor() or platform.machine()}"
    table = Table("d", "frames", "type", "threads", "pairs/s", "NPEET", "ratio", "off by", title=title)
    for row in found:
        cells = (f"{row[name]}" for name in ("d", "frames", "dtype", "threads"))
        speed = (f"{row['pairs_per_s']:,.0f}", f"{row['npeet_pairs_per_s']:,.0f}", f"{row['ratio']:,.0f}")
        table.add_row(*cells, *speed, f"{row['largest_difference']:.1e}")
    Console(width=110).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"k": K, "patches": arguments.patches, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
