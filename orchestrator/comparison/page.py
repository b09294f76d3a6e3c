"""A sweep's comparison as files: one self-contained HTML page, the same in Markdown and CSV, and the figures."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from infoaug.orchestrator.comparison import arms, captions, domains, plots, tables
from infoaug.orchestrator.comparison.arms import Sweep
from infoaug.orchestrator.comparison.effects import Block, blocks_of
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.reporting.page import template, without_passwords


def files(sweep: Sweep, times: Sequence[Mapping[str, Any]] = ()) -> dict[str, bytes]:
    """All files by name: `comparison.html`, `comparison.md`, `trials.csv`, `summary.csv`, every figure as PNG and SVG.

    Args:
        sweep: whose trials are compared; their order does not matter.
        times: rows of `estimation_time.estimation_times`; none: the figure says that it was not measured.

    Raises:
        ValueError: two trials are of the same arm and seed, or a cross-domain matrix is not of its domains.
    """
    drawn = draw(sweep, times)
    vectors = {name: figures.svg(figure) for name, (figure, _) in drawn.items()}
    pictures = {name: (vectors[name], caption) for name, (_, caption) in drawn.items()}
    made = {
        "comparison.html": page(sweep, pictures).encode(),
        "comparison.md": tables.markdown(sweep).encode(),
        "trials.csv": tables.trials_csv(sweep).encode(),
        "summary.csv": tables.summary_csv(sweep).encode(),
    }
    made |= {f"{name}.png": figures.png(figure) for name, (figure, _) in drawn.items()}
    return made | {f"{name}.svg": vector for name, vector in vectors.items()}


def draw(sweep: Sweep, times: Sequence[Mapping[str, Any]] = ()) -> dict[str, tuple[Figure, str]]:
    """All figures with their captions, by names that can be those of files."""
    trials, drawn = arms.grouped(sweep.trials), {}
    for dataset, blocks in by_dataset(blocks_of(sweep)).items():
        title, metric, slug = blocks[0].title, blocks[0].metric, file_name(dataset, list(arms.datasets(trials)))
        named = f"{arms.METRICS[metric]}, {title}"
        over = f"over {captions.seeds_in_words(blocks[0])}"
        drawn[f"accuracy-{slug}"] = (
            plots.draw_accuracy(blocks),
            f"The tables of {title} as a figure: means {over}, with 95 % intervals where there are several seeds. "
            "Differences within seeds are more certain than these intervals show: they are in the tables.",
        )
        drawn[f"weights-{slug}"] = (
            plots.draw_weights(trials, dataset, metric, sweep.twin_weight),
            f"How much the MI twin counts ({named}): mean {over} and its 95 % interval as a band; dashed: no twins; "
            f"square: random twins at weight {sweep.twin_weight:g}. All panels have the same height in points.",
        )
        drawn[f"time-{slug}"] = (
            plots.draw_time(trials, dataset, metric, sweep.twin_weight),
            f"Accuracy ({named}) against the time of training by the wall clock, means {over}; a line leads from no "
            f"twins to the MI twin; small marks: other weights than {sweep.twin_weight:g}.",
        )
        drawn[f"rank-me-{slug}"] = (
            plots.draw_quality(trials, dataset),
            f"What quality without labels tells of accuracy ({title}): RankMe (Garrido et al. 2023), the effective "
            "rank of the features, against the linear probe; one mark an arm, means over seeds, with the rank "
            "correlation over arms.",
        )
    drawn["estimation-time"] = (
        plots.draw_estimation_times(times),
        "Time of one estimate of mutual information, two trajectories in two dimensions, k = 3, against the number "
        "of observations; measured on the machine that wrote this page.",
    )
    return drawn


def by_dataset(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """The tables of each data set."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.dataset, []).append(block)
    return found


def file_name(name: str, among: Sequence[str]) -> str:
    """A name of a data set as part of a file's name, different for each among all."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", other.lower()).strip("-")[-40:] or "data" for other in among]
    place = list(among).index(name)
    return slugs[place] if slugs.count(slugs[place]) == 1 else f"{slugs[place]}-{place + 1}"


def page(sweep: Sweep, pictures: Mapping[str, tuple[bytes, str]]) -> str:
    """The comparison as one HTML page that needs nothing beside it; passwords in URLs are left out.

    Args:
        sweep: whose trials are compared.
        pictures: SVG bytes and a caption, by name as `draw` has them; those that are not there are left out.
    """
    blocks = blocks_of(sweep)
    suffixes = {block.dataset: file_name(block.dataset, arms.datasets(arms.grouped(sweep.trials))) for block in blocks}
    return _TEMPLATE.render(
        sweep=sweep,
        headlines=captions.headlines(blocks),
        reading=captions.reading(blocks),
        lost=captions.lost(sweep),
        ended=captions.ended_in_words(sweep),
        source=captions.source_in_words(sweep),
        training=captions.training_in_words(sweep),
        groups=by_dataset(blocks),
        pictures=pictures,
        suffixes=suffixes,
        domains=domains.domains(sweep),
        count=len({arms.arm_of(trial) for trial in sweep.trials}),
        trained=sum(trial.seconds for trial in sweep.trials),
        passes=sum(trial.passes for trial in sweep.trials),
        config_yaml=without_passwords(sweep.config_yaml),
        command=f"infoaug sweep {shlex.quote(sweep.name + '.yaml')}",
        packages={**({"commit": sweep.commit} if sweep.commit else {}), **sweep.packages},
        csv={"trials.csv": tables.trials_csv(sweep), "summary.csv": tables.summary_csv(sweep)},
        metrics=arms.METRICS,
        caption=captions.caption,
        choices_caption=captions.choices_caption,
        header=tables.header,
        lines=tables.lines,
        choice_header=tables.CHOICE_HEADER,
        choice_lines=tables.choice_lines,
    )


_TEMPLATE = template("comparison.html", {})
