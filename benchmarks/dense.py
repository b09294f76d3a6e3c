"""Dense measures of backbones: J&F of propagated masks (as DAVIS) and mIoU of linear segmentation, over arms and seeds.

    python benchmarks/dense.py ARM=FOLDER[,FOLDER…] … [ARM=untrained:TIMM[:SIZE]] …
        [--propagation DAVIS] [--segmentation CAMVID --void 11] --results FILE.json [--markdown FILE]

A FOLDER holds backbone.json and backbone.safetensors; those of an arm are its seeds. `untrained:FOLDER` is that
backbone's recipe, and `untrained:resnet18` timm's network for images of SIZE (224) pixels, with the random weights of
`--seeds` seeds. FILE.json gets every sequence when it is measured; what it has is not measured again. The seed is the
outermost loop, so that a run that is stopped has whole seeds.

J&F is averaged over the seeds of an arm, sequence by sequence; its interval (Student's t, 95 %) is over sequences, and
says what another choice of videos would change. The interval of mIoU is over seeds. Differences from the first arm are
paired by sequence, or by seed.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infoaug.models.backbones import create_backbone, load_backbone
from infoaug.orchestrator.config import EvaluateConfig
from infoaug.orchestrator.evaluation import davis, probes, propagation, segmentation
from infoaug.orchestrator.evaluation.propagation import PropagationSettings
from infoaug.orchestrator.reporting import statistics

UNTRAINED = "untrained:"
MEASURES = ("j", "f", "jf")
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """One backbone of an arm.

    Attributes:
        arm: its name in the table.
        seed: its number within the arm, from 0.
        load: builds it.
    """

    arm: str
    seed: int
    load: Callable[[], nn.Module]

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.arm} {self.seed}"


def backbones_of(arm: str, seeds: int) -> list[Trained]:
    """The backbones of an arm, as the command line names it. Raises SystemExit if it names none."""
    name, _, given = arm.partition("=")
    if not given:
        raise SystemExit(f"'{arm}' names no backbones: write ARM=FOLDER[,FOLDER…] or ARM=untrained:TIMM")
    if given.startswith(UNTRAINED):
        what = given.removeprefix(UNTRAINED)
        return [Trained(name, seed, lambda seed=seed: untrained(what, seed)) for seed in range(seeds)]
    return [
        Trained(name, seed, lambda folder=folder: load_backbone(Path(folder)))
        for seed, folder in enumerate(given.split(","))
    ]


def untrained(what: str, seed: int) -> nn.Module:
    """A backbone with random weights: of the recipe of a folder, or `TIMM[:SIZE]`, SIZE in pixels."""
    with torch.random.fork_rng(devices=[]):
        if Path(what).is_dir():
            recipe: Any = load_backbone(Path(what)).recipe
            torch.manual_seed(seed)
            backbone = create_backbone(recipe.name, recipe.image_size, **recipe.kwargs)
            backbone.recipe = recipe  # with its normalisation
            return backbone
        name, _, size = what.partition(":")
        torch.manual_seed(seed)
        return create_backbone(name, int(size or 224))


@dataclass(frozen=True)
class Measures:
    """What is measured, and the file that results are saved to.

    Attributes:
        path: of the results.
        videos: sequences with masks; none: no J&F.
        propagation: its settings.
        scenes: with masks of classes; None: no mIoU.
        segmentation: its settings.
    """

    path: Path
    videos: Sequence[davis.Video]
    propagation: PropagationSettings
    scenes: segmentation.Scenes | None
    segmentation: EvaluateConfig

    def run(self, every: Sequence[Trained]) -> Results:
        """Measure what the file lacks, seed by seed; give all that it has."""
        results: Results = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        for each in sorted(every, key=lambda trained: trained.seed):
            own = results.setdefault(each.key, {"arm": each.arm, "seed": each.seed, "sequences": {}})
            backbone, wanted = each.load(), [video.name for video in self.videos]
            for video in self.videos:
                if video.name not in own["sequences"]:
                    own["sequences"][video.name] = self._propagated(backbone, video)
                    self._save(results)
            if self.scenes and "miou" not in own:
                started = time.perf_counter()
                found = segmentation.measure(self.scenes, backbone, self.segmentation, probes.fastest())
                own |= {"miou": found["miou"], "segmentation_seconds": time.perf_counter() - started}
                self._save(results)
            told = [f"J&F {np.mean([own['sequences'][name]['jf'] for name in wanted]):.1%}"] if wanted else []
            told += [f"mIoU {own['miou']:.1%}"] if self.scenes else []
            print(f"{each.key}: {', '.join(told)}", flush=True)
        return results

    def _propagated(self, backbone: nn.Module, video: davis.Video) -> dict[str, float]:
        started = time.perf_counter()
        values = propagation.measure([video], backbone, self.propagation, probes.fastest())
        return {of: values[of] for of in MEASURES} | {"seconds": time.perf_counter() - started}

    def _save(self, results: Results) -> None:
        written = self.path.with_suffix(".part")
        written.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        written.replace(self.path)


def table(results: Results) -> str:
    """The arms in a Markdown table, each beside the first."""
    arms = list(dict.fromkeys(own["arm"] for own in results.values()))
    lines = [
        f"| backbone | seeds | J | F | J&F | from {arms[0]}, points | p | mIoU | from {arms[0]}, points |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sequences = {arm: _by_sequence(results, arm) for arm in arms}
    classes = {arm: {own["seed"]: own["miou"] for own in _of(results, arm) if "miou" in own} for arm in arms}
    for arm in arms:
        cells = [arm, str(len(_of(results, arm)))]
        cells += [
            statistics.percent(statistics.summary([values[of] for values in sequences[arm].values()]))
            if sequences[arm]
            else "–"
            for of in MEASURES
        ]
        own, first = ({name: values["jf"] for name, values in sequences[of].items()} for of in (arm, arms[0]))
        cells += _difference(own, first if arm != arms[0] else {})
        cells.append(statistics.percent(statistics.summary([*classes[arm].values()])) if classes[arm] else "–")
        cells.append(_difference(classes[arm], classes[arms[0]] if arm != arms[0] else {})[0])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of(results: Results, arm: str) -> list[dict[str, Any]]:
    return [own for own in results.values() if own["arm"] == arm]


def _by_sequence(results: Results, arm: str) -> dict[str, dict[str, float]]:
    """The means over seeds, by sequence; of the sequences that all seeds have."""
    found = [own["sequences"] for own in _of(results, arm)]
    shared = [name for name in found[0] if all(name in of for of in found)] if found else []
    return {name: {of: float(np.mean([each[name][of] for each in found])) for of in MEASURES} for name in shared}


def _difference(own: Mapping[Any, float], first: Mapping[Any, float]) -> list[str]:
    test = statistics.paired(own, first)
    return ["–", "–"] if test is None else [statistics.points(test.difference), statistics.probability(test.p)]


def main() -> None:
    """Measure, save the results as they come, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="ARM=BACKBONES")
    parser.add_argument("--propagation", type=Path, metavar="FOLDER")
    parser.add_argument("--segmentation", type=Path, metavar="FOLDER")
    parser.add_argument("--void", type=int, nargs="*", default=[255])
    parser.add_argument("--limit", type=int, help="of each split of the segmentation")
    parser.add_argument("--sequences", default="", help="names, with commas; all if it is left out")
    parser.add_argument("--seeds", type=int, default=3, help="of untrained backbones")
    parser.add_argument("--size", type=int, default=PropagationSettings.size)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    every = [each for arm in given.arms for each in backbones_of(arm, given.seeds)]
    config = EvaluateConfig(void=given.void, limit=given.limit)
    wanted = [*filter(None, given.sequences.split(","))]
    measures = Measures(
        given.results,
        propagation.load(given.propagation, wanted)[0] if given.propagation else [],
        PropagationSettings(size=given.size),
        segmentation.load(str(given.segmentation), config) if given.segmentation else None,
        config,
    )
    results = measures.run(every)
    shown = table({each.key: results[each.key] for each in every})
    print(shown)
    if given.markdown:
        given.markdown.write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()
