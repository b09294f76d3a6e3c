"""What a file that makes a cluster must keep and neither Ray nor Kubernetes checks: tests break it on purpose."""

import copy
import re
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

Config = dict[str, Any]

ROOT = Path(__file__).parents[2]
FILES = {
    "aws": ROOT / "cluster.yaml",
    "gcp": ROOT / "clusters/gcp.yaml",
    "local": ROOT / "clusters/local.yaml",
    "kuberay": ROOT / "clusters/kuberay.yaml",
}
TEXT = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
RAY_UP = ("aws", "gcp", "local")
PLACEHOLDERS = {
    "aws": {"IMAGE", "AMI_ID", "HEAD_PROFILE", "WORKER_PROFILE", "BUCKET"},
    "gcp": {"IMAGE", "PROJECT_ID", "IMAGE_FAMILY", "WORKER_ACCOUNT", "BUCKET"},
    "local": {"HEAD_ADDRESS", "WORKER_1_ADDRESS", "WORKER_2_ADDRESS", "SSH_USER", "SSH_KEY", "SHARED", "INTERFACE"},
    "kuberay": {"BUCKET", "IMAGE", "CLASS"},
}
# Of what a cloud's API takes, all that the files need; Ray passes node_config on unread.
NODE_KEYS = {
    "aws": {
        "BlockDeviceMappings",
        "IamInstanceProfile",
        "ImageId",
        "InstanceMarketOptions",
        "InstanceType",
        "MetadataOptions",
    },
    "gcp": {"disks", "machineType", "scheduling", "serviceAccounts"},
}
SPOT = {
    "aws": lambda node: node.get("InstanceMarketOptions") == {"MarketType": "spot"},
    "gcp": lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT",
}
SECRETS = {
    "access key": r"\b(AKIA|ASIA)[0-9A-Z]{12,}",
    "secret key": r"(?i)secret_?(access_?)?key(?!Ref)",
    "private key": r"-----BEGIN",
    "account id": r"\b\d{12}\b",
    "resource name": r"\barn:aws",
    "service account": r"@[\w-]+\.iam\.gserviceaccount\.com",
    "image id": r"\bami-[0-9a-f]{8,}",
    "token": r"\b[0-9a-fA-F]{32,}\b",
}
NAMED_ONCE = ("INFOAUG_STORE", "MLFLOW_TRACKING_URI", "BUCKET")
ENVIRONMENT = ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0", "MLFLOW_DISABLE_TELEMETRY=true")
FIRST_KEY = r"^(?=cluster_name:|apiVersion:)"


def read(name: str) -> Config:
    """A `ray up` file."""
    return yaml.safe_load(TEXT[name])


def parts(text: str) -> tuple[str, str]:
    """The comment at the top of a file, and the rest without comments."""
    top, body = re.split(FIRST_KEY, text, maxsplit=1, flags=re.MULTILINE)
    return top, re.sub(r"(^|\s)#.*$", "", body, flags=re.MULTILINE)


def check_by_ray(config: Config) -> Config:
    """What `ray up` does with a file before it speaks to the cloud; raises what Ray raises."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def said_too_much(text: str, once: tuple[str, ...] = NAMED_ONCE) -> list[str]:
    """Secrets, open ports, and what must be named in one place of a file."""
    found = [f"holds what looks like: {what}" for what, pattern in SECRETS.items() if re.search(pattern, text)]
    if "0.0.0.0" in text or "::/0" in text:
        found.append("opens a port to everybody")
    body = parts(text)[1]
    return found + [f"{name} is named {body.count(name)} times" for name in once if body.count(name) > 1]


def complaints(config: Config, text: str | None = None) -> list[str]:
    """What is wrong with a `ray up` file although Ray takes it."""
    kind = config["provider"]["type"]
    found = said_too_much(text or TEXT[kind]) + _environment(config) + _starts(config)
    return found + ([] if kind == "local" else _nodes(config, kind) + _container(config))


def _environment(config: Config) -> list[str]:
    written = [command for command in config["setup_commands"] if command.endswith("> ~/infoaug.env")]
    if len(written) != 1:
        return [f"{len(written)} commands write infoaug.env"]
    wanted = (*ENVIRONMENT, "INFOAUG_STORE=", "MLFLOW_TRACKING_URI=")
    if config["provider"]["type"] == "local":
        wanted += ("GLOO_SOCKET_IFNAME=",)
    found = [f"infoaug.env: {setting} is missing" for setting in wanted if f" {setting}" not in written[0]]
    commands = [c for key in config if key.endswith("_commands") for c in config[key] if c not in written]
    modes = [mode for command in commands for mode in re.findall(r"RAY_AUTH_MODE=\w*", command)]
    return found + [f"{mode} is said a second time" for mode in modes]


def _starts(config: Config) -> list[str]:
    found = []
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[key] if "ray start" in command]
        if not starts:
            found.append(f"{key}: Ray is not started")
        for command in starts:
            before = command.split("ray start")[0]
            missing = (part for part in (". ~/infoaug.env", "unset OMP_NUM_THREADS") if part not in before)
            found += [f"{key}: {part} is missing" for part in missing]
    (head,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    if "--dashboard-host=127.0.0.1" not in head:
        found.append("the dashboard is not on loopback")
    if ("RAY_enable_autoscaler_v2=0 ray start" in head) != (config["provider"]["type"] == "local"):
        found.append("autoscaler v1 is for the provider local, and for it alone")
    return found


def _container(config: Config) -> list[str]:
    docker = config.get("docker", {})
    found = [] if docker.get("image") == "IMAGE" and docker.get("pull_before_run") else ["nodes install all packages"]
    options = " ".join(docker.get("run_options", []) + docker.get("head_run_options", []))
    found += [f"the container has {option}" for option in ("--privileged", "-p ", "--user") if option in options]
    if "-v $HOME/mlflow:/home/ray/mlflow" not in docker.get("head_run_options", []):
        found.append("MLflow's database is deleted with the container")
    if not any("mkdir" in command and "~/mlflow" in command for command in config["initialization_commands"]):
        found.append("Docker makes the folder of MLflow's database for root")
    return found


def _nodes(config: Config, kind: str) -> list[str]:
    found, nodes, head = [], config["available_node_types"], config["head_node_type"]
    for name, node in nodes.items():
        found += [f"{name}: unknown {key}" for key in sorted(set(node["node_config"]) - NODE_KEYS[kind])]
        if node.get("min_workers", 0) > node.get("max_workers", config["max_workers"]):
            found.append(f"{name}: min_workers above max_workers")
        gpus = node["resources"].get("GPU", 0)
        if (gpus > 0) != (name == "gpu_worker"):
            found.append(f"{name}: {gpus} GPUs")
        if kind == "aws":
            found += [f"{name}: {what}" for what in _exposed_on_aws(node["node_config"])]
        spot = SPOT[kind](node["node_config"])
        if spot == (name == head):
            found.append(f"{name}: {'spot' if spot else 'on demand'}")
    if nodes[head]["resources"] != {"CPU": 0}:
        found.append("work lands on the head")
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    falls_back = (
        "python ~/infoaug/clusters/spot_first.py && PYTHONPATH=~/infoaug/clusters ray start",
        "--autoscaling-config=~/ray_spot_first.yaml",
    )
    if not all(part in start for part in falls_back):
        found.append("spot does not fall back to on demand")
    return found


def _exposed_on_aws(node: Config) -> list[str]:
    disks = [disk["Ebs"] for disk in node["BlockDeviceMappings"]]
    found = [] if all(disk.get("Encrypted") is True for disk in disks) else ["a disk is not encrypted"]
    asks_for_token = node.get("MetadataOptions", {}).get("HttpTokens") == "required"
    return found + ([] if asks_for_token else ["metadata without a token"])


def manifest() -> list[Config]:
    """The documents of the KubeRay manifest."""
    return list(yaml.safe_load_all(TEXT["kuberay"]))


def of_kind(documents: list[Config], kind: str, name: str | None = None) -> Config:
    """The one document of a kind, or the one of this name."""
    (found,) = (
        document for document in documents if document["kind"] == kind and name in (None, document["metadata"]["name"])
    )
    return found


def groups(documents: list[Config]) -> dict[str, Config]:
    """The head and the worker groups by name."""
    spec = of_kind(documents, "RayCluster")["spec"]
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def as_the_autoscaler_reads(documents: list[Config]) -> Config:
    """What Ray's autoscaler makes of the manifest, checked by Ray's schema; raises what Ray raises."""
    cluster = copy.deepcopy(of_kind(documents, "RayCluster"))
    cluster["metadata"]["namespace"] = "default"
    return _derive_autoscaling_config_from_ray_cr(cluster)


def manifest_complaints(documents: list[Config], ray_version: str, text: str = TEXT["kuberay"]) -> list[str]:
    """What is wrong with a KubeRay manifest, Kubernetes' own validation aside."""
    found = said_too_much(text)
    exposed = ("LoadBalancer", "NodePort", "Ingress\n", "hostPort", "hostNetwork", "externalIPs")
    dumped = parts(text)[1] + yaml.safe_dump_all(documents)
    found += [f"exposes by {word.strip()}" for word in exposed if f": {word}" in dumped or f"{word}:" in dumped]
    cluster = of_kind(documents, "RayCluster")
    spec, name = cluster["spec"], cluster["metadata"]["name"]
    data = of_kind(documents, "ConfigMap")["data"]
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    found += [f"{key} is not {value}" for key, value in wanted.items() if data.get(key) != value]
    found += [f"{key} is missing" for key in ("INFOAUG_STORE", "MLFLOW_TRACKING_URI") if not data.get(key)]
    if spec["rayVersion"] != ray_version:
        found.append(f"not Ray {ray_version}")
    if spec.get("authOptions") != {"mode": "token"} or "RAY_AUTH_MODE" in dumped:
        found.append("token authentication is not the operator's")
    if spec["headGroupSpec"].get("serviceType") != "ClusterIP":
        found.append("the head's service is not ClusterIP")
    for policy in (name, f"{name}-redis"):
        rules = of_kind(documents, "NetworkPolicy", policy)["spec"]["ingress"]
        if [s["podSelector"] for rule in rules for s in rule["from"]] != [{"matchLabels": {"ray.io/cluster": name}}]:
            found.append(f"the network policy {policy} admits others")
    found += _kept_by_redis(documents)
    return found + [f"{group}: {one}" for group, of in groups(documents).items() for one in _pod(group, of)]


def _kept_by_redis(documents: list[Config]) -> list[str]:
    options = of_kind(documents, "RayCluster")["spec"].get("gcsFaultToleranceOptions", {})
    name, _, port = options.get("redisAddress", "").partition(":")
    if not name:
        return ["a lost head loses the workers"]
    service, redis = of_kind(documents, "Service", name)["spec"], of_kind(documents, "StatefulSet", name)["spec"]
    pod = redis["template"]["spec"]
    (container,) = pod["containers"]
    found = [] if [str(p["port"]) for p in service["ports"]] == [port] else ["Redis has another port"]
    if not service["selector"].items() <= redis["template"]["metadata"]["labels"].items():
        found.append("Redis is not behind its service")
    secret = options.get("redisPassword", {}).get("valueFrom")
    if not secret or [one.get("valueFrom") for one in container.get("env", [])] != [secret]:
        found.append("Redis and Ray have other passwords")
    kept = {claim["metadata"]["name"] for claim in redis.get("volumeClaimTemplates", ())}
    if {"/data"} != {m["mountPath"] for m in container["volumeMounts"] if m["name"] in kept}:
        found.append("Redis keeps nothing")
    return found + ([] if pod["securityContext"].get("runAsNonRoot") else ["Redis may be root"])


def _pod(group: str, of: Config) -> list[str]:
    found, pod = [], of["template"]["spec"]
    (container,) = pod["containers"]
    if container["image"] != "IMAGE":
        found.append("another image")
    if container.get("envFrom") != [{"configMapRef": {"name": "infoaug"}}] or "env" in container:
        found.append("another environment")
    resources = container["resources"]
    if resources["requests"] != resources["limits"] or not {"cpu", "memory"} <= set(resources["limits"]):
        found.append("resources are not guaranteed")
    if ("nvidia.com/gpu" in resources["limits"]) != (group == "gpu-worker"):
        found.append("GPUs")
    tolerated = [toleration["key"] for toleration in pod.get("tolerations", ())]
    if ("nvidia.com/gpu" in tolerated) != (group == "gpu-worker"):
        found.append("tolerations")
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", ())}
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", ())}
    clips = mounts.get("/videos", {})
    if claims.get(clips.get("name")) != "infoaug-clips" or clips.get("readOnly", False) != (group != "head"):
        found.append("no clips, or they can be changed")
    if not pod["securityContext"].get("runAsNonRoot") or container["securityContext"].get("allowPrivilegeEscalation"):
        found.append("may be root")
    parameters = of["rayStartParams"]
    if group == "head" and parameters != {"num-cpus": "0", "dashboard-host": "127.0.0.1"}:
        found.append("works, or shows its dashboard")
    if group != "head" and of["minReplicas"] != 0:
        found.append("never goes away")
    return found
