"""A server of MLflow, on this machine and for as long as a test needs it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from infoaug.orchestrator.runtime.local_ray import free_port
from tests.integration.conftest import PATIENCE


class Server:
    """An MLflow server that comes and goes."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.begin()

    def begin(self) -> None:
        kept = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        kept += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), *kept]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
