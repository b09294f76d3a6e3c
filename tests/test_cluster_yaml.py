"""cluster.yaml is what Ray takes, and keeps what Ray does not check: no open port, no secret, no telemetry, no typo."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[1] / "cluster.yaml"
TEXT = PATH.read_text(encoding="utf-8")
Config = dict[str, Any]

# Of what EC2's create_instances takes, as boto3 spells it: all that the file needs. Ray passes node_config on unread.
NODE_KEYS = {"BlockDeviceMappings", "IamInstanceProfile", "ImageId", "InstanceMarketOptions", "InstanceType"}
PLACEHOLDERS = {"AMI_ID", "HEAD_PROFILE", "WORKER_PROFILE", "BUCKET"}
SECRETS = {
    "access key": r"\b(AKIA|ASIA)[0-9A-Z]{12,}",
    "secret key": r"(?i)secret_?(access_?)?key",
    "private key": r"-----BEGIN",
    "account id": r"\b\d{12}\b",
    "resource name": r"\barn:aws",
    "image id": r"\bami-[0-9a-f]{8,}",
    "token": r"\b[0-9a-fA-F]{32,}\b",
}


def read() -> Config:
    return yaml.safe_load(TEXT)


def check_by_ray(config: Config) -> Config:
    """What `ray up` does with a file before it speaks to the cloud; raises what Ray raises."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def complaints(config: Config, text: str = TEXT) -> list[str]:
    """What is wrong with a file although Ray takes it."""
    found = [f"holds what looks like: {what}" for what, pattern in SECRETS.items() if re.search(pattern, text)]
    if "0.0.0.0" in text or "::/0" in text:
        found.append("opens a port to everybody")
    nodes = config["available_node_types"]
    head = config["head_node_type"]
    for name, node in nodes.items():
        found += [f"{name}: unknown {key}" for key in sorted(set(node["node_config"]) - NODE_KEYS)]
        if node.get("min_workers", 0) > node.get("max_workers", config["max_workers"]):
            found.append(f"{name}: min_workers above max_workers")
        gpus, wanted = node["resources"].get("GPU", 0), name == "gpu_worker"
        if (gpus > 0) != wanted:
            found.append(f"{name}: {gpus} GPUs")
        spot = node["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}
        if spot == (name == head):
            found.append(f"{name}: {'spot' if spot else 'on demand'}")
    if nodes[head]["resources"].get("CPU") != 0 or not nodes[head]["resources"].get("trial_slot"):
        found.append("the head must have no CPU, and trial slots")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[key] if "ray start" in command]
        if not starts:
            found.append(f"{key}: Ray is not started")
        for setting in ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0", "MLFLOW_DISABLE_TELEMETRY=true"):
            found += [
                f"{key}: {setting} is missing" for command in starts if setting not in command.split("ray start")[0]
            ]
    if not all("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"] if "ray start" in c):
        found.append("the dashboard is not on loopback")
    return found


# ---- as it is


def test_ray_takes_the_file_and_makes_three_kinds_of_nodes() -> None:
    prepared = check_by_ray(read())
    limits = {name: (n["min_workers"], n["max_workers"]) for name, n in prepared["available_node_types"].items()}
    assert set(limits) == {"head", "cpu_worker", "gpu_worker"}
    assert limits["head"] == (0, 0)
    assert all(least == 0 < most for name, (least, most) in limits.items() if name != "head")
    assert prepared["idle_timeout_minutes"] > 0
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_what_ray_does_not_check_holds_too() -> None:
    assert complaints(read()) == []


def test_every_value_to_fill_in_is_explained_at_the_top() -> None:
    top = TEXT[: TEXT.index("cluster_name:")]
    body = "\n".join(line.split("#")[0] for line in TEXT[len(top) :].splitlines())
    used = set(re.findall(r"\b(?:AMI|HEAD|WORKER)_(?:ID|PROFILE)\b", body))
    assert used == PLACEHOLDERS - {"BUCKET"}
    assert all(name in top for name in PLACEHOLDERS)


def test_the_nodes_get_the_project_without_what_is_large_or_private() -> None:
    config = read()
    (project,) = (remote for remote, local in config["file_mounts"].items() if local == ".")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert {".git", ".venv", "/outputs", "mlflow.db*", "*.mp4", "*.avi"} <= set(config["rsync_exclude"])
    (install,) = (command for command in config["setup_commands"] if "constraints.txt" in command)
    assert install.startswith(f"cd {project} ")
    assert install.endswith("pip install -c constraints.txt -e .")
    assert (PATH.parent / "constraints.txt").exists()


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


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (misspell_a_key, "idle_timeout_minute"),
        (misspell_a_key_of_a_node, "max_worker"),
        (name_an_unknown_head, "head_node_type"),
        (ask_for_more_than_allowed, "min_workers"),
        (give_half_a_gpu, "0.5"),
        (forget_the_resources, "resources"),
        (misspell_the_user, "ssh_usr"),
    ],
)
def test_ray_refuses_a_broken_file(breaks: Callable[[Config], None], message: str) -> None:
    config = read()
    breaks(config)
    with pytest.raises((ValidationError, ValueError), match=message):
        check_by_ray(config)


def misspell_the_instance(config: Config) -> None:
    node = config["available_node_types"]["cpu_worker"]["node_config"]
    node["InstnceType"] = node.pop("InstanceType")


def swap_least_and_most(config: Config) -> None:
    config["available_node_types"]["cpu_worker"].update(min_workers=3, max_workers=2)


def give_a_cpu_worker_a_gpu(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["resources"]["GPU"] = 1


def take_the_gpu_away(config: Config) -> None:
    del config["available_node_types"]["gpu_worker"]["resources"]["GPU"]


def let_work_land_on_the_head(config: Config) -> None:
    config["available_node_types"]["head"]["resources"]["CPU"] = 4


def put_the_head_on_spot(config: Config) -> None:
    config["available_node_types"]["head"]["node_config"]["InstanceMarketOptions"] = {"MarketType": "spot"}


def replaced(key: str, old: str, new: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config[key] = [command.replace(old, new) for command in config[key]]

    return change


@pytest.mark.parametrize(
    ("breaks", "complaint"),
    [
        (misspell_the_instance, "cpu_worker: unknown InstnceType"),
        (swap_least_and_most, "cpu_worker: min_workers above max_workers"),
        (give_a_cpu_worker_a_gpu, "cpu_worker: 1 GPUs"),
        (take_the_gpu_away, "gpu_worker: 0 GPUs"),
        (let_work_land_on_the_head, "the head must have no CPU, and trial slots"),
        (put_the_head_on_spot, "head: spot"),
        (
            replaced("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""),
            "worker_start_ray_commands: RAY_AUTH_MODE=token is missing",
        ),
        (
            replaced("head_start_ray_commands", "RAY_USAGE_STATS_ENABLED=0", "RAY_USAGE_STATS_ENABLED=1"),
            "head_start_ray_commands: RAY_USAGE_STATS_ENABLED=0 is missing",
        ),
        (
            replaced("worker_start_ray_commands", "MLFLOW_DISABLE_TELEMETRY=true", ""),
            "worker_start_ray_commands: MLFLOW_DISABLE_TELEMETRY=true is missing",
        ),
        (
            replaced("head_start_ray_commands", "127.0.0.1", "10.0.0.1"),
            "the dashboard is not on loopback",
        ),
    ],
)
def test_our_own_check_finds_what_ray_lets_pass(breaks: Callable[[Config], None], complaint: str) -> None:
    config = read()
    breaks(config)
    check_by_ray(config)
    assert complaint in complaints(config)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--dashboard-host=0.0.0.0", "opens a port to everybody"),
        ("key: AKIA" + "ABCDEFGHIJKLMNOP", "holds what looks like: access key"),
        ("ImageId: ami-" + "0123456789abcdef0", "holds what looks like: image id"),
        ("owner: " + "123456789012", "holds what looks like: account id"),
    ],
)
def test_our_own_check_finds_an_open_port_or_a_secret_in_the_text(line: str, complaint: str) -> None:
    assert complaint in complaints(read(), f"{TEXT}\n{line}\n")
