"""What lies on a store is found again: the names that configs have given to stages, runs and trials stay the same.

A name changes only with the `VERSION` of its stage, when the same config gives other numbers. `stored_names.json` has
the names since extract's version 5, which stores images of a track at several times, with version 3 of its own tracker,
and evaluate's version 3, whose probe converges. `earlier` has those before extract's version 3, which centres images on
the tracked points: nothing stored under these is found, except clips and scenes, which have kept their names.
"""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from infoaug.orchestrator import config
from infoaug.orchestrator.runtime.mlflow_runs import identity
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score
from infoaug.orchestrator.sweep import config as sweep_config
from infoaug.orchestrator.sweep import trials

CONFIGS = Path(__file__).parents[2] / "configs"
KNOWN = json.loads(Path(__file__).with_name("stored_names.json").read_text(encoding="utf-8"))
EARLIER = KNOWN.pop("earlier")
KEPT = ("source",)  # nothing in it depends on patches or classifiers
SWEEPS = ("laptop", "paper")
EXPERIMENTS = {name: (CONFIGS / "recipes" / f"{name}.yaml", []) for name in KNOWN if name not in SWEEPS} | {
    "demo": (CONFIGS / "demo.yaml", []),
    "clips": (CONFIGS / "clips.yaml", ["clips.path=/videos", "evaluate.datasets=cifar10"]),
    # Whole numbers where a setting is a real one, nested settings, and settings that say only where it runs.
    "settings": (
        None,
        [
            "clips.path=/v",
            "extract.stride=24",
            "score.policy=none",
            "score.k=4",
            "seed=3",
            "pretrain.framework=moco",
            "pretrain.framework_settings={temperature: 1, negatives: {kind: ring, outer: 0.2}, momentum: {base: 0.9}}",
            "pretrain.augment={crop_scale: [0.3, 1], flip: 0}",
            "pretrain.augment_second={blur: 1}",
            "pretrain.optimizer=lars",
            "pretrain.optimizer_settings={trust_coeff: 0.02}",
            "pretrain.backbone=vit_tiny_patch16_224",
            "pretrain.backbone_settings={depth: 2}",
            "evaluate.probe_c=2",
            "pretrain.workers=2",
        ],
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_stages_have_the_names_that_they_had(name: str) -> None:
    path, overrides = EXPERIMENTS[name]
    settings, store = config.load(path, overrides), Store("/s")
    ledger = pa.table({"clip_id": ["a"], "folder": ["a-1"], "windows": [[0, 1]]})
    extracted = extract.Extracted(extract.stage(settings, store), ledger, 0, 0)
    scored_stage = score.stage(settings, extracted)
    counted = pa.table({"patches": [0, 0]})
    scored = score.Scored(scored_stage, extracted, counted, 0, 0, settings.score.policy, 0)
    trained = pretrain.stage(settings, scored)
    assert {
        "source": extract.clips_digest(settings),
        "extract": extracted.stage.hash,
        "score": scored_stage.hash,
        "pretrain": trained.hash,
        "evaluate": evaluate.stage(settings, trained, "datasets").hash,
        "floor": evaluate.floor_stage(settings, store, "datasets").hash,
        "identity": identity(settings),
    } == KNOWN[name]


@pytest.mark.parametrize("name", KNOWN)
def test_names_of_other_numbers_are_new(name: str) -> None:
    for what, old in EARLIER[name].items():
        assert (KNOWN[name][what] == old) == (what in (*KEPT, "count")), what
    assert not {v for k, v in EARLIER[name].items() if k not in (*KEPT, "count")} & set(map(str, KNOWN[name].values()))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_and_its_trials_have_the_names_that_they_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)  # its recipes are named from there
    settings = sweep_config.load(CONFIGS / f"{name}.yaml")
    planned = trials.planned(settings)
    named = json.dumps([[trial.name, trial.identity] for trial in planned])
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    assert {"sweep": trials.identity(settings), "trials": digest, "count": len(planned)} == KNOWN[name]
