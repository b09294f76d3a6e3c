"""Made-up sweeps, and what their trials leave on a store, for the tests of sweeps without a cluster."""

from typing import Any

import pyarrow as pa

from infoaug.orchestrator import settings
from infoaug.orchestrator.runtime.store import Store
from infoaug.orchestrator.stages import evaluate, extract, pretrain, score, twin_table
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.config import SweepConfig
from infoaug.orchestrator.sweep.trials import Trial

ALL_POLICIES = ["none", "random", "nearest", "mutual-information"]
REASONS = {
    **{"lost": 10, "static": 0, "textureless": 0, "no candidate": 0},
    **{"not significant": 5, "not mutual": 0, "policy none": 0},
}


def config(experiment: dict[str, Any] | None = None, **sweep: Any) -> SweepConfig:
    """A sweep's config of these sections."""
    return settings.checked(SweepConfig, {**(experiment or {}), "sweep": sweep})


def grid(*blocks: dict[str, Any], experiment: dict[str, Any] | None = None, **sweep: Any) -> list[Trial]:
    """The trials of a grid."""
    return trials.planned(config(experiment, grid=list(blocks), **sweep))


def epoch(number: int, share_with_twin: float = 0.25, seconds: float = 3.0, **metrics: float) -> dict[str, float]:
    """What training tells of one epoch."""
    found = {"epoch": number, "seconds": seconds, "loss": 2.0 / number, "share_with_twin": share_with_twin}
    return {**found, "view_loss": 1.5 / number, "twin_loss": 1.0 / number, "images_per_second": 100.0, **metrics}


def leave_scored(trial: Trial, store: Store, patches: int = 100, clip: str = "a") -> None:
    """What extraction and scoring leave for a trial: patches of one window, a quarter of them with a twin.

    `clip` is the folder of the only clip, which its content names.
    """
    whole = {"clip_id": "a.mp4", "status": "ok", "reason": "", "folder": clip, "windows": [0], "first_frames": [0]}
    extracted = pa.Table.from_pylist([whole], schema=extract.LEDGER)
    source = extract.clips_digest(trial.config)
    store.write_table(extract.stage(trial.config, store).path(f"ledger-{source}.parquet"), extracted)
    row = {"clip_id": "a.mp4", "folder": clip, "window": 0, "reason": "", "patches": patches, "tracked": patches}
    counts = {twin_table.column(name): number for name, number in {"twin": patches // 4, **REASONS}.items()}
    place = score.stage(trial.config, extract.load(trial.config, store))
    ledger = pa.Table.from_pylist([row | counts], schema=score.LEDGER)
    store.write_table(place.path(f"ledger-{source}.parquet"), ledger)


def scored_of(trial: Trial, store: Store) -> score.Scored:
    """What `leave_scored` left for a trial."""
    return score.load(trial.config, extract.load(trial.config, store))


def leave_done(
    trial: Trial,
    store: Store,
    patches: int = 100,
    shares: tuple[float, ...] = (0.25, 0.25),
    clip: str = "a",
    **accuracies: float,
) -> None:
    """What all stages leave for a trial that has come to its end: an epoch for each share of patches with a twin."""
    leave_scored(trial, store, patches, clip)
    scored = scored_of(trial, store)
    place = pretrain.stage(trial.config, scored)
    store.write_json(place.path("history.json"), [epoch(n + 1, share) for n, share in enumerate(shares)])
    model = pretrain.load(trial.config, scored).stage
    found = {"knn": 0.5, "probe": 0.6, "floor_knn": 0.2, "floor_probe": 0.3, **accuracies}
    for name in (*trial.config.evaluate.datasets, *trial.config.evaluate.domains):
        for path in evaluate.paths(trial.config, model, name).values():
            store.write_json(path, {"dataset": name, "classes": 2, **found})
