"""What measures a GPU runs without one, without Ray and without MLflow, and survives what fails in it."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_item_passes_at_toy_size_where_neither_ray_nor_mlflow_can_be_imported(tmp_path: Path) -> None:
    for name in ("ray", "mlflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not on this machine')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment |= {"OMP_NUM_THREADS": "1"}
    blocked = subprocess.run([sys.executable, "-c", "import ray"], env=environment, capture_output=True, check=False)
    assert b"not on this machine" in blocked.stderr

    out = tmp_path / "gpu.json"
    ran = subprocess.run(
        [sys.executable, str(FILE), "--dry", "--out", str(out)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = json.loads(out.read_text())
    status = {row["name"]: row["status"] for row in results["rows"]}
    assert all(value == "passed" for name, value in status.items() if "lightly" not in name), status
    assert {row["part"] for row in results["rows"]} == {"checks", "information", "training"}
    assert sum(name.endswith(" trains") for name in status) == 10
    assert results["dry"] and results["machine"]["torch"] and results["seconds"]["total"] > 0
    training = next(row["figures"] for row in results["rows"] if row["name"] == "resnet18, 16 px, eager")
    assert training["twins_images_per_second"] > 0 and training["bare_backbone_images_per_second"] > 0
    assert all(f"| {name} |" in ran.stdout for name in status if name.endswith(" trains"))


def test_an_item_whose_process_dies_has_failed_and_another_worker_runs_the_rest(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def line(name: str, status: str, **more: Any) -> str:
        return json.dumps({"part": "checks", "name": name, "status": status, "figures": {}} | more) + "\n"

    planned = {"items": [["checks", name] for name in ("one", "two", "three", "four")]}
    workers = iter(
        [
            line("plan", "passed", part="plan", figures=planned)
            + line("one", "passed", seconds=1.0)
            + line("two", "started", at=time.time())
            + '{"part": "che',
            line("three", "passed", seconds=2.0),
        ]
    )
    statuses = iter([-11, 0])

    def worker(command: list[str], file: Path, limit: float, scale: Any) -> tuple[int, str]:
        with file.open("a") as opened:
            opened.write(next(workers))
        return next(statuses), "its process ended with status -11"

    monkeypatch.setattr(gpu, "one_worker", worker)
    monkeypatch.setattr(gpu, "BEGIN", time.time())
    results = gpu.run(gpu.DRY, tmp_path / "out.json")
    rows = {row["name"]: row for row in results["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "one": "passed",
        "two": "failed",
        "three": "passed",
        "four": "skipped",
    }
    assert "-11" in rows["two"]["error"]
    assert json.loads((tmp_path / "out.json").read_text()) == results


def test_a_worker_is_stopped_when_an_item_takes_too_long(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"part": "checks", "name": "one", "status": "started", "at": 0.0}
    file.write_text(json.dumps(row) + "\n")
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    status, reason = gpu.one_worker(command, file, time.time() + 500, gpu.DRY)
    assert status != 0 and "no answer" in reason


def test_an_item_that_is_cut_off_by_the_end_of_the_time_has_not_failed(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(command: list[str], file: Path, limit: float, scale: Any) -> tuple[int, str]:
        planned = {"part": "plan", "name": "plan", "status": "passed", "figures": {"items": [["checks", "one"]]}}
        started = {"part": "checks", "name": "one", "status": "started", "at": time.time(), "figures": {}}
        file.write_text("".join(json.dumps(row) + "\n" for row in (planned, started)))
        return -9, gpu.TIME_UP

    monkeypatch.setattr(gpu, "one_worker", worker)
    monkeypatch.setattr(gpu, "BEGIN", time.time() - gpu.BUDGET * gpu.DRY.patience)
    (row,) = gpu.run(gpu.DRY, None)["rows"]
    assert (row["status"], row["error"]) == ("skipped", gpu.TIME_UP)


def test_no_worker_that_starts_is_an_error(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "one_worker", lambda *_: (1, "no torch"))
    with pytest.raises(RuntimeError, match="no torch"):
        gpu.run(gpu.DRY, None)


def test_an_item_that_raises_has_failed_and_the_next_one_runs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails() -> Any:
        gpu.require(False, "this is wrong")

    def skipped() -> Any:
        raise gpu.Skipped("not here")

    planned = [("checks", "one", fails), ("training", "two", skipped), ("checks", "three", lambda: {"figure": 3})]
    monkeypatch.setattr(gpu, "items", lambda scale: planned)
    file = tmp_path / "rows.jsonl"
    assert gpu.work(gpu.DRY, file, time.time() + 100) == 0
    rows = gpu.rows_of(file)
    assert [row["status"] for row in rows] == ["failed", "skipped", "passed"]
    assert "this is wrong" in rows[0]["error"] and rows[1]["error"] == "not here"
    assert rows[2]["figures"] == {"figure": 3}
    late = tmp_path / "late.jsonl"
    gpu.work(gpu.DRY, late, time.time() - 1)
    assert [row["status"] for row in gpu.rows_of(late)] == ["skipped"] * 3


def test_the_page_is_only_of_a_gpu(gpu: ModuleType) -> None:
    results: dict[str, Any] = {
        "date": "2000-01-01",
        "commit": None,
        "dry": False,
        "machine": {"gpu": "A GPU", "gpu_memory_gib": 80.0, "cpu": "A CPU", "cpus": 16},
        "seconds": {"checks": 1.0, "information": 1.0, "training": 1.0, "total": 3.0},
        "rows": [{"part": "checks", "name": "one", "status": "failed", "error": "a | b", "figures": {}}],
    }
    text = gpu.page(results)
    assert "A GPU, 80.0 GiB" in text and "0 of 1 passed" in text and r"a \| b" in text
    for change in ({"dry": True}, {"machine": {"gpu": None}}):
        with pytest.raises(ValueError, match="make gpu"):
            gpu.page(results | change)


def test_the_page_in_docs_shows_the_recorded_results(gpu: ModuleType) -> None:
    if gpu.RESULTS.exists():
        assert gpu.PAGE.read_text() == gpu.page(json.loads(gpu.RESULTS.read_text()))
    else:
        assert not gpu.PAGE.exists(), "a page without the results that it is made from"
