"""Workers on demand where no spot instance is to be had: with Ray's own autoscaler, and a cloud that refuses."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from botocore.exceptions import ClientError
from ray.autoscaler import tags as ray_tags
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import CloudInstanceUpdater
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeState, NodeStatus

from tests.clusters.cluster_checks import ROOT, SPOT, Config, check_by_ray, read

SCRIPT = ROOT / "clusters/spot_first.py"
spot_first = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def aws_error(code: str) -> Exception:
    """What Ray's provider for AWS raises."""
    return NodeLaunchException(code, "A sentence for people.", None)


def gcp_error(code: str) -> Exception:
    """What Ray's provider for GCP raises when an operation ended with an error."""
    return Exception({"errors": [{"code": code, "message": "A sentence for people."}]})


NO_CAPACITY = {"aws": aws_error("InsufficientInstanceCapacity"), "gcp": gcp_error("ZONE_RESOURCE_POOL_EXHAUSTED")}


class Refuses:
    """One of Ray's node providers, for a cloud that has so many spot instances and no more."""

    def __init__(self, kind: str, spot: int = 0) -> None:
        self.kind, self.spot = kind, spot
        self.asked: list[str] = []
        head = {ray_tags.TAG_RAY_NODE_KIND: "head", ray_tags.TAG_RAY_USER_NODE_TYPE: "head"}
        self.nodes: dict[str, dict[str, str]] = {"head": head}

    def non_terminated_nodes(self, _: dict[str, str]) -> list[str]:
        return list(self.nodes)

    def node_tags(self, node: str) -> dict[str, str]:
        return self.nodes[node]

    def is_running(self, _: str) -> bool:
        return True

    def create_node(self, node_config: Config, tags: dict[str, str], count: int) -> dict[str, Any]:
        spot = SPOT[self.kind](node_config)
        self.asked.append(f"{tags.get(ray_tags.TAG_RAY_USER_NODE_TYPE)} {'spot' if spot else 'on demand'}")
        if spot and count > self.spot:
            raise NO_CAPACITY[self.kind]
        self.spot -= count if spot else 0
        made = {f"node-{len(self.nodes) + n}": dict(tags) for n in range(count)}
        self.nodes |= made
        return made

    def create_node_with_resources_and_labels(
        self, node_config: Config, tags: dict[str, str], count: int, *_: Any
    ) -> dict[str, Any]:
        return self.create_node(node_config, tags, count)


class AtOnce:
    """In place of the threads in which the cloud is asked."""

    def submit(self, ask: Callable[..., None], *what: Any) -> None:
        ask(*what)


def autoscale(config: Config, provider: Refuses, gpus: int, rounds: int) -> None:
    """Rounds of Ray's autoscaler v2, without a cluster, while so many tasks wait for a GPU each."""
    prepared = check_by_ray(config)
    scaling = AutoscalingConfig(prepared, skip_content_hash=True)
    reader, monitor = MagicMock(), CloudResourceMonitor()
    reader.get_cached_autoscaling_config.return_value = scaling
    cloud = NodeProviderAdapter(provider, reader)
    cloud._main_executor = cloud._node_launcher_executors = AtOnce()
    storage = InstanceStorage(cluster_id="test", storage=InMemoryStorage())
    manager = InstanceManager(storage, [CloudInstanceUpdater(cloud), monitor])
    resources = {"node:__internal_head__": 1.0}
    head = NodeState(
        node_id=b"h" * 28,
        instance_id="head",
        ray_node_type_name="head",
        status=NodeStatus.RUNNING,
        node_state_version=1,
        total_resources=resources,
        available_resources=resources,
    )
    for version in range(1, rounds + 1):
        state = ClusterResourceState(cluster_resource_state_version=version, node_states=[head])
        waiting = [ResourceRequestUtil.make({"GPU": 1}) for _ in range(gpus)]
        state.pending_resource_requests.extend(ResourceRequestUtil.group_by_count(waiting))
        Reconciler.reconcile(
            instance_manager=manager,
            scheduler=ResourceDemandScheduler(MagicMock()),
            cloud_provider=cloud,
            cloud_resource_monitor=monitor,
            ray_cluster_resource_state=state,
            non_terminated_cloud_instances=cloud.get_non_terminated(),
            cloud_provider_errors=cloud.poll_errors(),
            ray_install_errors=[],
            ray_stop_errors=[],
            autoscaling_config=scaling,
        )


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_a_refused_spot_worker_comes_on_demand(kind: str) -> None:
    provider = spot_first.spot_first(Refuses)(kind, spot=1)
    autoscale(read(kind), provider, gpus=2, rounds=4)
    types = sorted(tags[ray_tags.TAG_RAY_USER_NODE_TYPE] for tags in provider.nodes.values())
    assert types == ["gpu_worker", "gpu_worker", "head"]
    assert provider.asked == ["gpu_worker spot", "gpu_worker spot", "gpu_worker on demand"]


def test_ray_alone_asks_for_a_refused_spot_worker_for_ever() -> None:
    """If this fails, Ray does it by itself: two node types with `priority` can take the place of spot_first.py."""
    config = read("aws")
    nodes = config["available_node_types"]
    on_demand = {**nodes["gpu_worker"], "node_config": spot_first.on_demand(nodes["gpu_worker"]["node_config"])}
    nodes["gpu_worker"] |= {"priority": 1}
    nodes["gpu_on_demand"] = {**on_demand, "priority": 0}
    provider = Refuses("aws")
    autoscale(config, provider, gpus=1, rounds=6)
    assert set(provider.asked) == {"gpu_worker spot"}
    assert len(provider.asked) > 2


def test_the_provider_tells_of_all_that_it_has_made() -> None:
    provider = spot_first.spot_first(Refuses)("aws", spot=1)
    made = provider.create_node({"InstanceMarketOptions": {"MarketType": "spot"}}, {}, 3)
    assert len(made) == 3
    assert provider.nodes.items() >= made.items()


def test_what_is_refused_on_demand_too_is_an_error() -> None:
    class HasNothing(Refuses):
        def create_node(self, node_config: Config, tags: dict[str, str], count: int) -> dict[str, Any]:
            raise aws_error("VcpuLimitExceeded")

    provider = spot_first.spot_first(HasNothing)("aws")
    for node_config in ({"InstanceMarketOptions": {"MarketType": "spot"}}, {"InstanceType": "m6i.xlarge"}):
        with pytest.raises(NodeLaunchException, match="VcpuLimitExceeded"):
            provider.create_node(node_config, {}, 1)


HTTP_403 = (  # as googleapiclient's HttpError is printed
    "<HttpError 403 when requesting https://compute.googleapis.com/compute/v1/… returned \"Quota 'PREEMPTIBLE_CPUS' "
    "exceeded.  Limit: 0.0 in region us-west1.\". Details: \"[{'message': '…', 'domain': 'usageLimits', "
    "'reason': '%s'}]\">"
)


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (aws_error("InsufficientInstanceCapacity"), True),
        (aws_error("MaxSpotInstanceCountExceeded"), True),
        (aws_error("SpotMaxPriceTooLow"), True),
        (ClientError({"Error": {"Code": "VcpuLimitExceeded", "Message": "…"}}, "RunInstances"), True),
        (gcp_error("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"), True),
        (gcp_error("QUOTA_EXCEEDED"), True),
        (Exception(HTTP_403 % "quotaExceeded"), True),
        (aws_error("AuthFailure.ServiceLinkedRoleCreationNotPermitted"), False),  # the account has no spot role
        (aws_error("UnauthorizedOperation"), False),
        (aws_error("InvalidAMIID.NotFound"), False),
        (aws_error("RequestLimitExceeded"), False),  # asked too often
        (ClientError({"Error": {"Code": "ExpiredToken", "Message": "…"}}, "RunInstances"), False),
        (gcp_error("PERMISSION_DENIED"), False),
        (Exception(HTTP_403 % "rateLimitExceeded"), False),
        (ConnectionError("Name or service not known"), False),
        (KeyError("SubnetIds"), False),
    ],
)
def test_only_a_lack_of_capacity_or_quota_makes_a_worker_on_demand(
    error: Exception, refusal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []

    class Fails:
        def create_node(self, node_config: Config, tags: dict[str, str], count: int) -> dict[str, Any]:
            asked.append("InstanceMarketOptions" in node_config)
            if asked[-1]:
                raise error
            return {"node-1": {}}

    provider = spot_first.spot_first(Fails)()
    node_config = {"InstanceMarketOptions": {"MarketType": "spot"}}
    if refusal:
        assert provider.create_node(node_config, {}, 1) == {"node-1": {}}
        assert asked == [True, False]
    else:
        with pytest.raises(type(error)):
            provider.create_node(node_config, {}, 1)
        assert asked == [True]
        assert "another reason than capacity or quota" in caplog.text and str(error) in caplog.text


def test_workers_that_started_before_an_error_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class FailsLater(Refuses):
        def create_node(self, node_config: Config, tags: dict[str, str], count: int) -> dict[str, Any]:
            if len(self.nodes) > 2:  # the head, and two
                raise aws_error("UnauthorizedOperation")
            return super().create_node(node_config, tags, count)

    provider = spot_first.spot_first(FailsLater)("aws", spot=3)
    made = provider.create_node({"InstanceMarketOptions": {"MarketType": "spot"}}, {}, 3)
    assert [*made] == [*provider.nodes][1:]
    assert len(made) == 2
    assert "UnauthorizedOperation" in caplog.text


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_on_demand_is_the_same_machine(kind: str) -> None:
    for node in read(kind)["available_node_types"].values():
        config = node["node_config"]
        plain = spot_first.on_demand(config)
        assert not SPOT[kind](plain)
        assert {key: plain[key] for key in plain if key != "scheduling"}.items() <= config.items()
        assert spot_first.on_demand(plain) == plain
    if kind == "gcp":
        assert plain["scheduling"] == {"onHostMaintenance": "TERMINATE"}, "as a machine with a GPU must have it"


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_the_heads_autoscaler_gets_the_same_config_with_this_provider(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    left = check_by_ray(read(kind))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(left), encoding="utf-8")
    runpy.run_path(str(SCRIPT), run_name="__main__")
    (start,) = read(kind)["head_start_ray_commands"]
    (name,) = (word.rpartition("/")[2] for word in start.split() if word.startswith("--autoscaling-config=~/"))
    written = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    assert written.pop("provider") == {**left.pop("provider"), "type": "external", "module": f"spot_first.{kind}"}
    assert written == left


@pytest.mark.parametrize(("kind", "name"), [("aws", "AWSNodeProvider"), ("gcp", "GCPNodeProvider")])
def test_the_provider_is_rays_own_but_for_what_it_creates(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Callable[..., Any] = type(name, (), {"__init__": lambda self, config, cluster: None})
    module = SimpleNamespace(**{name: made})
    monkeypatch.setitem(sys.modules, f"ray.autoscaler._private.{kind}.node_provider", module)
    provider = getattr(spot_first, kind)({}, "infoaug")
    assert isinstance(provider, made)
    assert type(provider).create_node is not getattr(made, "create_node", None)
