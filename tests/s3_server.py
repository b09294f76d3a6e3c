"""A server that speaks S3, on this machine and for as long as a test needs it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from infoaug.orchestrator.runtime.local_ray import free_port

BUCKET = "infoaug-tests"
ACCOUNT = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Server:
    """A running server with one empty bucket; whoever uses it needs `ACCOUNT` in the environment."""

    process: "subprocess.Popen[bytes]"
    port: int

    def url(self, path: str, bucket: str = BUCKET, port: int | None = None) -> str:
        """URL of a path in a bucket, as pyarrow, Ray and the store take it."""
        endpoint = quote(f"127.0.0.1:{port or self.port}", safe="")
        return f"s3://{bucket}/{path}?endpoint_override={endpoint}&scheme=http&region=us-east-1"

    def objects(self, folder: str) -> set[str]:
        """Every object that really is there below a folder, by its key."""
        found = self._system().get_file_info(
            fs.FileSelector(f"{BUCKET}/{folder}", recursive=True, allow_not_found=True)
        )
        return {info.path.removeprefix(f"{BUCKET}/") for info in found if info.is_file}

    def clear(self) -> None:
        """Delete all objects."""
        self._system().delete_dir_contents(BUCKET)

    def end(self) -> None:
        """Kill the server."""
        self.process.kill()
        self.process.wait()

    def _system(self, **more: bool) -> fs.S3FileSystem:
        place = {"endpoint_override": f"127.0.0.1:{self.port}", "scheme": "http", "region": "us-east-1"}
        return fs.S3FileSystem(**place, **more)


def start() -> Server:
    """Start a server on a free port of loopback and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | ACCOUNT)
    server = Server(process, port)
    end = time.monotonic() + 60
    while True:
        try:
            server._system(allow_bucket_creation=True).create_dir(BUCKET)
            return server
        except (OSError, pa.ArrowException):
            if time.monotonic() > end or process.poll() is not None:
                server.end()
                raise
            time.sleep(0.2)
