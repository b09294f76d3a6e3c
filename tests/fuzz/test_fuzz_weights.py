"""Files of weights: damaged, of another kind or with code in them, they are refused in one sentence and run nothing."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from infoaug.estimators.geometry import depth_models
from infoaug.estimators.trackers import cotracker, weights
from infoaug.models.backbones import RECIPE_FILE, WEIGHTS_FILE, create_backbone, load_backbone, save_backbone
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.exporting import export
from tests.fuzz.hostile import check_sentence, examples, nearly

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
pytestmark = pytest.mark.usefixtures("one_thread")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, **SMALL)
    return save_backbone(backbone, tmp_path_factory.mktemp("saved"), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def attempt(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Callable[..., bool]:
    """Load a copy of the saved backbone of which some files are others; whether it was taken."""
    folder = tmp_path_factory.mktemp("damaged")

    def attempted(recipe: bytes | None = None, content: bytes | None = None) -> bool:
        (folder / RECIPE_FILE).write_bytes((saved / RECIPE_FILE).read_bytes() if recipe is None else recipe)
        (folder / WEIGHTS_FILE).write_bytes((saved / WEIGHTS_FILE).read_bytes() if content is None else content)
        try:
            backbone = load_backbone(folder)
        except ValueError as error:
            check_sentence(error)
            with pytest.raises(UsageError) as caught:
                export.find(str(folder))
            check_sentence(caught.value, folder)
            return False
        assert all(value.isfinite().all() for value in backbone.state_dict().values())
        return True

    return attempted


class WritesFile:
    """What does harm where it is unpickled: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.path, "unpickled")


def test_the_whole_one_is_loaded(attempt: Callable[..., bool]) -> None:
    assert attempt()


def test_a_pickle_called_weights_is_refused_and_not_run(
    tmp_path: Path, attempt: Callable[..., bool], saved: Path
) -> None:
    harm = tmp_path / "harm"
    plain, legacy = pickle.dumps(WritesFile(harm)), tmp_path / "legacy.pt"
    torch.save({"model": WritesFile(harm)}, tmp_path / "zip.pt")
    torch.save({"model": WritesFile(harm)}, legacy, _use_new_zipfile_serialization=False)
    pickle.loads(plain)  # noqa: S301
    assert harm.exists(), "this pickle does no harm, and the test shows nothing"
    harm.unlink()
    published = weights.Published("CoTracker", "m", "pip install m", "m", "file")
    for content in (plain, (tmp_path / "zip.pt").read_bytes(), legacy.read_bytes()):
        assert not attempt(content=content)
        assert not attempt(recipe=content)
        for name in ("weights.pt", "weights.onnx", "weights.npy", "weights.safetensors"):
            path = tmp_path / name
            path.write_bytes(content)
            recipe = {**json.loads((saved / RECIPE_FILE).read_text())}
            for setting in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"):
                value: Any = str(path) if setting == "checkpoint_path" else {"file": str(path)}
                recipe["kwargs"] = {**recipe["kwargs"], setting: value}
                attempt(recipe=json.dumps(recipe).encode())
            readers: list[Callable[[], Any]] = [
                lambda file=path: depth_models.midas(str(file)),  # type: ignore[misc]
                lambda file=path: depth_models.onnx(str(file)),  # type: ignore[misc]
                lambda file=path: weights.read_weights(str(file), published),  # type: ignore[misc]
            ]
            for read in readers:
                with pytest.raises(ValueError) as caught:
                    read()
                check_sentence(caught.value, path)
    assert not harm.exists()
    assert cotracker.track is not None


@examples(60)
@given(st.data())
def test_damaged_weights_are_loaded_or_refused(attempt: Callable[..., bool], saved: Path, data: st.DataObject) -> None:
    whole = (saved / WEIGHTS_FILE).read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    in_header = data.draw(st.booleans())
    content = data.draw(nearly(whole[:length])) + whole[length:] if in_header else data.draw(nearly(whole))
    attempt(content=content)


@examples(60)
@given(st.data())
def test_a_damaged_recipe_is_read_or_refused(attempt: Callable[..., bool], saved: Path, data: st.DataObject) -> None:
    attempt(recipe=data.draw(nearly((saved / RECIPE_FILE).read_bytes())))


@examples(80)
@given(st.sampled_from(["name", "image_size", "kwargs", "num_features", "mean", "std", "more"]), values)
@example("name", ["resnet18"])
@example("name", "hf-hub:timm/resnet18")
@example("name", "x" * 5000)
@example("image_size", 10**9)
@example("image_size", True)
@example("kwargs", [])
@example("kwargs", {"layers": [10**9] * 4})
@example("kwargs", {"layers": [0, 0, 0, 0]})
@example("kwargs", {"channels": [10**5] * 4})
@example("kwargs", {"channels": [20_000] * 4})
@example("kwargs", {"in_chans": 0})
@example("kwargs", {"block": "basic"})
@example("kwargs", {"features_only": True})
@example("kwargs", {"act_layer": "os.system"})
@example("kwargs", {"self": 1})
@example("kwargs", {"image_size": 1})
@example("mean", [float("nan")] * 3)
@example("mean", [0.5])
@example("std", [0.0, 0.0, 0.0])
@example("std", [10**400] * 3)
def test_any_value_in_a_recipe_is_taken_or_refused(
    attempt: Callable[..., bool], saved: Path, key: str, value: Any
) -> None:
    recipe = {**json.loads((saved / RECIPE_FILE).read_text()), key: value}
    attempt(recipe=json.dumps(recipe).encode())


@pytest.mark.parametrize(
    "text", ["[" * 50_000, '{"a":' * 50_000, "null", "[]", "1", '"x"', "{}", "9" * 5000, "\ufeff{}"]
)
def test_any_json_is_no_recipe(attempt: Callable[..., bool], text: str) -> None:
    assert not attempt(recipe=text.encode())


def test_weights_that_are_no_numbers_are_refused(attempt: Callable[..., bool], saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / WEIGHTS_FILE)
    tensors["conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    assert not attempt(content=(tmp_path / "nan.safetensors").read_bytes())


@examples(60)
@given(st.data())
def test_a_damaged_checkpoint_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "weights.pt"
    torch.save({"model": {"a": torch.zeros(3, 4), "b": torch.ones(2)}}, path)
    path.write_bytes(data.draw(nearly(path.read_bytes())))
    published = weights.Published("CoTracker", "m", "pip install m", "m", "file")
    readers: list[Callable[[], Any]] = [
        lambda: depth_models.midas(str(path)),
        lambda: depth_models.onnx(str(path)),
        lambda: weights.read_weights(str(path), published),
    ]
    for read in readers:
        try:
            read()
        except ValueError as error:
            check_sentence(error, path)
