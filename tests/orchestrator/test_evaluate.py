"""What is found wrong before hours of training."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orchestrator import datasets
from orchestrator.config import load
from orchestrator.errors import UsageError
from orchestrator.evaluate import check

# ---- before hours of training


def test_check_asks_for_a_set_as_it_will_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    targets = [0] * 6
    targets[order[-1]] = 1  # the first images of the fixed shuffle are of one class
    data = np.zeros((6, 16, 16, 3), np.uint8)
    monkeypatch.setitem(datasets.TORCHVISION, "cifar10", lambda *_: SimpleNamespace(data=data, targets=targets))
    check(load(None, ["evaluate.datasets=cifar10", "extract.image_size=16"]))
    with pytest.raises(UsageError, match="at least two classes"):
        check(load(None, ["evaluate.datasets=cifar10", "extract.image_size=16", "evaluate.limit=2"]))


def test_check_names_what_is_not_there_and_takes_what_is(tmp_path: Path) -> None:
    check(load(None, [f"evaluate.datasets=[scenes, '{tmp_path}']"]))
    with pytest.raises(UsageError, match="no data set 'imagenet'"):
        check(load(None, ["evaluate.datasets=[scenes, imagenet]"]))
    absent = ["evaluate.datasets=stl10", "evaluate.download=false", f"evaluate.data={tmp_path}"]
    with pytest.raises(UsageError, match="data set 'stl10' is not in"):
        check(load(None, absent))
