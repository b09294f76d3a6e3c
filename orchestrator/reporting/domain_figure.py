"""The figure of a cross-domain evaluation: what is trained on each domain, tested on each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from infoaug.orchestrator.reporting.figures import INK, WIDTH, ink, title


def draw(result: Mapping[str, Any]) -> Figure:
    """Heat map of the probe's accuracies in per cent, with the floor's in brackets.

    Args:
        result: of one cross-domain data set, with D `domains` (names), and `probe_matrix` and `floor_probe_matrix`,
            D rows trained on by D columns tested on, shares, 0–1.
    """
    names = result["domains"]
    trained, floor = (np.array(result[f"{prefix}probe_matrix"]) for prefix in ("", "floor_"))
    figure = Figure(figsize=(WIDTH, 1.7 + 0.62 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    highest = max(trained.max(), 0.05)
    image = axes.imshow(trained, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    for (row, column), share in np.ndenumerate(trained):
        colour = "white" if share > 0.55 * highest else INK
        text = f"{100 * share:.1f}\n({100 * floor[row, column]:.1f})"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    places = range(len(names))
    shown = [name if len(name) <= 12 else f"{name[:11]}…" for name in names]
    axes.set_xticks(places, shown, parse_math=False)
    axes.set_yticks(places, shown, parse_math=False)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.spines[:].set_visible(False)
    ink(axes)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1, decimals=0), shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0)
    title(axes, "Linear probe across domains, % (untrained)")
    return figure
