"""What several of these test files need."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def in_another_process() -> Callable[[str], str]:
    """Run Python code in a process of its own, with another hash seed; what it printed."""

    def run(code: str) -> str:
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": "123"}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return ran.stdout.strip()

    return run
