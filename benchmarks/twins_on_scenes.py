"""How often twins are the true ones in rendered scenes (synthetic), whose coupled sprites are known.

    python benchmarks/twins_on_scenes.py [--scenes 20] [--frames 64] [--json FILE]

The twin of a sprite is that of the patch whose point is nearest its centre. It is true if it lies on the partner or
within 2 pixels of it, where a tracked point moves with the edge. Twins must be farther apart than a sprite is wide, as
in configs/demo.yaml. Intervals are Wilson's, at 95 %.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tracking_measures import CONDITIONS, wilson

from infoaug.orchestrator.config import ExtractConfig, ScoreConfig
from infoaug.orchestrator.stages.extract import extract_window, scene_seed
from infoaug.orchestrator.stages.window_scores import score_window
from infoaug.orchestrator.synthetic import scenes

EDGE = 2.0  # pixels
POLICIES = "mutual-information", "correlation", "random", "nearest"


def sprites_with_true_twin(scene: scenes.Scene, policy: str) -> dict[str, tuple[int, int]]:
    """(number, out of) for a scene: `true`, coupled sprites with the true twin; `false`, patches with a false twin."""
    window = extract_window(scene.frames, ExtractConfig(window=len(scene.frames), spacing=32, patch_size=32))
    settings = ScoreConfig(policy=policy, min_distance=1.5 * scene.size, min_frames=len(scene.frames) // 2)
    paths = window["position"], window["camera"], window["visible"]
    scored = score_window(*paths, settings, texture=window["texture"])
    points = window["position"][:, 0]
    owner, twin = scene.owner(points, margin=EDGE), scored.twins.index
    true, coupled, false, alone = 0, 0, 0, 0
    for sprite, partner in enumerate(scene.partner):
        patches = np.flatnonzero((owner == sprite) & (np.array(scored.twins.reason) != "lost"))
        if not len(patches):
            continue
        centre = patches[np.linalg.norm(points[patches] - scene.position[sprite, 0], axis=1).argmin()]
        if partner >= 0:
            coupled += 1
            true += bool(twin[centre] >= 0 and owner[twin[centre]] == partner)
        elif not scene.static[sprite]:
            alone += len(patches)
            false += int((twin[patches] >= 0).sum())
    return {"true": (true, coupled), "false": (false, alone)}


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    rows = []
    for condition, options in CONDITIONS.items():
        rendered = [
            scenes.render(scene_seed(0, n), frames=arguments.frames, **options) for n in range(arguments.scenes)
        ]
        for policy in POLICIES:
            counts = [sprites_with_true_twin(scene, policy) for scene in rendered]
            row = {"condition": condition, "policy": policy}
            for name in ("true", "false"):
                hits, of = (sum(count[name][i] for count in counts) for i in (0, 1))
                low, high = wilson(hits, of)
                row |= {name: hits, f"{name}_of": of, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)

    title = f"{arguments.scenes} rendered scenes of {arguments.frames} frames (synthetic), {platform.processor()}"
    table = Table(
        "scene",
        "policy",
        "coupled sprites with the true twin",
        "patches of independent sprites with a twin",
        title=title,
    )
    for row in rows:
        cells = (
            f"{row[n]}/{row[f'{n}_of']} = {row[n] / max(1, row[f'{n}_of']):.0%} "
            f"[{row[f'{n}_low']:.0%}, {row[f'{n}_high']:.0%}]"
            for n in ("true", "false")
        )
        table.add_row(row["condition"], row["policy"], *cells)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"frames": arguments.frames, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
