"""Clips that are broken, that do not answer, or that are too large for a worker's memory: the others go on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.faults.conftest import CLIPS, Experiment, Told

# Holds a lease on a file: whoever opens it waits, as for a disk that is away, until the system takes the lease away.
HOLD = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def more(experiment: Experiment, clips: Path, tmp_path: Path) -> Path:
    """A folder of clips of the experiment's own, with those of all."""
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    experiment.overrides.append(f"clips.path={folder}")
    return folder


def same(experiment: Experiment, undisturbed: dict[str, str]) -> bool:
    """Whether all trajectories and scores of the clips of all are as ever."""
    wanted = {n: d for n, d in undisturbed.items() if n.startswith(("extract/", "score/")) and "ledger" not in n}
    found = experiment.digests()
    return bool(wanted) and all(found.get(name) == digest for name, digest in wanted.items())


def lost(log: str) -> str:
    """What is said of clips, for the table."""
    lines = [line for line in log.splitlines() if line.startswith(("failed ", "partial "))]
    return "; ".join(line.removeprefix("failed ") for line in lines)


def test_videos_are_cut_off_or_empty_or_lie_about_their_length(
    experiment: Experiment, undisturbed: dict[str, str], more: Path, told: Told
) -> None:
    whole = (more / "scene-00.avi").read_bytes()
    (more / "cut-off.avi").write_bytes(whole[: len(whole) // 20])
    (more / "empty.avi").write_bytes(b"")
    lying = bytearray(whole)
    for mark in (b"avih", b"strh"):
        place = lying.index(mark) + (24 if mark == b"avih" else 40)  # dwTotalFrames, dwLength
        lying[place : place + 4] = (10**6).to_bytes(4, "little")
    (more / "lying.avi").write_bytes(lying)
    seconds = experiment.again()
    assert same(experiment, undisturbed)
    said = lost(experiment.log)
    assert "cut-off.avi" in said and "empty.avi" in said and "lying" not in said
    assert f"of {CLIPS + 3} clips" in experiment.log
    told("a video is cut off, one is empty, one's header lies", said.replace(str(more), "…"), "nothing", seconds)


def test_a_disk_does_not_answer_while_a_clip_is_read(
    experiment: Experiment, undisturbed: dict[str, str], more: Path, told: Told
) -> None:
    hanging = more / "hanging.avi"
    shutil.copy(more / "scene-00.avi", hanging)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(hanging)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout and holder.stdout.readline()
            seconds = experiment.again()
        finally:
            holder.kill()  # or a failure would wait for it for ever
    assert same(experiment, undisturbed)
    said = lost(experiment.log)
    assert "hanging.avi: " in said and "gave no answer for 5 s" in said
    told("a clip's disk does not answer", said.replace(str(more), "…"), "nothing", seconds)

    process = experiment.start()
    experiment.end(process)
    assert not lost(experiment.log), "the disk is back, and so is the clip"


def test_a_clip_is_too_large_for_the_memory_of_its_worker(
    experiment: Experiment, undisturbed: dict[str, str], more: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, least = experiment.start(), memory("MemAvailable")
    while process.poll() is None:
        least = min(least, memory("MemAvailable"))
        time.sleep(0.1)
    experiment.end(process)
    large = more / "large"
    large.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (52, 3270, 3), np.uint8)
    picture = cv2.resize(noise, (32_700, 519))  # as many patches as are allowed
    for number in range(24):  # which shake: frames that are all the same are no clip
        file = large / f"{number:02d}.png"
        if number < 2:
            cv2.imwrite(str(file), np.roll(picture, 3 * number, axis=1), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        else:
            os.link(large / f"{number % 2:02d}.png", file)
    total = memory("MemTotal")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(total - least + 2**19) / total:.4f}")  # half a GiB more
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    seconds = experiment.end(experiment.start(), quiet=False)  # Ray kills an actor of its own, too, and tells of it
    assert same(experiment, undisturbed)
    said = lost(experiment.log)
    assert "large: " in said and "died" in said
    told("a clip is too large for the memory", said, "its task, some times", seconds)


def memory(name: str) -> int:
    """A line of the system's memory, KiB."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[name].split()[0])
