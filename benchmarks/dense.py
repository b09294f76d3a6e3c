"""J&F of backbones on a folder of videos with masks, as DAVIS's, beside untrained ones of the same recipes.

    python benchmarks/dense.py DAVIS BACKBONE … [--sequences a,b] [--seeds 3] [--json FILE] [--markdown FILE]

A backbone is a folder with backbone.json and backbone.safetensors. Intervals are over sequences (Student's t, 95 %):
they say what another choice of videos would change, not what another training would. Differences from the untrained
backbone of the same recipe (the mean of its seeds) are paired by sequence.
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infoaug.models.backbones import create_backbone, load_backbone
from infoaug.orchestrator.evaluation import propagation
from infoaug.orchestrator.evaluation.propagation import PropagationSettings
from infoaug.orchestrator.reporting import statistics

MEASURES = ("j", "f", "jf")


def untrained(like: nn.Module, seed: int) -> nn.Module:
    """A backbone of the same recipe with new weights and the same normalisation."""
    recipe: Any = like.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = create_backbone(recipe.name, recipe.image_size, **recipe.kwargs)
    backbone.recipe = recipe
    return backbone


def row(name: str, found: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The values of a backbone: by sequence, and their mean with its interval over sequences."""
    by_sequence = {each: {of: values[of] for of in MEASURES} for each, values in found["sequences"].items()}
    means = {of: statistics.summary([values[of] for values in by_sequence.values()]) for of in MEASURES}
    return {
        "backbone": name,
        **{of: {"mean": mean.mean, "half": mean.half} for of, mean in means.items()},
        "seconds_a_sequence": seconds / len(by_sequence),
        "sequences": by_sequence,
    }


def add_difference(each: dict[str, Any], references: Sequence[Mapping[str, Any]]) -> None:
    """Add the difference of J&F from the mean of the untrained backbones, paired by sequence."""
    own = {name: values["jf"] for name, values in each["sequences"].items()}
    other = {name: float(np.mean([of["sequences"][name]["jf"] for of in references])) for name in own}
    if (test := statistics.paired(own, other)) is not None:
        each["above_untrained"] = {"mean": test.difference.mean, "half": test.difference.half, "p": test.p}


def markdown(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The rows as a table."""
    lines = [
        title,
        "",
        "| backbone | J | F | J&F | above untrained, points | s a sequence |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        cells = [statistics.percent(_summary(each[of], each)) for of in MEASURES]
        above = statistics.points(_summary(each["above_untrained"], each)) if "above_untrained" in each else "–"
        lines.append(f"| {each['backbone']} | {' | '.join(cells)} | {above} | {each['seconds_a_sequence']:.0f} |")
    return "\n".join(lines) + "\n"


def _summary(value: Mapping[str, Any], each: Mapping[str, Any]) -> statistics.Summary:
    return statistics.Summary(value["mean"], value["half"], len(each["sequences"]))


def main() -> None:
    """Measure, print the table, and write it as JSON and Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbones", type=Path, nargs="+")
    parser.add_argument("--sequences", default="", help="names, with commas; all if it is left out")
    parser.add_argument("--seeds", type=int, default=3, help="untrained backbones of every recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=PropagationSettings.size)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--stride", type=int, default=PropagationSettings.stride)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    settings = PropagationSettings(
        size=given.size,
        stride=given.stride,
        layer=given.layer,
        sequences=tuple(filter(None, given.sequences.split(","))),
    )
    for note in propagation.check(given.folder, settings):
        print(note)

    def measured(name: str, backbone: nn.Module) -> dict[str, Any]:
        started = time.perf_counter()
        found = propagation.measure(given.folder, backbone, settings, given.device)
        print(f"{name}: J&F {found['jf']:.1%}", flush=True)
        return row(name, found, time.perf_counter() - started)

    rows: list[dict[str, Any]] = []
    references: dict[str, list[dict[str, Any]]] = {}
    for path in given.backbones:
        backbone = load_backbone(path)
        recipe: Any = backbone.recipe
        if (key := recipe.to_json()) not in references:
            references[key] = [
                measured(f"untrained {recipe.name}, seed {seed}", untrained(backbone, seed))
                for seed in range(given.seeds)
            ]
            rows += references[key]
        rows.append(measured(path.name, backbone))
        add_difference(rows[-1], references[key])

    title = (
        f"{given.folder.name}, {len(rows[0]['sequences'])} sequences, {settings.size} pixels, "
        f"stride {settings.stride}; intervals over sequences, 95 %; {platform.processor() or platform.machine()}, "
        f"{given.device}"
    )
    table = markdown(rows, title)
    print(table)
    if given.markdown:
        given.markdown.write_text(table, encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps({"settings": vars(settings), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
