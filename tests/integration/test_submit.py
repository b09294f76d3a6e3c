"""Jobs on a real Ray: what is sent, what is told of it, and that nothing is started twice."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray._private.utils as ray_utils
import yaml

from infoaug.models import own_code
from infoaug.orchestrator import submit
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.submit import Job
from tests.integration.conftest import TINY


@pytest.fixture
def address(ray_cluster: None) -> Iterator[str]:
    # A job runs on the Ray that this file of `ray start` names. Without it, where tests or commands beside these have
    # a Ray of their own, it may run on theirs.
    ray_utils.write_ray_address(ray.get_runtime_context().gcs_address)
    yield os.environ["RAY_API_SERVER_ADDRESS"]
    Path(ray_utils.get_ray_address_file(None)).unlink(missing_ok=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("{}\n")
    return path


def places(folder: Path) -> list[str]:
    return [f"store={folder / 'store'}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]


@pytest.mark.usefixtures("scored_store")
def test_a_job_runs_to_its_end_with_its_log_followed_and_is_not_started_twice(
    config: Path, address: str, tmp_path: Path
) -> None:
    overrides = [*TINY, *places(tmp_path), "pretrain.epochs=1"]
    job = submit.submit(config, overrides, address)
    assert not job.found and job.id.startswith("tiny-") and job.id.endswith("-1")
    assert submit.submit(config, overrides, address) == Job(job.id, address, found=True)
    log: list[str] = []
    try:
        submit.follow(job, log.append)
    except StageError as error:
        logs = "\n".join(path.read_text() for path in (tmp_path / "store" / "logs").iterdir())
        pytest.fail(f"{error}:\n{''.join(log)}\n{logs}")
    text = "".join(log)
    assert text.count("epoch 1/1") == 1 and "report   " in text
    made = load(config, overrides)
    assert list((Path(made.store) / "experiments").glob("tiny-*/report.html"))

    again: list[str] = []
    submit.follow(job, again.append)
    assert "".join(again) == text, "a job that is over can be read again"


def test_a_job_that_fails_says_so_and_the_next_one_has_another_name(config: Path, address: str, tmp_path: Path) -> None:
    overrides = [*TINY, *places(tmp_path), "clips.path=/no/such/videos"]
    jobs = [submit.submit(config, overrides, address)]
    log: list[str] = []
    with pytest.raises(StageError, match=rf"^job {jobs[0].id} failed: .*exit code 2"):
        submit.follow(jobs[0], log.append)
    assert "/no/such/videos" in "".join(log) and "Traceback" not in "".join(log)
    jobs.append(submit.submit(config, overrides, address))
    assert not jobs[1].found and jobs[1].id == jobs[0].id[:-1] + "2"


def test_a_job_is_sent_the_code_and_what_the_config_sets_and_no_more(tmp_path: Path) -> None:
    made = ExperimentConfig.model_validate(
        {"name": "sent", "seed": 3, "score": {"k": 3}, "ray": {"address": "here", "cpus": 2}}
    )
    submit.pack(made, tmp_path, without=["seed"])
    assert {path.name for path in tmp_path.iterdir()} == {"infoaug", "config.yaml"}
    folders = {path.name for path in (tmp_path / "infoaug").iterdir() if path.is_dir()}
    assert folders == {"configs", "orchestrator", "models", "estimators"}
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        ".py",
        ".yaml",
        ".typed",
        ".html",
        ".css",
        ".js",
    }
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "name": "sent", "score": {"k": 3}, "ray": {"cpus": 2}
    }  # fmt: skip


def test_a_job_is_sent_the_classes_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, sent = tmp_path / "here", tmp_path / "sent"
    here.mkdir()
    sent.mkdir()
    (here / "net_to_send.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_loaded", set())
    named = ExperimentConfig.model_validate({"pretrain": {"backbone": "net_to_send:Net"}})
    submit.pack(named, sent)
    assert (sent / "net_to_send.py").read_text() == (here / "net_to_send.py").read_text()
    missing = ExperimentConfig.model_validate({"pretrain": {"backbone": "net_that_is_gone:Net"}})
    with pytest.raises(UsageError, match=r"pretrain\.backbone: .*'net_that_is_gone:Net' cannot be imported"):
        submit.pack(missing, tmp_path / "nothing")


def test_a_bad_config_is_refused_here_and_an_address_without_a_cluster_is_named(config: Path) -> None:
    with pytest.raises(UsageError, match="epochz"):
        submit.submit(config, ["pretrain.epochz=3"], "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"no Ray job server answers at 'http://127\.0\.0\.1:9'.*--address"):
        submit.submit(config, [], "http://127.0.0.1:9")
