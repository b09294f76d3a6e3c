"""Results of the study (docs/study.md): tables, tests, and what DAVIS's masks say of twins and features.

    infoaug sweep configs/study.yaml && python benchmarks/study.py configs/study.yaml [SECTION.KEY=VALUE …]
    python benchmarks/study.py --render    # docs/study.md and its figure from benchmarks/results/study.json

It reads the trials that are complete, measures their backbones on DAVIS, and writes both into
benchmarks/results/study.json, from which the results of the page are made: those of grids that are complete. What the
file has is not measured again.

* `AUC`: of patches of one window of a DAVIS sequence, how often are two on the object closer (cosine of the features of
  their first crops) than one on it and one off it? Only patches that share no pixel are compared. Mean over windows,
  then over sequences; 50 % is chance.
* `quality` of a policy: share of the twins on the same object, of patches with a twin on a DAVIS object.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from gpu import commit
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from study_gpu import RESULTS as TRAINED
from study_gpu import key_of
from torch import nn

from infoaug.models.backbones import load_backbone
from infoaug.orchestrator.comparison.arms import POLICIES, policy_name
from infoaug.orchestrator.config import ExperimentConfig
from infoaug.orchestrator.evaluation import probes
from infoaug.orchestrator.reporting.statistics import Summary, paired, percent, points, probability, summary
from infoaug.orchestrator.runtime.store import Store, arrays
from infoaug.orchestrator.stages import evaluate, extract, initial_weights, pretrain, score
from infoaug.orchestrator.sweep import config as sweep_config
from infoaug.orchestrator.sweep import trials
from infoaug.orchestrator.sweep.compared import outcome_of
from infoaug.orchestrator.sweep.trials import Trial

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "study.json"
PAGE, FIGURE = ROOT / "docs" / "study.md", ROOT / "docs" / "study.png"
BEGIN, END = "<!-- results, by benchmarks/study.py -->", "<!-- end of results -->"
MEASURES = {"cifar10 probe": "CIFAR-10 probe", "cifar10 knn": "kNN", "tinyimagenet probe": "Tiny-ImageNet probe"}
MEASURES |= {"tinyimagenet knn": "kNN", "auc": "DAVIS AUC"}
PRIMARY = "cifar10 probe"
REFERENCES = ("none", "later", "nearest", "random")
MI = "mutual-information"
GRIDS = "ABCDEEFG"  # the letter of each grid of the config, in its order
TITLES = {
    "A": "the claim",
    "B": "further controls",
    "C": "Barlow Twins",
    "D": "more and fewer rows with a twin",
    "E": "with images in half of each batch, and images alone",
    "F": "from the image-trained backbone",
    "G": "four times the steps",
}

Rows = list[dict[str, Any]]


# ---- measuring


def planned(config: sweep_config.SweepConfig) -> list[tuple[str, Trial]]:
    """The trials of all grids, each with the letter of its grid."""
    found = []
    for letter, grid in zip(GRIDS, config.sweep.grid, strict=True):
        alone = config.model_copy(update={"sweep": config.sweep.model_copy(update={"grid": [grid]})})
        found += [(letter, trial) for trial in trials.planned(alone)]
    return found


def arm(grid: str, trial: Trial) -> dict[str, Any]:
    """What tells a trial from others."""
    asked = trial.config.pretrain
    return {
        "grid": grid,
        "name": trial.name,
        "framework": asked.framework,
        "policy": trial.config.score.policy,
        "seed": trial.config.seed,
        "twin_share": asked.twin_share,
        "image_share": asked.image_share if asked.stills else 0.0,
        "init": asked.init,
    }


def collect(config: sweep_config.SweepConfig, known: Rows, trained: Path | None) -> Rows:
    """A row for each complete trial of each grid, with the untrained backbone's measures; `known` ones are kept.

    The trials are those of the sweep, or those that `study_gpu.py` left in the folder `trained`.
    """
    store, have = Store(config.store), {(row["grid"], row["name"]): row for row in known}
    read = partial(_of_folder, trained, json.loads((trained / TRAINED).read_text())) if trained else _of_store
    every = planned(config)
    windows = davis(every[0][1].config, store)  # all trials share them
    floors: dict[tuple[str | None, int], dict[str, float]] = {}
    rows: Rows = []
    for grid, trial in every:
        row = have.get((grid, trial.name)) or read(grid, trial)
        if row is None:
            continue
        if "auc" not in row:
            backbone = row.pop("backbone")
            row["auc"] = None if backbone is None else separation(backbone, windows)
            start = row["init"], row["seed"]
            if start not in floors:
                before = initial_weights.backbone(trial.config) or evaluate.untrained_backbone(trial.config)
                floors[start] = separation(before, windows)
            row["floor auc"] = floors[start]
            print(grid, trial.name, row[PRIMARY], flush=True)
        rows.append(row)
    return rows


def _of_store(grid: str, trial: Trial) -> dict[str, Any] | None:
    """A trial of the sweep; None if it is not complete."""
    scored = scored_for(trial.config)
    outcome = outcome_of(trial, scored)
    if outcome is None:
        return None
    history = pretrain.load(trial.config, scored).history
    row = arm(grid, trial) | {"seconds": outcome.seconds} | _shares(history)
    for name, result in outcome.results.items():
        for metric in ("probe", "knn"):
            row[f"{Path(name).name} {metric}"] = result[metric]
            row[f"floor {Path(name).name} {metric}"] = result[f"floor_{metric}"]
    return row | {"backbone": evaluate.trained_backbone(pretrain.stage(trial.config, scored))}


def _of_folder(folder: Path, results: Mapping[str, Any], grid: str, trial: Trial) -> dict[str, Any] | None:
    """A trial that `study_gpu.py` trained; None if it is not complete. A backbone that is not there is None."""
    key = key_of(grid, trial.name)
    floor = results.get("floor-init" if trial.config.pretrain.init else f"floor-{trial.config.seed}", {})
    measures = [measure for measure in MEASURES if measure != "auc"]
    if not all(measure in of for measure in measures for of in (results.get(key, {}), floor)):
        return None
    history = results[key]["history"]
    row = arm(grid, trial) | {"seconds": sum(epoch["seconds"] for epoch in history)} | _shares(history)
    row |= {name: results[key][name] for name in measures} | {f"floor {name}": floor[name] for name in measures}
    saved = folder / key
    return row | {"backbone": load_backbone(saved) if saved.exists() else None}


def _shares(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {"epochs": len(history), "share_with_twin": float(np.mean([of["share_with_twin"] for of in history]))}


@cache
def _read(config: str) -> score.Scored:
    common = ExperimentConfig.model_validate_json(config)
    return score.load(common, extract.load(common, Store(common.store)))


def scored_for(config: ExperimentConfig) -> score.Scored:
    """The patches of a config, which are read once for all trials of the study."""
    rest = ExperimentConfig()
    scoring = config.score.model_copy(update={"policy": rest.score.policy})
    common = config.model_copy(update={"pretrain": rest.pretrain, "score": scoring, "seed": 0})
    return _read(common.model_dump_json()).for_training(config)


def davis(config: ExperimentConfig, store: Store) -> dict[str, list[tuple[Any, Any, Any]]]:
    """By sequence, for each of its windows: first crops u8[N, 3, S, S], what each patch is on, int[N], and which pairs
    share no pixel, bool[N, N]; of the patches that have been seen with a mask."""
    scored, found = scored_for(config), {}
    for clip, folder, window in scored.extracted.windows:
        table = store.read_table(score.twins_path(scored.stage, folder, window), ["object"])
        on = table["object"].fill_null(-1).to_numpy()
        path = extract.trajectory_path(scored.extracted.stage, folder, window)
        table = store.read_table(path, [*extract.CROPS, "position"])
        crops, at = extract.crops_of(table)
        first = crops[np.cumsum((at >= 0).sum(1)) - (at >= 0).sum(1)]
        points = arrays(table, "position")[:, 0, :2]
        apart = np.abs(points[:, None] - points).max(-1) >= config.extract.patch_size
        if len(np.unique(_compared(on, apart)[2])) == 2:
            found.setdefault(clip, []).append((torch.from_numpy(first.transpose(0, 3, 1, 2).copy()), on, apart))
    return found


def separation(backbone: nn.Module, windows: Mapping[str, Sequence[tuple[Any, Any, Any]]]) -> dict[str, float]:
    """The AUC of each sequence, see above."""
    return {clip: float(np.mean([_auc(backbone, *window) for window in of])) for clip, of in windows.items()}


def _auc(backbone: nn.Module, images: torch.Tensor, on: NDArray[np.int32], apart: NDArray[np.bool_]) -> float:
    features = probes.features(backbone, images, 512)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    one, other, same = _compared(on, apart)
    return float(roc_auc_score(same, (unit @ unit.T)[one, other]))


def _compared(on: NDArray[np.int32], apart: NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    """The P pairs of patches that are compared, two int[P], and whether both are on the object, bool[P]."""
    known, object_ = on >= 0, on > 0
    pairs = np.triu(apart, 1) & (object_[:, None] | object_) & known[:, None] & known
    one, other = np.nonzero(pairs)
    return one, other, on[one] == on[other]


def qualities(config: sweep_config.SweepConfig) -> dict[str, dict[str, float]]:
    """By policy, the share of twins on the same object of patches on a DAVIS object, and their number: first draw."""
    store, found = Store(config.store), {}
    by_policy = {trial.config.score.policy: trial.config for trial in reversed(trials.planned(config))}
    for policy in (name for name in POLICIES if name in by_policy and name != "none"):
        scored = scored_for(by_policy[policy])
        objects, clips = [], []
        for clip, folder, window in scored.extracted.windows:
            table = store.read_table(score.twins_path(scored.stage, folder, window), ["object"])
            objects.append(table["object"].fill_null(-1).to_numpy())
            clips += [clip] * len(table)
        on, twin, clip_of = np.concatenate(objects), np.concatenate(twins_among_all(scored)), np.array(clips)
        asked = np.flatnonzero((twin >= 0) & (on > 0))
        same = (on[asked] == on[twin[asked]]) & (clip_of[asked] == clip_of[twin[asked]])
        found[policy] = {"same object": float(same.mean()), "patches": len(asked)}
    return found


def twins_among_all(scored: score.Scored) -> list[NDArray[np.int64]]:
    """The twins of each window's patches, as rows among the patches of all windows; −1 for none."""
    elsewhere, start = score.twins_elsewhere(scored), 0
    if elsewhere:
        return elsewhere
    found = []
    for _, folder, window in scored.extracted.windows:
        own = score.twins_of(scored, folder, window)[0].astype(np.int64)
        found.append(np.where(own >= 0, own + start, -1))
        start += len(own)
    return found


# ---- rendering


def values(rows: Rows, key: str, **arm: Any) -> dict[int, float]:
    """The measure of an arm by seed, where there is one; AUCs are averaged over sequences."""
    chosen = [row for row in rows if _is(row, arm) and row[key] is not None]
    return {row["seed"]: _mean(row[key]) for row in chosen}


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected over a family (Holm 1979)."""
    order, corrected, largest = np.argsort(p), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def page(rows: Rows, quality: Mapping[str, Mapping[str, float]]) -> str:
    """The results as Markdown."""
    text = []
    for letter, title in TITLES.items():
        of = [row for row in rows if row["grid"] == letter]
        if of:
            text += [f"### {letter}: {title}", "", *_grid(of, [row for row in rows if row["grid"] == "A"]), ""]
    if tests := _claim([row for row in rows if row["grid"] == "A"]):
        text += ["### The claim: grid A", "", *tests, ""]
    if settings := _settings(rows):
        text += ["### Over all settings (exploratory)", "", *settings, ""]
    if quality:
        text += ["### Quality of the pairs", "", *_table(["policy", "same object", "patches on an object"], [
            [policy_name(name), f"{100 * of['same object']:.1f} %", str(of["patches"])] for name, of in quality.items()
        ]), ""]  # fmt: skip
    return "\n".join(text)


def _arms(rows: Rows) -> list[dict[str, Any]]:
    names = ("framework", "policy", "twin_share", "image_share", "init")
    return [dict(zip(names, arm, strict=True)) for arm in dict.fromkeys(tuple(r[n] for n in names) for r in rows)]


def _grid(rows: Rows, claim: Rows) -> list[str]:
    """An arm a row: its measures, and its difference from the arm without twins of the same setting."""
    lines = []
    for arm in _arms(rows):
        without = {**arm, "policy": "none"}
        pool = rows if any(_is(row, without) for row in rows) else claim
        gain = paired(values(rows, PRIMARY, **arm), values(pool, PRIMARY, **without))
        seeds = len(values(rows, PRIMARY, **arm))
        # A mean over other seeds than the row's would not be comparable.
        cells = [
            [*found.values()] if len(found) == seeds else [] for found in (values(rows, m, **arm) for m in MEASURES)
        ]
        named = policy_name(arm["policy"]) + "".join(_beside(arm, rows))
        difference = "" if arm["policy"] == "none" or gain is None else points(gain.difference)
        lines.append([named, str(seeds), *(percent(summary(of)) if of else "" for of in cells), difference])
    base = {row["seed"]: row for row in rows}.values()
    floor = [summary([_mean(row[f"floor {key}"]) for row in base]) for key in MEASURES]
    lines.append(["before training", str(floor[0].n), *map(percent, floor), ""])
    return _table(["twin", "seeds", *MEASURES.values(), "CIFAR-10 probe, minus none"], lines)


def _is(row: Mapping[str, Any], arm: Mapping[str, Any]) -> bool:
    return all(row[name] == value for name, value in arm.items())


def _mean(value: float | Mapping[str, float]) -> float:
    return float(np.mean([*value.values()])) if isinstance(value, dict) else float(value)


def _beside(arm: Mapping[str, Any], rows: Rows) -> list[str]:
    """What tells an arm from others of its grid, beside the policy."""
    shares = {row["twin_share"] for row in rows}
    return [
        f", {arm['twin_share']:.3g} of a batch" if len(shares - {None}) > 1 else "",
        ", images alone" if arm["image_share"] == 1 else "",
    ]


def _claim(rows: Rows) -> list[str]:
    """Mutual information against each reference by the primary measure and, beside it, the others."""
    lines = []
    for key, name in MEASURES.items():
        tests = [paired(values(rows, key, policy=MI), values(rows, key, policy=other)) for other in REFERENCES]
        if not all(tests):
            return []
        known = [test for test in tests if test]
        adjusted = iter(holm([test.p for test in known if test.p is not None]))
        title = f"{_of(key)} kNN" if name == "kNN" else name
        for other, test in zip(REFERENCES, known, strict=True):
            family = None if test.p is None else next(adjusted)
            lines.append([title, policy_name(other), points(test.difference), probability(test.p), probability(family)])
    return _table(["measure", "MI twin minus", "points", "p", "p, Holm"], lines)


def _settings(rows: Rows) -> list[str]:
    """The primary measure in all settings that have the three arms: one difference a setting, the mean of its seeds."""
    names = ("grid", "framework", "twin_share", "image_share", "init")
    settings = [dict(zip(names, of, strict=True)) for of in dict.fromkeys(tuple(row[n] for n in names) for row in rows)]
    lines = []
    for treated, control in ((MI, "none"), ("later", "none"), (MI, "later")):
        arms = [[values(rows, PRIMARY, policy=name, **of) for name in (treated, control)] for of in settings]
        found = {str(n): test.difference.mean for n, pair in enumerate(arms) if (test := paired(*pair))}
        if len(found) < 2:
            return []
        test = paired(found, dict.fromkeys(found, 0.0))
        assert test is not None
        named = f"{policy_name(treated)} minus {policy_name(control)}"
        lines.append([named, str(len(found)), points(test.difference), probability(test.p)])
    return _table(["CIFAR-10 probe", "settings", "points", "p"], lines)


def _of(key: str) -> str:
    return "CIFAR-10" if key.startswith("cifar10") else "Tiny-ImageNet"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]


def draw(rows: Rows, quality: Mapping[str, Mapping[str, float]]) -> plt.Figure:
    """The gain over no twins against the share of rows with a twin, and by policy, ordered by the twins' quality."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    plain = [row for row in rows if row["grid"] in "ABD"]
    for policy in ("later", MI):
        shares = sorted({row["twin_share"] for row in plain if row["policy"] == policy})
        gains = [(share, gain) for share in shares if (gain := _gain(plain, PRIMARY, policy, share))]
        x, (y, half) = [100 * share for share, _ in gains], _in_points([gain for _, gain in gains])
        left.errorbar(x, y, half, marker="o", capsize=2, label=policy_name(policy))
    left.set(xlabel="rows with a twin, %", ylabel="CIFAR-10 probe minus that without twins, points")
    ordered = sorted(quality, key=lambda policy: quality[policy]["same object"])
    shown = [policy for policy in ordered if _gain(plain, PRIMARY, policy, 0.5)]
    for shift, measure in ((0.12, PRIMARY), (-0.12, "auc")):
        known = [gain for policy in shown if (gain := _gain(plain, measure, policy, 0.5))]
        x, half = _in_points(known)
        right.errorbar(x, np.arange(len(x)) + shift, xerr=half, fmt="o", capsize=2, label=MEASURES[measure])
    names = [f"{policy_name(policy)}, {100 * quality[policy]['same object']:.0f} %" for policy in shown]
    right.set_yticks(range(len(shown)), names)
    right.set(xlabel="minus that without twins, points", title="by policy, and its twins on the same object")
    left.axhline(0, color="0.6", linewidth=0.8)
    right.axvline(0, color="0.6", linewidth=0.8)
    for panel in (left, right):
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _gain(rows: Rows, key: str, policy: str, share: float) -> Summary | None:
    test = paired(*(values(rows, key, policy=name, twin_share=share) for name in (policy, "none")))
    return None if test is None else test.difference


def _in_points(gains: Sequence[Summary]) -> tuple[list[float], list[float]]:
    return [100 * gain.mean for gain in gains], [100 * (gain.half or 0) for gain in gains]


def write(found: dict[str, Any]) -> None:
    """Write the page's results and the figure."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if not begin:
        raise SystemExit(f"{PAGE} has no line {BEGIN}")
    text = page(found["trials"], found["quality"])
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    draw(found["trials"], found["quality"]).savefig(FIGURE, dpi=110)


def whole(config: sweep_config.SweepConfig, rows: Rows) -> Rows:
    """The rows of the grids whose trials are all complete."""
    wanted, have = (Counter(letters) for letters in ([g for g, _ in planned(config)], [row["grid"] for row in rows]))
    return [row for row in rows if have[row["grid"]] == wanted[row["grid"]]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/study.yaml")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--trained", type=Path, metavar="FOLDER", help="take the trials that study_gpu.py trained")
    parser.add_argument("--render", action="store_true", help="only write the page from the results there are")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"trials": [], "quality": {}}
    if not arguments.render:
        study = sweep_config.load(arguments.config, arguments.settings)
        results["trials"] = whole(study, collect(study, results["trials"], arguments.trained))
        results["quality"] = qualities(study)
        results["commit"] = commit()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write(results)
