"""`ray up` files are what Ray takes, and keep what it does not check: no open port, secret, telemetry or typo."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import botocore.session
import pytest
from botocore.validate import ParamValidator
from jsonschema import ValidationError

from tests.clusters.cluster_checks import (
    PLACEHOLDERS,
    RAY_UP,
    ROOT,
    TEXT,
    Config,
    check_by_ray,
    complaints,
    parts,
    read,
)

CLOUDS = ("aws", "gcp")
every_file = pytest.mark.parametrize("name", RAY_UP)

# ---- as they are


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_takes_a_clouds_file_and_makes_three_kinds_of_nodes(name: str) -> None:
    prepared = check_by_ray(read(name))
    limits = {name: (n["min_workers"], n["max_workers"]) for name, n in prepared["available_node_types"].items()}
    assert set(limits) == {"head", "cpu_worker", "gpu_worker"}
    assert limits["head"] == (0, 0)
    assert all(least == 0 < most for name, (least, most) in limits.items() if name != "head")
    assert prepared["idle_timeout_minutes"] > 0
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_ray_takes_the_file_of_own_machines_and_keeps_all_of_them() -> None:
    (node,) = check_by_ray(read("local"))["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(read("local")["provider"]["worker_ips"]) == 2


@every_file
def test_what_ray_does_not_check_holds_too(name: str) -> None:
    assert complaints(read(name)) == []


@pytest.mark.parametrize("name", TEXT)
def test_every_value_to_fill_in_is_explained_at_the_top(name: str) -> None:
    top, body = parts(TEXT[name])
    everywhere = set.union(*PLACEHOLDERS.values())
    assert {word for word in everywhere if re.search(rf"\b{word}\b", body)} == PLACEHOLDERS[name]
    explained = re.findall(r"^#   ([A-Z][A-Z0-9_, ]*?)  +\S", top, re.MULTILINE)
    assert {word for line in explained for word in line.split(", ")} == PLACEHOLDERS[name]


def test_ec2_knows_every_setting_of_an_instance() -> None:
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in read("aws")["available_node_types"].values():
        asked = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(asked, shape).has_errors()


@every_file
def test_the_nodes_get_the_project_without_what_is_large_or_private(name: str) -> None:
    config = read(name)
    (project,) = (remote for remote, local in config["file_mounts"].items() if local == ".")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert {".git", ".venv", "/outputs", "mlflow.db*", "*.mp4", "*.avi"} <= set(config["rsync_exclude"])
    (install,) = (command for command in config["setup_commands"] if "constraints.txt" in command)
    assert install.startswith(f"cd {project} ")
    assert install.endswith("pip install -c constraints.txt -e .")
    assert (ROOT / "constraints.txt").exists()
    assert all((ROOT / path).exists() for path in re.findall(r"~/infoaug/(\S+\.py)", TEXT[name]))


@every_file
def test_a_shell_on_a_node_has_the_store_and_mlflow_that_the_file_names(name: str, tmp_path: Path) -> None:
    (write,) = (command for command in read(name)["setup_commands"] if "infoaug.env" in command and "printf" in command)
    command = f"({write}) && . ~/infoaug.env && env"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    found = dict(line.partition("=")[::2] for line in ran.stdout.splitlines())
    stores = {"aws": "s3://BUCKET/infoaug", "gcp": "gs://BUCKET/infoaug", "local": "SHARED/infoaug"}
    assert found["INFOAUG_STORE"] == stores[name]
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["PATH"] == (f"{tmp_path}/venv/bin:" if name == "local" else "") + "/usr/bin:/bin"


def test_the_files_differ_in_their_places_and_not_in_what_is_installed() -> None:
    assert read("gcp")["docker"] == read("aws")["docker"]
    assert read("gcp")["initialization_commands"] == read("aws")["initialization_commands"]
    keys = ("file_mounts", "rsync_exclude", "rsync_filter", "worker_start_ray_commands")
    for name in ("gcp", "local"):
        assert {key: read(name)[key] for key in keys} == {key: read("aws")[key] for key in keys}
        order = [key for key in read("aws") if key in read(name)]
        assert [key for key in read(name) if key in order] == order


# ---- broken, so that the checks are seen to fail


def misspell_a_key(config: Config) -> None:
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")


def misspell_a_key_of_a_node(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["max_worker"] = 3


def name_an_unknown_head(config: Config) -> None:
    config["head_node_type"] = "heed"


def ask_for_more_than_allowed(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["min_workers"] = config["max_workers"] + 1


def give_half_a_gpu(config: Config) -> None:
    config["available_node_types"]["gpu_worker"]["resources"]["GPU"] = 0.5


def forget_the_resources(config: Config) -> None:
    del config["available_node_types"]["gpu_worker"]["resources"]


def misspell_the_user(config: Config) -> None:
    config["auth"]["ssh_usr"] = config["auth"].pop("ssh_user")


def forget_the_machines(config: Config) -> None:
    del config["provider"]["worker_ips"]


@pytest.mark.parametrize(
    ("names", "breaks", "message"),
    [
        (RAY_UP, misspell_a_key, "idle_timeout_minute"),
        (RAY_UP, misspell_the_user, "ssh_usr"),
        (CLOUDS, misspell_a_key_of_a_node, "max_worker"),
        (CLOUDS, name_an_unknown_head, "head_node_type"),
        (CLOUDS, ask_for_more_than_allowed, "min_workers"),
        (CLOUDS, give_half_a_gpu, "0.5"),
        (CLOUDS, forget_the_resources, "resources"),
    ],
)
def test_ray_refuses_a_broken_file(names: tuple[str, ...], breaks: Callable[[Config], None], message: str) -> None:
    for name in names:
        config = read(name)
        breaks(config)
        with pytest.raises((ValidationError, ValueError), match=message):
            check_by_ray(config)


def misspell_the_instance(config: Config) -> None:
    node = config["available_node_types"]["cpu_worker"]["node_config"]
    node["machneType"] = node.pop("InstanceType", None) or node.pop("machineType")


def swap_least_and_most(config: Config) -> None:
    config["available_node_types"]["cpu_worker"].update(min_workers=3, max_workers=2)


def give_a_cpu_worker_a_gpu(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["resources"]["GPU"] = 1


def take_the_gpu_away(config: Config) -> None:
    del config["available_node_types"]["gpu_worker"]["resources"]["GPU"]


def let_work_land_on_the_head(config: Config) -> None:
    config["available_node_types"]["head"]["resources"]["CPU"] = 4


def swap_spot_and_on_demand(config: Config) -> None:
    nodes = config["available_node_types"]
    nodes["head"]["node_config"], nodes["cpu_worker"]["node_config"] = (
        nodes["cpu_worker"]["node_config"],
        nodes["head"]["node_config"],
    )


def leave_a_disk_unencrypted(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] = False


def answer_without_a_token(config: Config) -> None:
    del config["available_node_types"]["gpu_worker"]["node_config"]["MetadataOptions"]


def install_on_every_node(config: Config) -> None:
    del config["docker"]


def forget_the_database(config: Config) -> None:
    del config["docker"]["head_run_options"]


def replaced(key: str, old: str, new: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        assert any(old in command for command in config[key])
        config[key] = [command.replace(old, new) for command in config[key]]

    return change


HEAD, WORKER, SETUP = "head_start_ray_commands", "worker_start_ray_commands", "setup_commands"


@pytest.mark.parametrize(
    ("names", "breaks", "complaint"),
    [
        (CLOUDS, misspell_the_instance, "cpu_worker: unknown machneType"),
        (("aws",), leave_a_disk_unencrypted, "cpu_worker: a disk is not encrypted"),
        (("aws",), answer_without_a_token, "gpu_worker: metadata without a token"),
        (CLOUDS, install_on_every_node, "nodes install all packages"),
        (CLOUDS, forget_the_database, "MLflow's database is deleted with the container"),
        (CLOUDS, swap_least_and_most, "cpu_worker: min_workers above max_workers"),
        (CLOUDS, give_a_cpu_worker_a_gpu, "cpu_worker: 1 GPUs"),
        (CLOUDS, take_the_gpu_away, "gpu_worker: 0 GPUs"),
        (CLOUDS, let_work_land_on_the_head, "work lands on the head"),
        (CLOUDS, swap_spot_and_on_demand, "head: spot"),
        (CLOUDS, swap_spot_and_on_demand, "cpu_worker: on demand"),
        (
            CLOUDS,
            replaced(HEAD, "ray_spot_first.yaml", "ray_bootstrap_config.yaml"),
            "spot does not fall back to on demand",
        ),
        (
            CLOUDS,
            replaced(HEAD, "ray start", "RAY_enable_autoscaler_v2=0 ray start"),
            "autoscaler v1 is for the provider local, and for it alone",
        ),
        (
            ("local",),
            replaced(HEAD, "RAY_enable_autoscaler_v2=0", ""),
            "autoscaler v1 is for the provider local, and for it alone",
        ),
        (("local",), replaced(SETUP, "GLOO_SOCKET_IFNAME", "GLOO"), "infoaug.env: GLOO_SOCKET_IFNAME= is missing"),
        (RAY_UP, replaced(SETUP, "RAY_AUTH_MODE=token", ""), "infoaug.env: RAY_AUTH_MODE=token is missing"),
        (
            RAY_UP,
            replaced(SETUP, "STATS_ENABLED=0", "STATS_ENABLED=1"),
            "infoaug.env: RAY_USAGE_STATS_ENABLED=0 is missing",
        ),
        (
            RAY_UP,
            replaced(SETUP, "MLFLOW_DISABLE_TELEMETRY=true", ""),
            "infoaug.env: MLFLOW_DISABLE_TELEMETRY=true is missing",
        ),
        (RAY_UP, replaced(SETUP, "INFOAUG_STORE", "STORE"), "infoaug.env: INFOAUG_STORE= is missing"),
        (RAY_UP, replaced(SETUP, "infoaug.env", "other.env"), "0 commands write infoaug.env"),
        (RAY_UP, replaced(WORKER, ". ~/infoaug.env;", ""), f"{WORKER}: . ~/infoaug.env is missing"),
        (RAY_UP, replaced(WORKER, "unset OMP_NUM_THREADS;", ""), f"{WORKER}: unset OMP_NUM_THREADS is missing"),
        (
            RAY_UP,
            replaced(WORKER, "ray start", "RAY_AUTH_MODE=disabled ray start"),
            "RAY_AUTH_MODE=disabled is said a second time",
        ),
        (RAY_UP, replaced(WORKER, "ray start", "ray stop"), f"{WORKER}: Ray is not started"),
        (RAY_UP, replaced(HEAD, "127.0.0.1", "10.0.0.1"), "the dashboard is not on loopback"),
    ],
)
def test_our_own_check_finds_what_ray_lets_pass(
    names: tuple[str, ...], breaks: Callable[[Config], None], complaint: str
) -> None:
    for name in names:
        config = read(name)
        breaks(config)
        check_by_ray(config)
        assert complaint in complaints(config)


@every_file
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--dashboard-host=0.0.0.0", "opens a port to everybody"),
        ("key: AKIA" + "ABCDEFGHIJKLMNOP", "holds what looks like: access key"),
        ("ImageId: ami-" + "0123456789abcdef0", "holds what looks like: image id"),
        ("owner: " + "123456789012", "holds what looks like: account id"),
        ("email: worker@" + "mine.iam.gserviceaccount.com", "holds what looks like: service account"),
        ("export INFOAUG_STORE=elsewhere", "INFOAUG_STORE is named 2 times"),
    ],
)
def test_our_own_check_finds_what_a_text_must_not_hold(name: str, line: str, complaint: str) -> None:
    assert complaint in complaints(read(name), f"{TEXT[name]}\n{line}\n")
