"""Is memory flat in the length of a video? Files of 1080p (synthetic), scanned and read in windows.

    python benchmarks/long_video.py [--minutes 10] [--json FILE]

Files of a tenth, a half and all of the minutes are written to a temporary folder (OpenCV's MPEG-4, 30 frames/s; ten
minutes take about 600 MB). Each measurement is a process of its own, decoding with one thread: `scan` finds the shots,
`read` reads all windows of 48 frames in order, `read, 2 a task` does so with a new reader for every two, as the
extract stage does, and `track` extracts the trajectories of the first windows. Peak memory is of the whole process.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from infoaug.estimators.video import shots
from infoaug.estimators.video.clips import Reader
from infoaug.models import memory

HEIGHT, WIDTH, FPS = 1080, 1920, 30
WINDOW, WINDOWS_PER_TASK = 48, 2
BY_TASK = f"read, {WINDOWS_PER_TASK} a task"
MEASURES = ("scan", "read", BY_TASK, "track")


def synthesise(path: Path, frames: int) -> None:
    """Write a video of a coloured texture under a pan that turns back at its edges."""
    blobs = np.random.default_rng(0).integers(0, 256, (HEIGHT // 15, 2 * WIDTH // 15, 3), dtype=np.uint8)
    texture = cv2.resize(blobs, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for t in range(frames):
        left = abs((4 * t) % (2 * WIDTH) - WIDTH)
        writer.write(np.ascontiguousarray(texture[:, left : left + WIDTH]))
    writer.release()


def measure(what: str, path: str, frames: int) -> dict[str, Any]:
    """Go over the first `frames` frames of a file: seconds, and this process's peak memory before and after."""
    cv2.setNumThreads(1)
    if what == "track":
        # Only here: the other measurements do without PyTorch and Ray.
        from infoaug.orchestrator.config import ExtractConfig
        from infoaug.orchestrator.stages.extract import extract_window
    before, started = memory.peak() / 2**20, time.perf_counter()
    if what == "scan":
        assert shots.scan(path).frames == frames
    else:
        firsts = shots.windows(frames, [], WINDOW)
        task = WINDOWS_PER_TASK if what == BY_TASK else len(firsts)
        for begin in range(0, len(firsts), task):
            with Reader(path) as reader:
                for first in firsts[begin : begin + task]:
                    window = reader.read(first, WINDOW)
                    if what == "track":
                        extract_window(window, ExtractConfig(window=WINDOW))
                    del window
        frames = WINDOW * len(firsts)
    seconds = time.perf_counter() - started
    return {"frames": frames, "seconds": seconds, "before_mib": before, "peak_mib": memory.peak() / 2**20}


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--track-windows", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # what, file, frames: in a process of its own
    arguments = parser.parse_args()
    if arguments.measure:
        what, path, frames = arguments.measure
        print(json.dumps(measure(what, path, int(frames))))
        return
    if arguments.minutes * FPS * 60 < 10 * WINDOW:
        parser.error("a tenth of --minutes must hold a window: give at least 0.3")

    rows = []
    for minutes in (arguments.minutes / 10, arguments.minutes / 2, arguments.minutes):
        frames = round(60 * FPS * minutes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "long.mp4"
            synthesise(path, frames)
            for what in MEASURES:
                over = WINDOW * arguments.track_windows if what == "track" else frames
                command = [sys.executable, __file__, "--measure", what, str(path), str(over)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                result = json.loads(done.stdout.splitlines()[-1])
                whole = frames * HEIGHT * WIDTH * 3 / 2**20
                rows.append({"minutes": minutes, "what": what, "whole_mib": whole} | result)

    window = WINDOW * HEIGHT * WIDTH * 3 / 2**20
    title = f"{WIDTH}x{HEIGHT} at {FPS} frames/s (synthetic), a window is {window:.0f} MiB, {platform.processor()}"
    columns = ("minutes", "what", "frames", "frames/s", "MiB before", "peak MiB", "MiB of the whole video at once")
    table = Table(*columns, title=title)
    for row in rows:
        numbers = (row["frames"] / row["seconds"], row["before_mib"], row["peak_mib"], row["whole_mib"])
        table.add_row(f"{row['minutes']:g}", row["what"], str(row["frames"]), *(f"{number:,.0f}" for number in numbers))
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"width": WIDTH, "height": HEIGHT, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
