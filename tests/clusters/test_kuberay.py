"""The KubeRay manifest is what Ray's autoscaler takes, and opens, leaks and wastes nothing."""

import copy
import re
from collections.abc import Callable
from importlib.metadata import version

import pytest

from tests.clusters.cluster_checks import (
    ROOT,
    TEXT,
    Config,
    as_the_autoscaler_reads,
    groups,
    manifest,
    manifest_complaints,
    of_kind,
)

RAY = version("ray")


def test_the_autoscaler_reads_a_head_without_cpus_and_workers_that_come_and_go() -> None:
    read = as_the_autoscaler_reads(manifest())
    found = {name: node["resources"] for name, node in read["available_node_types"].items()}
    assert {name: (of.get("CPU"), of.get("GPU")) for name, of in found.items()} == {
        "headgroup": (0, None),
        "cpu-worker": (16, None),
        "gpu-worker": (8, 1),
    }
    assert all(node["min_workers"] == 0 for node in read["available_node_types"].values())
    assert (read["max_workers"], read["idle_timeout_minutes"]) == (8, 10)


def test_the_manifest_keeps_what_nobody_else_checks() -> None:
    assert manifest_complaints(manifest(), RAY) == []


def test_the_manifest_has_the_ray_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert of_kind(manifest(), "RayCluster")["spec"]["rayVersion"] == pinned == RAY


def test_mlflows_database_lies_on_the_volume() -> None:
    documents = manifest()
    pod = groups(documents)["head"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "mlflow")
    (mounted,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "mlflow")
    assert of_kind(documents, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    uri = of_kind(documents, "ConfigMap")["data"]["MLFLOW_TRACKING_URI"]
    assert uri.startswith(f"sqlite:///{mounted['mountPath']}/")


def test_the_clips_volume_can_be_mounted_by_all_nodes_and_is_where_the_docs_look_for_it() -> None:
    claim = of_kind(manifest(), "PersistentVolumeClaim", "infoaug-clips")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, group in groups(manifest()).items():
        (mount,) = (m for m in group["template"]["spec"]["containers"][0]["volumeMounts"] if m["name"] == "clips")
        assert mount["mountPath"] == "/videos", name
    assert "--set clips.path=/videos" in (ROOT / "docs/clusters.md").read_text(encoding="utf-8")


def put(*path: str | int, value: object) -> Callable[[list[Config]], None]:
    """A change of one value of the RayCluster's spec; None takes it away."""

    def change(documents: list[Config]) -> None:
        place = of_kind(documents, "RayCluster")["spec"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        if value is None:
            del place[path[-1]]

    return change


def admit_all(documents: list[Config]) -> None:
    of_kind(documents, "NetworkPolicy", "infoaug-redis")["spec"]["ingress"][0]["from"] = [{"podSelector": {}}]


def forget_redis_on_restart(documents: list[Config]) -> None:
    del of_kind(documents, "StatefulSet")["spec"]["volumeClaimTemplates"]


def give_redis_no_password(documents: list[Config]) -> None:
    del of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]


def send_telemetry(documents: list[Config]) -> None:
    del of_kind(documents, "ConfigMap")["data"]["MLFLOW_DISABLE_TELEMETRY"]


HEAD = ("headGroupSpec", "template", "spec")
GPU = ("workerGroupSpecs", 1, "template", "spec")
OF_GPU = (*GPU, "containers", 0)


@pytest.mark.parametrize(
    ("breaks", "complaint"),
    [
        (put("headGroupSpec", "serviceType", value="LoadBalancer"), "exposes by LoadBalancer"),
        (put("headGroupSpec", "serviceType", value="NodePort"), "the head's service is not ClusterIP"),
        (put(*HEAD, "hostNetwork", value=True), "exposes by hostNetwork"),
        (put("headGroupSpec", "rayStartParams", "num-cpus", value="4"), "head: works, or shows its dashboard"),
        (put("headGroupSpec", "rayStartParams", "dashboard-host", value=None), "head: works, or shows its dashboard"),
        (put("rayVersion", value="2.9.0"), f"not Ray {RAY}"),
        (put("authOptions", value=None), "token authentication is not the operator's"),
        (put(*OF_GPU, "image", value="other"), "gpu-worker: another image"),
        (put(*OF_GPU, "env", value=[{"name": "AWS_TOKEN"}]), "gpu-worker: another environment"),
        (put(*OF_GPU, "resources", "requests", value={"cpu": "1"}), "gpu-worker: resources are not guaranteed"),
        (put("workerGroupSpecs", 0, "template", value=None), None),
        (put("workerGroupSpecs", 1, "minReplicas", value=1), "gpu-worker: never goes away"),
        (put(*GPU, "securityContext", "runAsNonRoot", value=False), "gpu-worker: may be root"),
        (put(*GPU, "tolerations", value=None), "gpu-worker: tolerations"),
        (put(*HEAD, "tolerations", value=[{"key": "nvidia.com/gpu"}]), "head: tolerations"),
        (put(*OF_GPU, "volumeMounts", value=[]), "gpu-worker: no clips, or they can be changed"),
        (put(*OF_GPU, "volumeMounts", 0, "readOnly", value=False), "gpu-worker: no clips, or they can be changed"),
        (admit_all, "the network policy infoaug-redis admits others"),
        (put("gcsFaultToleranceOptions", value=None), "a lost head loses the workers"),
        (put("gcsFaultToleranceOptions", "redisAddress", value="infoaug-redis:80"), "Redis has another port"),
        (forget_redis_on_restart, "Redis keeps nothing"),
        (give_redis_no_password, "Redis and Ray have other passwords"),
        (send_telemetry, "MLFLOW_DISABLE_TELEMETRY is not true"),
    ],
)
def test_a_broken_manifest_is_found(breaks: Callable[[list[Config]], None], complaint: str | None) -> None:
    documents = copy.deepcopy(manifest())
    breaks(documents)
    if complaint is None:
        with pytest.raises(KeyError):
            as_the_autoscaler_reads(documents)
    else:
        assert complaint in manifest_complaints(documents, RAY)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("token: " + "0123456789abcdef" * 2, "holds what looks like: token"),
        ("kind: Ingress", "exposes by Ingress"),
        ("INFOAUG_STORE: elsewhere", "INFOAUG_STORE is named 2 times"),
    ],
)
def test_what_a_manifest_must_not_hold_is_found(line: str, complaint: str) -> None:
    assert complaint in manifest_complaints(manifest(), RAY, f"{TEXT['kuberay']}\n---\n{line}\n")
