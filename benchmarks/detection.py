"""Detection on a folder by backbones, frozen and fine-tuned, over arms and seeds; by default on rendered scenes.

    python benchmarks/detection.py ARM=FOLDER[,FOLDER…] … [ARM=untrained:FOLDER] … [--data FOLDER] [--boxes]
        [--set SETTING=VALUE …] --results FILE.json [--markdown FILE]

Arms are those of benchmarks/dense.py. The seed of a backbone is that of its detector too. An untrained backbone that is
fine-tuned is a detector trained from scratch. Without `--data`, rendered scenes (synthetic) are written beside the
results: 500 images of 160×120 to train on and 200 to test on. `--set` takes settings of evaluate.detector. FILE.json
gets every measurement when it is there, and what it has is not measured again.

Intervals are over seeds (Student's t, 95 %). Differences from the first arm are paired by seed.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dense import Trained, backbones_of

from infoaug.orchestrator.config import DetectorConfig, load
from infoaug.orchestrator.evaluation import detection, objects, probes
from infoaug.orchestrator.evaluation.objects import Objects
from infoaug.orchestrator.reporting import statistics
from infoaug.orchestrator.synthetic import detection as synthetic

MEASURES = {"map": "mAP", "map_50": "mAP50", "mask_map": "mask mAP", "mask_map_50": "mask mAP50"}
Results = dict[str, dict[str, Any]]


def run(every: Sequence[Trained], data: Objects, settings: DetectorConfig, path: Path) -> Results:
    """Measure what the file lacks, seed by seed; give all that it has."""
    results: Results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for each in sorted(every, key=lambda trained: trained.seed):
        for frozen in (True, False):
            mode = "frozen" if frozen else "fine-tuned"
            if (key := f"{each.key} {mode}") in results:
                continue
            started = time.perf_counter()
            chosen = settings.model_copy(update={"seed": each.seed, "frozen": frozen})
            found = detection.measure(data, each.load(), chosen, probes.fastest())
            results[key] = {"arm": each.arm, "seed": each.seed, "mode": mode, **found}
            results[key]["seconds"] = time.perf_counter() - started
            written = path.with_suffix(".part")
            written.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            written.replace(path)
            print(f"{key}: mAP50 {found['map_50']:.1%}, {results[key]['seconds']:.0f} s", flush=True)
    return results


def table(results: Results) -> str:
    """The arms in a Markdown table, each beside the first of its mode."""
    arms = list(dict.fromkeys(own["arm"] for own in results.values()))
    measured = [key for key in MEASURES if all(key in own for own in results.values())]
    names = " | ".join(MEASURES[key] for key in measured)
    lines = [
        f"| backbone | | seeds | {names} | mAP50 from {arms[0]}, points | p | s |",
        "|---|---|---|" + "---|" * (len(measured) + 3),
    ]
    for mode in ("frozen", "fine-tuned"):
        for arm in arms:
            own = _of(results, arm, mode)
            cells = [arm, mode, str(len(own))]
            cells += [statistics.percent(statistics.summary([each[key] for each in own.values()])) for key in measured]
            values, first = ({s: each["map_50"] for s, each in _of(results, a, mode).items()} for a in (arm, arms[0]))
            test = statistics.paired(values, first) if arm != arms[0] else None
            cells += (
                ["–", "–"] if test is None else [statistics.points(test.difference), statistics.probability(test.p)]
            )
            seconds = statistics.summary([each["seconds"] for each in own.values()]).mean
            lines.append(f"| {' | '.join([*cells, f'{seconds:.0f}'])} |")
    return "\n".join(lines) + "\n"


def _of(results: Results, arm: str, mode: str) -> dict[int, Mapping[str, Any]]:
    """Those of an arm, by seed."""
    return {own["seed"]: own for own in results.values() if (own["arm"], own["mode"]) == (arm, mode)}


def main() -> None:
    """Measure, save the results as they come, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="ARM=BACKBONES")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--limit", type=int, help="of each split")
    parser.add_argument("--boxes", action="store_true", help="without masks, which take longer")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="of evaluate.detector")
    parser.add_argument("--seeds", type=int, default=3, help="of untrained backbones")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    folder = given.data or given.results.with_name("scenes")
    if not given.data and not folder.exists():
        synthetic.write(folder)
    data = objects.load(str(folder), given.limit)
    for note in data.notes:
        print(note)
    data = replace(data, masks=data.masks and not given.boxes)
    settings = load(None, [f"evaluate.detector.{each}" for each in given.set]).evaluate.detector
    every = [each for arm in given.arms for each in backbones_of(arm, given.seeds)]
    results = run(every, data, settings, given.results)
    shown = table({key: own for key, own in results.items() if any(key.startswith(f"{each.key} ") for each in every)})
    print(shown)
    if given.markdown:
        given.markdown.write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()
