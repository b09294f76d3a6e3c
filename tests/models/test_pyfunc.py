"""A backbone as a graph of PyTorch, or none where its code cannot be traced or its weights would be pickled."""

import zipfile
from pathlib import Path

import pytest
import torch

from infoaug.models import pyfunc
from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet18", 16, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16]).eval()


def test_the_graph_gives_the_features_of_any_number_of_images(tmp_path: Path) -> None:
    backbone, path = small(), tmp_path / "model.pt2"
    assert pyfunc.save_exported(backbone, 16, path)
    graph = torch.export.load(path).module()
    for count in (1, 3):
        images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
        expected = backbone(Augment.of(backbone).normalise(images))
        assert torch.allclose(graph(images), expected, atol=1e-6)


def test_a_backbone_that_cannot_be_traced_has_none(tmp_path: Path) -> None:
    backbone = small()
    real = backbone.forward
    backbone.forward = lambda x: real(x) if x.sum() > 0 else real(-x)
    assert not pyfunc.save_exported(backbone, 16, tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("told", [None, '{"config": {"a": {"use_pickle": true}}}'])
def test_pickled_weights_are_not_kept(told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(_: object, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data/weights/0.pt", "x")
            if told:
                archive.writestr("model/data/weights/model_weights_config.json", told)

    monkeypatch.setattr(torch.export, "save", save)
    assert not pyfunc.save_exported(small(), 16, tmp_path / "model.pt2")
    assert not [*tmp_path.iterdir()]
