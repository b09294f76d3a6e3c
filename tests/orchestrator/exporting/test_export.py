"""Exports load without infoaug, give the same features, and replace other exports only when asked."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from infoaug.models.backbones import create_backbone, load_backbone, save_backbone
from infoaug.orchestrator import cli
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.exporting import formats
from infoaug.orchestrator.exporting.export import Exported, export, find
from infoaug.orchestrator.exporting.formats import FILES
from infoaug.orchestrator.runtime import mlflow_lookup

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
BACKBONES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "small-images": ("resnet18", 32, SMALL),  # another convolution, no max-pool
    "deep-stem": ("resnet14t", 32, {"channels": (8, 8, 16, 16)}),  # another stride, no max-pool
    "as-timm-builds-it": ("resnet18", 128, SMALL),
    "two-poolings": ("resnet18", 128, {**SMALL, "global_pool": "catavgmax"}),
    "vit": ("vit_tiny_patch16_224", 32, {"depth": 2, "embed_dim": 24, "num_heads": 2}),
    "vit-of-any-size": (
        "vit_tiny_patch16_224",
        32,
        {"depth": 2, "embed_dim": 24, "num_heads": 2, "dynamic_img_size": True},
    ),
}
ONNX = importlib.util.find_spec("onnx") is not None
FORMATS = ["timm", "torchscript", *(["onnx"] if ONNX else [])]

# Runs what the command prints, for every export named in a JSON file, where infoaug cannot be imported.
ELSEWHERE = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("infoaug", "models", "orchestrator", "estimators"):
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy, torch
torch.set_num_threads(1)
for job in json.loads(Path(sys.argv[1]).read_text()):
    images = numpy.load(job["images"])
    scope = {"images": images if job["to"] == "onnx" else torch.from_numpy(images)}
    with torch.no_grad():
        exec("\\n".join(job["loading"]), scope)
    numpy.save(job["features"], numpy.asarray(scope["features"]))
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks here are so small that a second thread costs more than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for every backbone, with batch statistics of some images."""
    root = tmp_path_factory.mktemp("saved")
    for name, (architecture, size, settings) in BACKBONES.items():
        torch.manual_seed(0)
        backbone = create_backbone(architecture, size, **settings)
        backbone(torch.rand(16, 3, size, size))
        save_backbone(backbone, root / name, mean=MEAN, std=STD)
    return root


@pytest.fixture(scope="module")
def exports(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Exported]:
    root = tmp_path_factory.mktemp("exports")
    return {(name, to): export(str(saved / name), to, root / name) for name in BACKBONES for to in FORMATS}


@pytest.fixture(scope="module")
def elsewhere(
    exports: dict[tuple[str, str], Exported], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Features f32[5, D] of every export, of `pixels`, by the printed lines, in a process without infoaug."""
    place = tmp_path_factory.mktemp("elsewhere")
    jobs = []
    for (name, to), exported in exports.items():
        images, features = place / f"{name}-{to}-images.npy", place / f"{name}-{to}.npy"
        np.save(images, (normalised(pixels(name)) if to == "timm" else pixels(name)).numpy())
        jobs.append({"to": to, "loading": exported.loading, "images": str(images), "features": str(features)})
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(place / "jobs.json")]
    subprocess.run(command, cwd=place, check=True, timeout=120)
    return {(name, to): np.load(place / f"{name}-{to}.npy") for name, to in exports}


def pixels(name: str) -> torch.Tensor:
    """Five images, pixels in 0–1: a number that no export was traced with."""
    size = BACKBONES[name][1]
    return torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(7))


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def expected(saved: Path, name: str) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(load_backbone(saved / name)(normalised(pixels(name))))


# ---- what an export computes


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("to", "tolerance"), [("timm", 1e-6), ("torchscript", 1e-5), ("onnx", 1e-4)])
def test_the_printed_lines_give_the_same_features_without_infoaug(
    name: str, to: str, tolerance: float, saved: Path, elsewhere: dict[tuple[str, str], NDArray[np.float32]]
) -> None:
    if to not in FORMATS:
        pytest.skip("the package onnx is not installed")
    features = expected(saved, name)
    assert features.std() > 0.01
    np.testing.assert_allclose(elsewhere[name, to], features, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("small-images", ["model.safetensors", "load.py"]),
        ("deep-stem", ["model.safetensors", "load.py"]),
        ("as-timm-builds-it", ["model.safetensors", "config.json"]),
        ("vit", ["model.safetensors", "config.json"]),
    ],
)
def test_only_a_stem_that_timm_cannot_describe_needs_a_loader(
    name: str, files: list[str], exports: dict[tuple[str, str], Exported]
) -> None:
    assert [path.name for path in exports[name, "timm"].files] == files


def test_timm_finds_the_normalisation_and_can_add_a_classifier(exports: dict[tuple[str, str], Exported]) -> None:
    import timm

    folder = exports["vit", "timm"].files[0].parent
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["mean"]), tuple(data["std"]), data["input_size"]) == (MEAN, STD, (3, 32, 32))


def test_exports_hold_no_path_of_the_machine(exports: dict[tuple[str, str], Exported]) -> None:
    here = [str(Path(torch.__file__).parents[1]).encode(), str(Path(__file__).parents[2]).encode()]
    for exported in exports.values():
        for path in exported.files:
            assert not [found for found in here if found in path.read_bytes()], path


def test_the_same_export_in_another_process_has_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path; "
        "from infoaug.orchestrator.exporting.formats import write; from infoaug.models.backbones import load_backbone; "
        f"[write(load_backbone({str(saved / 'vit')!r}), to, Path(sys.argv[1])) for to in {FORMATS}]"
    )
    started = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        started.append(subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment))
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()} for seed in ("1", "2"))
    assert one == two
    assert {name for to in FORMATS for name in FILES[to] if name != "load.py"} <= one.keys()


# ---- what cannot be exported


class OfBatch(nn.Module):
    """Gives features that depend on how many images there are, which a trace does not keep."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.recipe = backbone, backbone.recipe

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images) * len(images)


def test_a_network_that_a_trace_does_not_capture_is_refused(saved: Path, tmp_path: Path) -> None:
    network = OfBatch(load_backbone(saved / "vit"))
    with pytest.raises(StageError, match="would give other features"):
        formats.write(network, "torchscript", tmp_path)


def test_a_network_whose_arguments_timm_does_not_rebuild_is_refused(saved: Path, tmp_path: Path) -> None:
    backbone: Any = load_backbone(saved / "as-timm-builds-it")
    backbone.layer4 = nn.Identity()
    with pytest.raises(StageError, match="cannot export 'resnet18' to timm"):
        formats.write(backbone, "timm", tmp_path)


def test_a_deep_stem_of_another_stride_is_never_offered_to_timm_itself(
    exports: dict[tuple[str, str], Exported],
) -> None:
    import timm

    folder = exports["deep-stem", "timm"].files[0].parent
    with pytest.raises(FileNotFoundError):  # its weights would fit, its features would be others
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_without_onnx_the_error_names_the_package_to_install(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'infoaug\[export\]'"):
        export(str(saved / "vit"), "onnx", tmp_path)


def test_an_unknown_format_is_refused_with_the_known_ones(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'pickle': give one of timm, torchscript, onnx"):
        export(str(saved / "vit"), "pickle", tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": None}, "does not say how its input is normalised"),
        ({"std": ["1", "2", "3"]}, "mean and std must be finite numbers"),
    ],
)
def test_a_backbone_without_its_normalisation_is_refused(
    change: dict[str, Any], told: str, saved: Path, tmp_path: Path
) -> None:
    save_backbone(load_backbone(saved / "vit"), tmp_path, mean=MEAN, std=STD)
    recipe = json.loads((tmp_path / "backbone.json").read_text())
    (tmp_path / "backbone.json").write_text(json.dumps({**recipe, **change}))
    with pytest.raises(UsageError, match=told):
        find(str(tmp_path))


def test_broken_weights_are_refused_with_the_name_that_the_user_gave(saved: Path, tmp_path: Path) -> None:
    save_backbone(load_backbone(saved / "vit"), tmp_path, mean=MEAN, std=STD)
    (tmp_path / "backbone.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UsageError, match=f"the backbone of '{tmp_path}' cannot be used"):
        find(str(tmp_path))


# ---- where an export goes


def test_another_export_is_replaced_only_by_force_and_entirely(saved: Path, tmp_path: Path) -> None:
    export(str(saved / "as-timm-builds-it"), "timm", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=r"holds another export \(model.safetensors, config.json\).*--force"):
        export(str(saved / "small-images"), "timm", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export(str(saved / "small-images"), "timm", tmp_path, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "load.py", "notes.txt"}


def test_an_interrupted_export_is_completed(saved: Path, tmp_path: Path) -> None:
    whole = export(str(saved / "vit"), "timm", tmp_path)
    (tmp_path / "config.json").unlink()
    assert export(str(saved / "vit"), "timm", tmp_path) == whole
    assert (tmp_path / "config.json").exists()


def test_exporting_to_a_file_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        export(str(saved / "vit"), "timm", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# ---- the command


def infoaug(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["infoaug", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_exports_to_a_folder_of_the_run_s_name_and_prints_how_to_load_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # again, it finds the same
        assert infoaug(monkeypatch, "export", str(saved / "vit")) == 0
        told = capsys.readouterr().out
        assert told.splitlines()[:2] == ["export/vit/model.safetensors", "export/vit/config.json"]
        assert '    backbone = timm.create_model("local-dir:export/vit", pretrained=True).eval()\n' in told
    assert {path.name for path in tmp_path.iterdir()} == {"export", "logs"}


def test_the_normalisation_is_printed_as_it_was_written(tmp_path: Path) -> None:
    backbone = create_backbone("resnet18", 32, **SMALL).eval()
    save_backbone(backbone, tmp_path, mean=tuple(map(float, np.float32(MEAN))), std=tuple(map(float, np.float32(STD))))
    last = formats.loading(load_backbone(tmp_path), Path("load.py"))[-1]
    assert last.endswith(f"less {MEAN} over {STD}")


def test_the_name_of_a_config_means_the_config_and_not_a_run_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_lookup, "backbone", lambda *_: pytest.fail("looked for a run"))
    with pytest.raises(StageError, match="run `infoaug extract` with the same config first"):
        export("demo", "timm", overrides=["scenes.count=2"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nothing-of-this-name"], ["'nothing-of-this-name' is no config file", "MLflow", "has no run"]),
        (["export", "missing.yaml"], ["'missing.yaml' does not exist"]),
        (["export", "x", "--to", "keras"], ["keras", "torchscript"]),
    ],
)
def test_an_unknown_run_ends_with_code_2_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert infoaug(monkeypatch, *arguments) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_the_command_offers_all_formats() -> None:
    assert [each.value for each in cli.Format] == list(formats.FILES)
