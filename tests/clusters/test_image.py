"""The image of a cluster's nodes: what can be checked of its Dockerfile without building it."""

import fnmatch
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from tests.clusters.cluster_checks import RAY_UP, ROOT, SECRETS, read

DOCKERFILE = (ROOT / "clusters/Dockerfile").read_text(encoding="utf-8")
IGNORED = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]


def steps() -> list[tuple[str, str]]:
    """Instructions and what follows them, continued lines as one."""
    plain = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in plain.splitlines() if line.strip()]


def is_ignored(path: str) -> bool:
    patterns = (pattern.removeprefix("/").removeprefix("**/") for pattern in IGNORED)
    return any(fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(Path(path).name, pattern) for pattern in patterns)


def test_it_is_rays_image_of_the_pinned_version_with_a_python_that_the_project_takes() -> None:
    (base,) = (what for step, what in steps() if step == "FROM")
    (pinned,) = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(rf"rayproject/ray:{re.escape(pinned)}-py31[12]", base)
    assert steps()[0][0] == "FROM"


def test_its_instructions_are_known_and_it_runs_as_rays_user_without_secrets() -> None:
    assert {step for step, _ in steps()} == {"FROM", "ENV", "WORKDIR", "COPY", "RUN"}, "no USER: the base's, `ray`"
    assert all("--chown=ray:users" in what for step, what in steps() if step == "COPY")
    assert not [what for what, pattern in SECRETS.items() if re.search(pattern, DOCKERFILE)]
    settings = " ".join(what for step, what in steps() if step == "ENV")
    assert "RAY_USAGE_STATS_ENABLED=0" in settings and "MLFLOW_DISABLE_TELEMETRY=true" in settings


def test_what_is_copied_is_there_and_all_that_is_large_or_private_is_left_out() -> None:
    for what in (what.split()[1:-1] for step, what in steps() if step == "COPY"):
        assert all((ROOT / source).exists() and not is_ignored(source) for source in what)
    needed = ("infoaug/__init__.py", "orchestrator/cli.py", "configs/paper.yaml", "README.md", "LICENSE")
    assert not [path for path in needed if is_ignored(path)]
    private = [name.lstrip("/").replace("*", "x") for kind in RAY_UP for name in read(kind)["rsync_exclude"]]
    assert [name for name in private if not is_ignored(name)] == []


def test_its_commands_can_be_read_and_install_what_the_project_needs(tmp_path: Path) -> None:
    runs = [what for step, what in steps() if step == "RUN"]
    for run in runs:
        assert subprocess.run(["bash", "-n", "-c", run], check=False).returncode == 0
    listing, _, install = runs[0].partition(" && ")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-c", listing], cwd=tmp_path, check=True)
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == needed
    assert install == "pip install --no-cache-dir -c constraints.txt -r requirements.txt"
