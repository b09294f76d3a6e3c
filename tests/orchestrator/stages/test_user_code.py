"""Trackers of the user's own in an extraction, without Ray."""

import sys
from pathlib import Path

import numpy as np
import pytest

from infoaug.models import own_code
from infoaug.orchestrator import api, submit
from infoaug.orchestrator.config import ExperimentConfig, load
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import extract, user_code
from infoaug.orchestrator.synthetic import scenes

CODE = """
import numpy as np
from infoaug.estimators.trackers.tracks import Tracks

built = []

def still(frames, queries, forward_backward=1.0):
    position = np.repeat(queries[:, None], len(frames), axis=1)
    return Tracks(position + np.arange(len(frames))[:, None] * [forward_backward, 0], np.ones(position.shape[:2], bool))

class Still:
    def __init__(self, weights=None):
        built.append(weights)

    def __call__(self, frames, queries):
        return still(frames, queries, 0)

class Choosy:
    def __init__(self, path):
        pass

class NoCall:
    pass

def alone(frames):
    return None

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of trackers in the current folder."""
    name = f"trackers_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(own_code, "_loaded", set())
    user_code._own_tracker.cache_clear()
    return name


def config(tracker: str, *overrides: str) -> ExperimentConfig:
    return load(None, [f"extract.tracker={tracker}", "extract.window=12", "extract.camera=translation", *overrides])


def test_a_function_tracks_the_patches_of_a_window(module: str) -> None:
    frames = scenes.render(1, frames=12).frames
    found = extract.extract_window(frames, config(f"{module}:still", "extract.forward_backward=0.25").extract)
    moved = found["position"] - found["position"][:, :1]
    assert np.allclose(moved[..., 0], np.arange(12) * 0.25, atol=1e-4) and not moved[..., 1].any()


def test_a_class_is_built_once_with_its_weights_and_inspect_uses_it(module: str, tmp_path: Path) -> None:
    scenes.write(scenes.render(1, frames=24), tmp_path / "clip.avi")
    made = config(f"{module}:Still", "extract.tracker_weights=file.pt", "score.surrogates=0")
    for window in (0, 1):
        seen = api.inspect(tmp_path / "clip.avi", window, made)
        assert not (seen.position - seen.position[:, :1]).any()
    assert sys.modules[module].built == ["file.pt"]


def test_the_code_of_a_tracker_is_part_of_the_extractions_name_and_reading_a_config_runs_none(
    module: str, tmp_path: Path
) -> None:
    made, store = config(f"{module}:still"), Store(str(tmp_path / "store"))
    assert module not in sys.modules
    before = extract.stage(made, store)
    assert len(before.key["tracker_code"]) == 16 and "tracker_code" not in extract.stage(load(None), store).key
    assert own_code.sources() == [tmp_path / f"{module}.py"], "what a cluster is sent"
    (tmp_path / f"{module}.py").write_text(CODE + "\n# changed")
    assert extract.stage(made, store).hash != before.hash


def test_a_job_is_sent_the_code_of_a_tracker(module: str, tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    submit.pack(config(f"{module}:still"), tmp_path / "sent")
    assert (tmp_path / "sent" / f"{module}.py").read_text() == CODE
    with pytest.raises(UsageError, match=r"extract\.tracker: .*'a_tracker_that_is_gone:track' cannot be imported"):
        submit.pack(config("a_tracker_that_is_gone:track"), tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Still2", r"has no 'Still2': did you mean 'Still'\?"),
        (
            "NoCall",
            r"is no tracker: name a function that is called as track\(frames, queries\), or a class whose objects",
        ),
        ("alone", "is no tracker"),
        ("number", "is no tracker"),
        (
            "Choosy",
            r"cannot be built \(TypeError: .*'path'.*\): correct its __init__, which is given nothing but weights",
        ),
    ],
)
def test_a_name_that_is_no_tracker_is_refused_before_anything_is_started(module: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^extract\.tracker: .*{message}") as refused:
        extract.check(config(f"{module}:{name}"))
    assert "\n" not in str(refused.value)


def test_a_module_that_is_not_there_and_a_name_of_another_form_are_refused() -> None:
    with pytest.raises(UsageError, match=r"extract\.tracker: .*cannot be imported .* current folder"):
        extract.check(config("no_module_of_mine:track"))
    with pytest.raises(UsageError, match=r"extract: .*not of the form module:Class, or module:function"):
        config("'a:b:c'")
    with pytest.raises(UsageError, match="unknown tracker 'raft', "):
        config("raft")
