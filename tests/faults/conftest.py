"""Faults on real processes, each with a row for the table of docs/reliability.md: `make faults` runs and writes them.

They take half an hour, so `make test` leaves them out.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infoaug.orchestrator.synthetic import scenes
from tests.integration.conftest import PATIENCE, TINY, Start, below, start, wait_for

__all__ = ["start"]  # the fixture

CLIPS, EPOCHS = 12, 8
SETTINGS = [
    *TINY,
    f"pretrain.epochs={EPOCHS}",
    "extract.window=24",
    "score.surrogates=1000",
    "extract.read_timeout=5",
]
BEGIN, END = "<!-- begin: what `make faults` measured -->", "<!-- end -->"
ROWS = pytest.StashKey[list[list[str]]]()

Told = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="a Markdown file to write the table of faults into")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    rows, path = session.config.stash.get(ROWS, []), session.config.getoption("--table", None)
    if not rows or path is None or exitstatus != pytest.ExitCode.OK:
        return
    titles = ["what happens", "what the user sees", "done twice", "until the end is reached"]
    lines = [titles, ["---"] * len(titles), *rows]
    table = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """Add a row to the table: what happened, what the user saw, what was done twice, and the seconds it then took."""

    def add(what: str, seen: str, twice: str, seconds: float | None) -> None:
        took = "" if seconds is None else f"{seconds:.0f} s"
        request.config.stash.setdefault(ROWS, []).append([what, seen, twice, took])

    return add


@dataclass
class Experiment:
    """One experiment in a folder, run by the command, as often as need be.

    Attributes:
        folder: of its store, its database and its logs.
        overrides: settings over `SETTINGS`.
        begin: starts a process.
    """

    folder: Path
    begin: Start
    overrides: list[str]
    logs: list[Path] = field(default_factory=list)

    def start(self, *more: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
        """Start the command."""
        self.config.write_text("{}\n")
        parts = [part for o in (*self.settings, *more) for part in ("--set", o)]
        self.logs.append(self.folder / f"log-{len(self.logs)}")
        return self.begin([*prefix, "run", str(self.config), *parts], self.logs[-1])

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def settings(self) -> list[str]:
        """All that is set, as `--set` takes it."""
        uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        return [*SETTINGS, f"store={self.store}", f"tracking.uri={uri}", *self.overrides]

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def log(self) -> str:
        """What the newest process has said."""
        return self.logs[-1].read_text() if self.logs[-1].exists() else ""

    def wait_for(self, process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
        """Wait while a process works, until a condition holds."""
        wait_for(condition, process, self.logs[-1])

    def end(self, process: "subprocess.Popen[bytes]", code: int = 0, quiet: bool = True) -> float:
        """Wait until a process ends, as it should and, if `quiet`, without a traceback; the seconds that took."""
        began = time.monotonic()
        assert process.wait(timeout=PATIENCE) == code, self.log
        assert not quiet or "Traceback" not in self.log, self.log
        return time.monotonic() - began

    def again(self) -> float:
        """Run the command to its end; the seconds that took."""
        return self.end(self.start())

    def sentence(self) -> str:
        """The last line that the newest process has said, for the table."""
        said = self.log.strip().splitlines()[-1].removeprefix("infoaug: ")
        return re.sub(r"/\S*/", "…/", said).replace("|", "/")[:200]

    def digests(self) -> dict[str, str]:
        """SHA-256 of all that was computed, less what tells of times."""
        return digests(self.store)


def digests(store: Path) -> dict[str, str]:
    """SHA-256 of each trajectory, score, ledger, weight, accuracy and picture of a store, and of epochs' losses."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if path.suffix in (".parquet", ".safetensors") or name.startswith(("evaluate/", "floor/")):
            if path.suffix != ".yaml" and path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "history.json":
            losses = [{k: v for k, v in e.items() if "loss" in k} for e in json.loads(path.read_text())]
            found[name] = hashlib.sha256(json.dumps(losses).encode()).hexdigest()
    return found


def worker(process: "subprocess.Popen[bytes]", title: str) -> int | None:
    """A process below another whose title begins so; None if there is none."""
    pids = below(process)
    listed = subprocess.run(["ps", "-axo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    named = (line.strip().partition(" ") for line in listed.splitlines())
    return next((int(pid) for pid, _, args in named if int(pid) in pids and args.strip().startswith(title)), None)


def windows_there(log: str, stage: str) -> int:
    """How many windows a stage found done, by its own words."""
    found = re.search(rf"{stage}: \d+ windows.*?, (\d+) already there", log)
    assert found, log
    return int(found.group(1))


def first_epoch(log: str) -> int:
    """The first epoch that a process trained."""
    found = re.search(rf"epoch (\d+)/{EPOCHS}", log)
    assert found, log
    return int(found.group(1))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rendered clips of two windows each."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        scenes.write(scenes.render(number, frames=48), folder / f"scene-{number:02d}.avi")
    return folder


@pytest.fixture
def experiment(tmp_path: Path, start: Start, clips: Path) -> Experiment:
    """An experiment on the clips, not run yet."""
    return Experiment(tmp_path, start, [f"clips.path={clips}"])


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Iterator[dict[str, str]]:
    """What the same experiment leaves when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def begin(arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "infoaug", *arguments]
        with log.open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[2])

    made = Experiment(folder, begin, [f"clips.path={clips}"])
    made.again()
    found = made.digests()
    assert {Path(name).suffix for name in found} == {".parquet", ".safetensors", ".json", ".npz"}
    yield found
