"""Workers on demand where no spot instance is to be had, on AWS and GCP.

Read in Ray 2.60: autoscaler v2 (`ray/autoscaler/v2/scheduler.py`, `_sched_best_node`) chooses between node types that
fit equally well by their availability, then by their `priority`. But availability (`cloud_resource_monitor.py`) falls
only when an instance was given and Ray did not come up on it. A cloud that refuses raises at once, which nobody counts:
the spot type is asked for again every few seconds, for ever, while the type on demand stands by, whatever its priority
(`tests/clusters/test_spot_first.py` shows it). Autoscaler v1 records refusals, and its default scorer does not look.

So there is one node type of a kind, and its spot instance is replaced when it is asked for: the head's autoscaler runs
with Ray's own provider, of which `create_node` alone is another. `ray up` on your machine knows nothing of it. A worker
on demand stays until it is idle; every new one is tried as spot first.

Only a lack of capacity or quota is a reason for a worker on demand, which costs several times as much. Any other error,
such as a missing permission or role, would make all workers expensive without a word: it is reported.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

FROM, TO = "ray_bootstrap_config.yaml", "ray_spot_first.yaml"  # in the head's home; the first is what `ray up` leaves

# What the clouds answer when they have no spot instance of a kind, or the account's quota is used up.
REFUSALS = frozenset(
    {
        # AWS: error codes of the EC2 API.
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "UnfulfillableCapacity",
        "SpotMaxPriceTooLow",
        "MaxSpotInstanceCountExceeded",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        # Google Cloud: error codes of an operation, and the reason of a request that is refused at once.
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "QUOTA_EXCEEDED",
        "quotaExceeded",
    }
)

logger = logging.getLogger(__name__)


def is_refusal(error: Exception) -> bool:
    """Whether the cloud lacks the capacity, or the account the quota; Ray's errors contain the cloud's code."""
    return not REFUSALS.isdisjoint(re.findall(r"\w+", str(error)))


def on_demand(node_config: dict[str, Any]) -> dict[str, Any]:
    """The same machine on demand; the config itself if it already is."""
    plain = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}  # AWS
    if "scheduling" in plain:  # GCP
        of_spot = {"provisioningModel", "instanceTerminationAction", "preemptible"}
        plain["scheduling"] = {key: value for key, value in plain["scheduling"].items() if key not in of_spot}
    return plain


def spot_first(provider: type) -> type:
    """One of Ray's node providers, which creates on demand what the cloud refuses as spot.

    An error after the first worker is logged only, and the workers that were made are returned: Ray asks for the rest
    again.
    """

    class SpotFirst(provider):  # type: ignore[misc, valid-type]
        def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
            made: dict[str, Any] = {}
            for _ in range(count):  # each alone: the cloud may have some, and no more
                try:
                    made |= self._create_one(node_config, tags)
                except Exception as error:
                    if not made:
                        raise
                    logger.error("%d of %d workers started: %s", len(made), count, error)
                    break
            return made

        def _create_one(self, node_config: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
            plain = on_demand(node_config)
            try:
                return super().create_node(node_config, tags, 1) or {}
            except Exception as error:
                if plain == node_config:
                    raise
                if not is_refusal(error):
                    logger.error("no spot instance, for another reason than capacity or quota: %s", error)
                    raise
                logger.warning("no spot instance, so one on demand: %s", error)
            return super().create_node(plain, tags, 1) or {}

    return SpotFirst


def aws(provider_config: dict[str, Any], cluster_name: str) -> Any:
    """Ray's provider for AWS, spot first."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return spot_first(AWSNodeProvider)(provider_config, cluster_name)


def gcp(provider_config: dict[str, Any], cluster_name: str) -> Any:
    """Ray's provider for GCP, spot first."""
    from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

    return spot_first(GCPNodeProvider)(provider_config, cluster_name)


def main() -> None:
    """Write the head's autoscaling config anew, with the provider of this file in place of the cloud's."""
    config = json.loads((Path.home() / FROM).read_text(encoding="utf-8"))
    config["provider"] |= {"type": "external", "module": f"spot_first.{config['provider']['type']}"}
    (Path.home() / TO).write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main()
