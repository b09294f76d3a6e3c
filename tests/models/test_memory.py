"""How much memory a process may use, by control groups of either version, and how much it has used."""

import subprocess
import sys
from pathlib import Path

import pytest

from infoaug.models import memory

MACHINE = memory.limit(Path("/nowhere"))
GIB = 1 << 30


def groups(root: Path, own: str, **limits: str) -> Path:
    """A file system with these control groups: `own` is /proc/self/cgroup, `limits` are files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own, encoding="utf-8")
    for path, limit in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("own", "limits"),
    [
        ("0::/\n", {"memory.max": "1073741824"}),  # a container that sees its own group as the topmost
        ("0::/docker/1f\n", {"memory.max": "1073741824"}),  # its group's name on the host
        ("0::/system.slice/job\n", {"system.slice/job/memory.max": "1073741824"}),
        ("0::/slurm/job/step\n", {"slurm/job/step/memory.max": "max", "slurm/job/memory.max": "1073741824"}),
        ("0::/a/b\n", {"a/b/memory.max": "2147483648", "a/memory.max": "1073741824", "memory.max": "max"}),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "1073741824"}),
        ("4:cpu,memory:/docker/1f\n0::/\n", {"memory/memory.limit_in_bytes": "1073741824"}),
        ("4:memory:/slurm/job\n", {"memory/slurm/job/memory.limit_in_bytes": "1073741824"}),
    ],
)
def test_the_smallest_limit_of_a_group_and_those_above_it_counts(
    own: str, limits: dict[str, str], tmp_path: Path
) -> None:
    assert memory.limit(groups(tmp_path, own, **limits)) == GIB < MACHINE


@pytest.mark.parametrize(
    ("own", "limits"),
    [
        ("0::/\n", {"memory.max": "max"}),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}),
        ("0::/here\n", {"elsewhere/memory.max": "1073741824"}),
        ("4:cpu:/here\n", {"memory/here/memory.limit_in_bytes": "1073741824"}),
        ("", {}),
    ],
)
def test_without_a_limit_a_process_may_use_the_machines_memory(
    own: str, limits: dict[str, str], tmp_path: Path
) -> None:
    assert memory.limit(groups(tmp_path, own, **limits)) == MACHINE
    assert 2**26 < MACHINE < 2**50


SCRIPT = "from infoaug.models import memory; print(memory.peak())"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its own peak")
def test_the_peak_is_that_of_the_process_and_not_of_its_parent_and_starts_anew_when_asked_to() -> None:
    held = bytearray(300 << 20)
    held[:: 1 << 12] = b"1" * len(held[:: 1 << 12])  # so that the pages are there
    assert memory.peak() > 300 << 20
    child = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert int(child.stdout) < 200 << 20
    before = memory.peak()
    del held
    memory.reset_peak()
    assert memory.peak() < before - (200 << 20)
