"""Workers on demand where no spot instance is to be had, on AWS and GCP.

Read in Ray 2.60: autoscaler v2 (`ray/autoscaler/v2/scheduler.py`, `_sched_best_node`) chooses between node types that
fit equally well by their availability, then by their `priority`. But availability (`cloud_resource_monitor.py`) falls
only when an instance was given and Ray did not come up on it. A cloud that refuses raises at once, which nobody counts:
the spot type is asked for again every few seconds, for ever, while the type on demand stands by, whatever its priority
(`tests/clusters/test_spot_first.py` shows it). Autoscaler v1 records refusals, and its default scorer does not look.

So there is one node type of a kind, and its spot instance is replaced when it is asked for: the head's autoscaler runs
with Ray's own provider, of which `create_node` alone is another. `ray up` on your machine knows nothing of it. A worker
on demand stays until it is idle; every new one is tried as spot first.
"""

import json
import logging
from pathlib import Path
from typing import Any

FROM, TO = "ray_bootstrap_config.yaml", "ray_spot_first.yaml"  # in the head's home; the first is what `ray up` leaves

logger = logging.getLogger(__name__)


def on_demand(node_config: dict[str, Any]) -> dict[str, Any]:
    """The same machine on demand; the config itself if it already is."""
    plain = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}  # AWS
    if "scheduling" in plain:  # GCP
        of_spot = {"provisioningModel", "instanceTerminationAction", "preemptible"}
        plain["scheduling"] = {key: value for key, value in plain["scheduling"].items() if key not in of_spot}
    return plain


def spot_first(provider: type) -> type:
    """One of Ray's node providers, which creates on demand what the cloud refuses as spot."""

    class SpotFirst(provider):  # type: ignore[misc, valid-type]
        def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
            made: dict[str, Any] = {}
            for _ in range(count):  # each alone: the cloud may have some, and no more
                try:
                    one = super().create_node(node_config, tags, 1)
                except Exception as refusal:
                    plain = on_demand(node_config)
                    if plain == node_config:
                        raise
                    logger.warning("no spot instance, so one on demand: %s", refusal)
                    one = super().create_node(plain, tags, 1)
                made |= one or {}
            return made

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
