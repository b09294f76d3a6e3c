"""Report: what came out of an experiment, as one self-contained HTML page and as a table for the terminal."""

import importlib.metadata
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table
from rich.text import Text

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.reporting.page import template, without_passwords
from infoaug.orchestrator.reporting.statistics import Summary, percent, points, summary

PACKAGES = ("infoaug", "numpy", "opencv-python-headless", "npeet-plus", "scikit-learn", "timm", "torch", "ray")
STAGES = {"extract": "windows", "score": "windows", "pretrain": "epochs", "evaluate": "data sets"}  # what each counts


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers may depend on, as installed here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Report:
    """All that is told of an experiment.

    Attributes:
        name: of the experiment.
        created: when, ISO 8601.
        config_yaml: the resolved config.
        results: accuracies (shares, 0–1), a mapping for each data set and seed; see `accuracies`.
        domains: PNG bytes of the figure of each cross-domain data set, by its name.
        counts: how many patches there are (`patches`), were tracked through every frame (`tracked`), have a `twin`, or
            have none for one of the reasons.
        ledger: what became of every clip: `clip_id`, `status`, `reason`, `frames` and `windows`.
        times: by stage, the `seconds` it took and how many of its units were `computed` or `resumed`.
        history: every epoch's metrics.
        pictures: PNG bytes; `accuracy`, `reasons` and `training` where they are there.
        examples: by title (a clip and window), its pictures: `tracks`, `mutual-information`, `twins`, `reasons`.
        packages: versions, by name.
    """

    name: str
    created: str
    config_yaml: str
    results: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    ledger: Sequence[Mapping[str, Any]]
    times: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    domains: Mapping[str, bytes] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=versions)


@dataclass(frozen=True)
class Accuracy:
    """One data set and metric over all seeds, in shares, 0–1; `difference` is trained less floor within each seed."""

    dataset: str  # its name, for a path the last part
    metric: str
    seeds: int
    trained: Summary
    floor: Summary
    difference: Summary
    chance: float | None  # one over the number of classes, where that is known


def accuracies(results: Sequence[Mapping[str, Any]]) -> list[Accuracy]:
    """Evaluation results, one for each data set and seed, as one row for each data set and metric.

    Args:
        results: mappings with `dataset`, `knn`, `probe`, `floor_knn`, `floor_probe` (shares, 0–1) and maybe `classes`.
    """
    rows = []
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        ours = [r for r in results if r["dataset"] == dataset]
        name = label(ours[0])
        chance = 1 / ours[0]["classes"] if ours[0].get("classes") else None
        for key, metric in (("knn", "kNN"), ("probe", "linear probe")):
            trained, floor = (np.array([r[prefix + key] for r in ours], float) for prefix in ("", "floor_"))
            summaries = (summary(trained), summary(floor), summary(trained - floor))
            rows.append(Accuracy(name, metric, len(ours), *summaries, chance))
    return rows


def label(result: Mapping[str, Any]) -> str:
    """What a data set is called: the last part of a path, and whether it is synthetic or cross-domain."""
    if result["dataset"] == "scenes":
        return "scenes (synthetic)"
    return Path(result["dataset"]).name + (" (cross-domain)" if "domains" in result else "")


def page(report: Report) -> str:
    """The report as one HTML page that needs nothing beside it; user names and passwords in URLs are left out.

    Raises:
        pydantic.ValidationError: `config_yaml` is no experiment's config.
    """
    config_yaml = without_passwords(report.config_yaml)
    config = ExperimentConfig.model_validate(yaml.safe_load(config_yaml))
    patches = report.counts.get("patches", 0)
    clips = {status: sum(row["status"] == status for row in report.ledger) for status in ("ok", "partial", "failed")}
    return _TEMPLATE.render(
        report=report,
        config=config,
        config_yaml=config_yaml,
        command=f"infoaug run {shlex.quote(report.name + '.yaml')}",
        rows=accuracies(report.results),
        seeds=seeds_in_words(report.results),
        clips=clips,
        frames=sum(row.get("frames") or 0 for row in report.ledger),
        windows=sum(len(row["windows"] or ()) for row in report.ledger),
        share=lambda name: f"{report.counts.get(name, 0) / patches:.0%}" if patches else "–",
        lost=[row for row in report.ledger if row["status"] != "ok"],
        stages=STAGES,
        total=sum(stage["seconds"] for stage in report.times.values()),
    )


def terminal_table(report: Report) -> Table:
    """The table of accuracies for the terminal."""
    caption = f"difference in points; {seeds_in_words(report.results)}"
    table = Table(title=Text(f"{report.name}: top-1 accuracy"), caption=caption)
    for column in ("data set", "metric"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", "random-init floor", "difference"):
        table.add_column(column, justify="right")
    for row in accuracies(report.results):
        numbers = percent(row.trained), percent(row.floor), points(row.difference)
        table.add_row(Text(row.dataset), row.metric, *numbers)
    return table


def seeds_in_words(results: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds the accuracies are of, and what that allows to say."""
    seeds = {row.seeds for row in accuracies(results)}
    if not seeds:
        return "nothing was evaluated"
    if seeds == {1}:
        return "one seed: no interval"
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"mean of {count} seeds ± 95 % interval"


_CAPTIONS = {
    "domains": "Accuracy of a linear probe on the trained backbone (on the untrained one), fitted on the row’s domain "
    "and tested on the column’s. Off the diagonal that is another domain, whole, and the mean is the cross-domain "
    "accuracy; on the diagonal it is the held-out fifth of the same domain.",
    "accuracy": "Top-1 accuracy of the trained backbone and of the same backbone untrained.",
    "reasons": "How many patches have a twin, and why the others have none.",
    "training": "Loss and throughput by epoch. The total is the views’ loss plus the weighted loss of the twins.",
    "tracks": "Tracks of the patches on the window’s first frame.",
    "mutual-information": "Mutual information of the patches’ trajectories.",
    "twins": "Patches beside their twins, highest mutual information first.",
}


_TEMPLATE = template("report.html", _CAPTIONS)
