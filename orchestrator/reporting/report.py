"""The report of an experiment: one self-contained HTML page, and a table of accuracies for the terminal."""

import importlib.metadata
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.dataset_names import titles
from infoaug.orchestrator.evaluation.metrics import METRICS, Metric
from infoaug.orchestrator.reporting import one_seed, verdict
from infoaug.orchestrator.reporting.confusion import Confusion
from infoaug.orchestrator.reporting.page import in_percent, template
from infoaug.orchestrator.reporting.statistics import Summary, percent, points, summary
from infoaug.orchestrator.reporting.verdict import Finding, Outcome

PACKAGES = ("infoaug", "numpy", "opencv-python-headless", "npeet-plus", "timm", "torch", "ray")
STAGES = {"extract": "windows", "score": "windows", "pretrain": "epochs", "evaluate": "data sets"}  # units of work
WIDE = 0.04  # of an interval of differences, in shares: more test images would show more
LOOKS = {  # headings of the pictures of what features see
    "neighbours": "Nearest neighbours of test images",
    "map": "Map of test images",
    "patches": "Nearest neighbours of patches of the video",
    "components": "Principal components of dense features",
    "masks": "Propagated masks",
}


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that can change the results."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


@dataclass(frozen=True)
class Report:
    """Content of an experiment's report.

    Attributes:
        name: the experiment's name.
        created: date and time, ISO 8601.
        config_yaml: the resolved config.
        results: accuracies (shares, 0–1), one mapping for each data set and seed; see `accuracies`.
        counts: number of patches (`patches`), of those tracked through every frame (`tracked`), of those with a `twin`,
            and of those without one, by reason.
        ledger: one row for each clip, with at least `clip_id`, `status`, `reason`, `frames` and `windows`.
        times: for each stage, the `seconds` it took and how many units of work were `computed` or `resumed`.
        history: the metrics of each epoch.
        images: what was trained on beside the video, see `pretrain.images`; empty if nothing was.
        pictures: PNG bytes of the figures `accuracy`, `reasons` and `training`; any may be missing.
        domains: PNG bytes of the figure of each cross-domain data set, by its name.
        confusions: which classes the probe confuses, by labelled data set; those that are not known are missing.
        matrices: PNG bytes of the figures of those of few classes, by data set.
        counts_files: names of the files, beside the page, with the counts of all of them, by data set.
        looks: PNG bytes of pictures of what features see, by picture (`LOOKS`), of the `trained` backbone and of the
            `baseline`, which may be missing.
        examples: PNG bytes of the pictures of a few windows, by title (clip and window) and picture (`tracks`,
            `mutual-information`, `twins`, `reasons`).
        explorers: names of the files, beside the page, with the explorers of these windows, by title; any may be
            missing.
        packages: versions of packages, by name.
    """

    name: str
    created: str
    config_yaml: str
    results: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    ledger: pa.Table
    times: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    images: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    domains: Mapping[str, bytes] = field(default_factory=dict)
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    matrices: Mapping[str, bytes] = field(default_factory=dict)
    counts_files: Mapping[str, str] = field(default_factory=dict)
    looks: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    explorers: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=versions)


@dataclass(frozen=True)
class Accuracy:
    """What was measured on one data set by one metric, over all seeds.

    Attributes:
        dataset: the data set's name, see `labels`.
        metric: the name of one of `METRICS`.
        seeds: number of seeds.
        trained: of the trained backbone, a share, 0–1.
        baseline: of the same backbone with random weights.
        difference: trained − baseline, paired within seeds.
        chance: see `Metric.chance`.
        over: what the intervals are over, with their number: `300 test images`.
        measured: the metric and the data set, in the middle of a sentence.
        kind: what the metric is.
    """

    dataset: str
    metric: str
    seeds: int
    trained: Summary
    baseline: Summary
    difference: Summary
    chance: float | None
    over: str
    measured: str
    kind: Metric


def accuracies(results: Sequence[Mapping[str, Any]]) -> list[Accuracy]:
    """Summarise evaluation results over seeds: one row for each data set and metric.

    Args:
        results: one mapping for each data set and seed, with `dataset`, those of `METRICS` that were measured on it,
            each beside that of the backbone before training (`floor_knn`; shares, 0–1), and optionally `classes` and
            `baseline`. With one seed, they have the intervals of `one_seed.summaries`.
    """
    rows, names = [], labels(results)
    for dataset, name in names.items():
        of_dataset = [r for r in results if r["dataset"] == dataset]
        classes = of_dataset[0].get("classes")
        for key in (key for key in METRICS if key in of_dataset[0]):
            trained, baseline = (np.array([r[prefix + key] for r in of_dataset], float) for prefix in ("", "floor_"))
            metric, seeds = METRICS[key], len(of_dataset)
            if seeds == 1:
                of_trained, of_baseline, difference, over = one_seed.summaries(of_dataset[0], key)
            else:
                of_trained, of_baseline, difference = map(summary, (trained, baseline, trained - baseline))
                over = f"{seeds} seeds"
            counted = seeds, of_trained, of_baseline, difference, metric.chance(classes), over
            rows.append(Accuracy(name, metric.name, *counted, metric.within(name), metric))
    return rows


def findings(results: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What training has changed on each data set, by the first of its metrics."""
    start = next((f"the {r['baseline']}" for r in results if "baseline" in r), "the untrained backbone")
    found = []
    for row in {row.dataset: row for row in reversed(accuracies(results))}.values():
        difference, interval = row.difference, row.difference.interval
        shown = None if interval is None or not all(np.isfinite(interval)) else not interval[0] <= 0 <= interval[1]
        found.append(Finding(row.measured, start, difference, shown, [row.over]))
    return found[::-1]


def conclusion(report: Report) -> tuple[str, str]:
    """The verdict on the training in one sentence, and what to try next in another."""
    found, config = findings(report.results), _config(report)
    if not found:
        return "No verdict: no data set was evaluated.", "Next: name one in evaluate.datasets."
    return verdict.sentence("this training", found), f"Next: {_next_step(found, config, len(report.ledger))}."


def _next_step(found: Sequence[Finding], config: ExperimentConfig, clips: int) -> str:
    outcomes = {finding.outcome for finding in found}
    more = f"train longer (pretrain.epochs is {config.pretrain.epochs}) or give more clips ({clips} now)"
    if Outcome.WORSE in outcomes:
        rate = config.pretrain.learning_rate
        return f"look at the loss and the features by epoch; lower pretrain.learning_rate ({rate:g}), or {more}"
    if Outcome.BETTER in outcomes and config.clips.path is None:
        return "your own clips, in clips.path; these are rendered"
    if Outcome.BETTER in outcomes:
        return "a sweep over seeds and score.policy none, which shows whether the twins have a part in this gain"
    if Outcome.NOT_SHOWN in outcomes:
        widths = {f.details[0]: b[1] - b[0] for f in found if (b := f.difference.bounds)}
        widest = max(widths, key=lambda over: widths[over], default="")
        what = "sequences" if widest.endswith("sequences") else "images"
        return more + (f", and test on more {what}, which narrows the interval" if widths.get(widest, 0) > WIDE else "")
    return "a sweep over several seeds, which gives the difference an interval"


def baseline_name(results: Sequence[Mapping[str, Any]]) -> str:
    """What the backbone before training is called: it has random weights unless the results name others."""
    return next((str(r["baseline"]) for r in results if "baseline" in r), "random-init baseline")


def labels(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name data sets: the end of each one's path, see `titles`, with a note if it is synthetic or cross-domain."""
    notes = {r["dataset"]: " (cross-domain)" if "domains" in r else "" for r in results}
    notes |= {"scenes": " (synthetic)"} if "scenes" in notes else {}
    return {name: title + notes[name] for name, title in titles(notes).items()}


def page(report: Report) -> str:
    """Render the report as one self-contained HTML page, without the secrets of URLs.

    Raises:
        pydantic.ValidationError: `config_yaml` is not the config of an experiment.
    """
    config = _config(report)
    sentence, next_step = conclusion(report)
    patches = report.counts.get("patches", 0)
    statuses = Counter(report.ledger["status"].to_pylist())
    return _TEMPLATE.render(
        report=report,
        config=config,
        verdict=sentence,
        next_step=next_step,
        command=f"infoaug run {shlex.quote(report.name + '.yaml')}",
        rows=accuracies(report.results),
        intervals=_intervals(report.results),
        without=_without_interval(report.results),
        baseline=baseline_name(report.results),
        seeds=seeds_in_words(report.results),
        clips={status: statuses[status] for status in ("ok", "partial", "failed")},
        frames=pc.sum(report.ledger["frames"]).as_py() or 0,
        windows=len(pc.list_flatten(report.ledger["windows"])),
        share=lambda name: in_percent(report.counts.get(name, 0) / patches) if patches else "–",
        incomplete=incomplete(report).select(["clip_id", "status", "reason"]).to_pylist(),
        looks=LOOKS,
        labelled=labels(report.results),
        pictured=config.evaluate.datasets[:1],
        stages=STAGES,
        total=sum(stage["seconds"] for stage in report.times.values()),
    )


def incomplete(report: Report) -> pa.Table:
    """The rows of the clips that failed, wholly or in part."""
    return report.ledger.filter(pc.not_equal(report.ledger["status"], "ok"))


def _config(report: Report) -> ExperimentConfig:
    return ExperimentConfig.model_validate(yaml.safe_load(report.config_yaml))


def terminal_table(report: Report) -> Table:
    """The table of accuracies, for the terminal."""
    caption = f"difference in percentage points; {seeds_in_words(report.results)}"
    narrow: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=Text(f"{report.name}: backbone"), caption=caption, **narrow)
    for column in ("data set", "metric"):
        table.add_column(column, no_wrap=True)
    for column in ("trained", baseline_name(report.results), "difference"):
        table.add_column(column, justify="right")
    for row in accuracies(report.results):
        numbers = percent(row.trained), percent(row.baseline), points(row.difference)
        # An interval over test images goes on a line of its own, so that 80 columns are enough.
        table.add_row(Text(row.dataset), row.metric, *(number.replace(" (", "\n(") for number in numbers))
    return table


def seeds_in_words(results: Sequence[Mapping[str, Any]]) -> str:
    """Say how many seeds the accuracies are means of, and whether they have intervals."""
    seeds = {row.seeds for row in accuracies(results)}
    if not seeds:
        return "no data set was evaluated"
    if seeds == {1}:
        over = _units([row for row in accuracies(results) if row.trained.bounds])
        return f"one seed{f'; in brackets: 95 % intervals over the {over}' if over else ': no interval'}"
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"mean of {count} seeds ± 95 % interval"


def _intervals(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the intervals of one seed are made, in words, see `one_seed.summaries`; none for several seeds."""
    bounded = [row for row in accuracies(results) if row.trained.bounds]
    shares = [row for row in bounded if row.kind.counts_images]
    boxes = [row for row in bounded if row.kind.ranks_boxes]
    others = [row for row in bounded if row not in (*shares, *boxes)]
    told = []
    if shares:
        told.append(
            "accuracies: Wilson’s; of the difference Newcombe’s for independent samples, as a rule too wide, because "
            "the images are the same"
        )
    if any("domain_images" in result for result in results) and shares:
        told.append("across domains: the same over the images of each domain tested on, the domains taken as given")
    if others:
        told.append(f"{_named(others)}: Student’s t; both backbones are compared on the same {_units(others)}")
    if boxes:
        told.append(f"{_named(boxes)}: {one_seed.JACKKNIFE}, the same for both backbones")
    return told


def _named(rows: Sequence[Accuracy]) -> str:
    return ", ".join(dict.fromkeys(row.metric for row in rows))


def _units(rows: Sequence[Accuracy]) -> str:
    """What intervals of one seed are over: `test images or sequences`."""
    units = {row.over.split(" ", 1)[1] for row in rows}
    return " or ".join(sorted(units, reverse=True))


def _without_interval(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What has no interval where another has one: metrics and data sets."""
    rows = accuracies(results)
    missing = [f"{row.metric} on {row.dataset}" for row in rows if not row.trained.interval]
    return missing if len(missing) < len(rows) else []


_CAPTIONS = {
    "domains": "Accuracy of a linear probe on the trained backbone, with that before training in brackets. Rows: "
    "the domain that the probe is trained on; columns: the domain that it is tested on. Off the diagonal the test set "
    "is the whole other domain; the mean of these cells is the cross-domain accuracy. On the diagonal it is the "
    "held-out fifth of the same domain.",
    "confusion": "Rows: the class of a test image; columns: the class that the linear probe on the trained backbone "
    "finds. Empty cells have no image.",
    "pairs": "The most frequent mistakes of the linear probe on the trained backbone. “Right” is the share of the test "
    "images of a class in which it is found. In brackets: the share in which the other class is found.",
    "accuracy": "The trained backbone and the same backbone before training.",
    "reasons": "Number of patches with a twin, and of patches without one, by reason.",
    "training": "By epoch: the loss, the view loss plus the weighted twin loss; accuracy of kNN on held-out training "
    "images, if it was measured; RankMe, the effective dimensions of the features, and their spread, of which a fall "
    "towards 0 means that they collapse; learning rate and throughput.",
    "neighbours": "Test images, each with the training images of the most similar features; the number is the cosine. "
    "✓ and a whole blue frame: the same class. ✗ and a broken orange frame: another class. The test images are drawn "
    "at random, evenly over classes, and are the same for both backbones.",
    "map": "t-SNE (perplexity 30, begun with the first two principal components) of features of unit length. Near "
    "points have similar features. Axes, sizes of groups and distances between them have no meaning. Of more than ten "
    "classes, ten are shown, evenly spread over their list.",
    "patches": "Patches that training saw, each with the most similar ones of other clips, or of other windows if "
    "there is one clip. Below: clip and window. Their classes are not known, so none is right or wrong.",
    "components": "The first three principal components of dense features as red, green and blue, computed over all "
    "frames of a column together: one colour means similar features in all of them. The colours of the two backbones "
    "do not correspond.",
    "masks": "Masks of a sequence, carried from its first frame, whose mask is given, by dense features.",
    "tracks": "Tracks of the patches, drawn on the window’s first frame.",
    "mutual-information": "Pairwise mutual information of the patches’ trajectories.",
    "twins": "Patches beside their twins, by decreasing mutual information.",
}

_TEMPLATE = template("report.html", _CAPTIONS)
