"""How the workers of a training on one machine find each other: by a file.

PyTorch's own way is a server that listens on all addresses of the machine.
"""

from contextlib import ExitStack
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from infoaug.orchestrator.runtime import scratch


def torch_config() -> TorchConfig:
    """How the workers of a training on the connected cluster meet: in a file if it listens on the loopback address."""
    return _FileConfig() if ray.util.get_node_ip_address() == "127.0.0.1" else TorchConfig()


class _FileConfig(TorchConfig):
    """For workers of one machine."""

    @property
    def backend_cls(self) -> type["_FileBackend"]:
        return _FileBackend


class _FileBackend(_TorchBackend):
    """Runs in the controller of a training, on the same machine."""

    folders = ExitStack()

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Make a process group of new workers."""
        self.folders.close()  # of workers that failed
        self.folders = ExitStack()
        path = self.folders.enter_context(scratch.folder()) / "meet"
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        worker_group.execute(_set_torch_distributed_env_vars)
        group = {
            "backend": "nccl" if gpus else "gloo",
            "world_size": len(worker_group),
            "init_method": f"file://{path}",
        }
        ray.get([
            worker_group.execute_single_async(
                rank, _setup_torch_process_group, world_rank=rank, timeout_s=backend_config.timeout_s, **group
            )
            for rank in range(len(worker_group))
        ])  # fmt: skip

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Delete the file."""
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            self.folders.close()
