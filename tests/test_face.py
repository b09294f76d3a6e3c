"""`import infoaug`: light until used, documented, and with the defaults of the command."""

import inspect
import json
import pydoc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import infoaug
from infoaug.orchestrator import experiment
from infoaug.orchestrator.config import ExperimentConfig, ExtractConfig, ScoreConfig
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.sweep.config import SweepConfig

MODULES = ("frameworks", "scenes")
FUNCTIONS = sorted(set(infoaug.__all__) - set(MODULES))
SWEEP = {"sweep.grid": {"policy": ["none", "random"]}}
# A window of a rendered scene in a second or two.
SMALL: dict[str, Any] = {"extract.window": 24, "extract.spacing": 32, "extract.patch_size": 32}
SMALL |= {"extract.image_size": 16, "score.surrogates": 50}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered clip of 30 frames of 160 × 128 pixels."""
    path: Path = tmp_path_factory.mktemp("clips") / "scene.avi"
    infoaug.scenes.write(infoaug.scenes.render(0, frames=30, sprites=4, height=128, width=160, size=32), path)
    return path


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after some code."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


# ---- the module


def test_import_loads_no_library() -> None:
    heavy = {"cv2", "matplotlib", "mlflow", "numba", "numpy", "pydantic", "ray", "scipy", "torch", "yaml"}
    loaded = loaded_by("import infoaug; dir(infoaug); infoaug.__version__")
    assert "infoaug" in loaded
    assert not loaded & heavy


def test_estimators_work_without_ray_and_mlflow() -> None:
    loaded = loaded_by("import infoaug; infoaug.p_values; infoaug.find_twins; infoaug.track; infoaug.read_clip")
    assert {"numpy", "cv2"} <= loaded
    assert not loaded & {"ray", "mlflow"}


def test_functions_of_the_command_load_nothing_until_they_are_called() -> None:
    loaded = loaded_by("from infoaug import run, sweep, compare, inspect, load_config")
    assert not loaded & {"cv2", "mlflow", "numpy", "ray", "torch"}


def test_a_config_is_read_without_the_libraries_that_run_it() -> None:
    loaded = loaded_by("import infoaug; infoaug.load_config(None, {'score.k': 3})")
    assert not loaded & {"cv2", "mlflow", "numba", "ray", "torch"}


@pytest.mark.parametrize(("command", "settings"), [("run", {}), ("sweep", SWEEP)])
def test_a_dry_run_loads_neither_ray_nor_mlflow(command: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """PyTorch and timm it does load: it builds the models to check them, and counts their operations."""
    config = tmp_path / "config.yaml"
    layers = {"pretrain.backbone_settings": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}}
    small = {"store": str(tmp_path / "store"), "extract.image_size": 16, **layers, **settings}
    config.write_text("name: dry")
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    arguments = [command, str(config), "--dry-run", *sets]
    loaded = loaded_by(f"from infoaug.orchestrator.cli import app\napp({arguments!r}, standalone_mode=False)")
    assert "torch" in loaded
    assert not loaded & {"mlflow", "ray", "matplotlib", "numba", "sklearn", "optuna"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_a_readable_signature_and_a_docstring(name: str) -> None:
    function = getattr(infoaug, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert len(inspect.getdoc(function) or "") > 100
    signature = str(inspect.signature(function))
    assert "Union[" not in signature
    assert "dtype[" not in signature


@pytest.mark.parametrize("name", MODULES)
def test_a_module_names_its_functions(name: str) -> None:
    module = getattr(infoaug, name)
    assert inspect.ismodule(module)
    assert all(callable(getattr(module, function)) for function in module.__all__)


def test_dir_and_help_show_every_name() -> None:
    assert set(infoaug.__all__) <= set(dir(infoaug))
    text = pydoc.render_doc(infoaug, renderer=pydoc.plaintext)
    for name in FUNCTIONS:
        assert f"    {name}(" in text
    assert all(name in (infoaug.__doc__ or "") for name in infoaug.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="twin_finder"):
        infoaug.twin_finder  # noqa: B018


# ---- defaults


@pytest.mark.parametrize("name", ["mutual_information", "pairwise_mutual_information", "p_values"])
def test_estimates_have_the_defaults_of_the_score_stage(name: str) -> None:
    function, settings = getattr(infoaug, name), ScoreConfig()
    assert default(function, "k") == settings.k
    assert default(function, "estimator") == settings.estimator
    assert default(function, "theiler") == settings.theiler


def test_the_null_and_the_twins_have_the_defaults_of_the_score_stage() -> None:
    settings = ScoreConfig()
    assert default(infoaug.p_values, "surrogates") == settings.surrogates
    for name in ("policy", "alpha", "candidates", "seed"):
        assert default(infoaug.find_twins, name) == getattr(settings, name), name
    assert default(infoaug.find_twins, "min_distance") == 0  # it may not know where the patches are


def test_reading_and_tracking_have_the_defaults_of_the_extract_stage() -> None:
    settings = ExtractConfig()
    assert default(infoaug.track, "method") == settings.tracker
    assert default(infoaug.track, "forward_backward") == settings.forward_backward
    assert default(infoaug.read_clip, "max_bytes") == settings.max_window_mb << 20


def test_run_does_all_stages_by_default() -> None:
    assert default(infoaug.run, "stages") == experiment.STAGES


def test_a_window_without_settings_is_extracted_by_the_defaults(clip: Path) -> None:
    frames = infoaug.read_clip(clip, 0, 8)
    columns, expected = infoaug.extract_window(frames), infoaug.extract_window(frames, ExtractConfig())
    assert columns.keys() == expected.keys()
    assert all(np.array_equal(columns[name], expected[name]) for name in columns)


# ---- inspect


def test_inspect_gives_the_arrays_of_a_window(clip: Path) -> None:
    window = infoaug.inspect(clip, settings=SMALL)
    count = 4 * 5  # patches
    assert window.position.shape == window.camera.shape == (count, 24, 2)
    assert window.position.dtype == window.camera.dtype == np.float32
    assert window.visible.shape == (count, 24)
    assert window.visible.dtype == bool
    assert window.images.shape == (count, 16, 16, 3)
    assert window.images.dtype == np.uint8
    assert window.mutual_information.shape == (count, count)
    assert window.p_values is not None
    assert window.p_values.shape == (count, count)
    twin = window.twins.index >= 0
    assert twin.tolist() == [not reason for reason in window.twins.reason]


def test_inspect_takes_settings_in_every_form(clip: Path) -> None:
    texts = [f"{key}={value}" for key, value in SMALL.items()]
    windows = [infoaug.inspect(str(clip), 0, s) for s in (SMALL, texts, infoaug.load_config(None, SMALL))]
    for window in windows[1:]:
        assert np.array_equal(window.mutual_information, windows[0].mutual_information, equal_nan=True)
        assert np.array_equal(window.twins.index, windows[0].twins.index)


def test_inspect_without_a_test_has_no_p_values(clip: Path) -> None:
    assert infoaug.inspect(clip, settings=SMALL | {"score.surrogates": 0}).p_values is None


@pytest.mark.parametrize(
    ("window", "settings"),
    [
        (1, SMALL),  # 30 frames are one window of 24
        (0, SMALL | {"extract.window": 64}),
        (0, SMALL | {"extract.patch_size": 512}),
    ],
)
def test_a_window_that_cannot_be_inspected_is_refused_with_the_clip_s_name(
    clip: Path, window: int, settings: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"scene\.avi"):
        infoaug.inspect(clip, window, settings)


def test_a_clip_that_is_missing_or_broken_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    for name in ("missing.mp4", "broken.mp4"):
        with pytest.raises(UsageError, match=name):
            infoaug.inspect(tmp_path / name)


# ---- configs


def test_overrides_are_texts_or_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: mine\nscore: {k: 7}\n", encoding="utf-8")
    texts = infoaug.load_config(file, ["score.alpha=0.1", "clips.path=videos"])
    mapping = infoaug.load_config(str(file), {"score.alpha": 0.1, "clips.path": Path("videos")})
    assert texts == mapping
    assert (texts.name, texts.score.k, texts.score.alpha) == ("mine", 7, 0.1)
    assert infoaug.load_config() == ExperimentConfig()


def test_a_config_with_a_section_sweep_is_a_sweep() -> None:
    assert type(infoaug.load_config(None, SWEEP)) is SweepConfig
    assert type(infoaug.load_config(None, {"score.k": 3})) is ExperimentConfig


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"score.kk": 3}, r"score\.k"),
        ({"score.k": "many"}, r"score\.k"),
        (["score.k"], "key=value"),
        ({3: 4}, "3"),
        ({"score.k": 3, "score.k.x": 4}, "'k' is a setting"),
    ],
)
def test_a_wrong_override_is_refused_with_the_setting_s_name(overrides: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        infoaug.load_config(None, overrides)


def test_a_config_that_is_missing_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        infoaug.run(tmp_path / "absent.yaml")


def test_run_and_sweep_refuse_each_other_s_config_and_unknown_stages() -> None:
    with pytest.raises(UsageError, match=r"infoaug\.sweep"):
        infoaug.run(infoaug.load_config(None, SWEEP))
    with pytest.raises(UsageError, match=r"infoaug\.run"):
        infoaug.sweep(infoaug.load_config())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="train"):
        infoaug.run(infoaug.load_config(), ["train"])
