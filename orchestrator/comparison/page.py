"""The files of a comparison: one self-contained HTML page, the same tables in Markdown and CSV, and the figures."""

import re
import shlex
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from infoaug.orchestrator.comparison import arms, captions, curves, domains, plots, tables
from infoaug.orchestrator.comparison.arms import Sweep
from infoaug.orchestrator.comparison.effects import EffectTable, effect_tables
from infoaug.orchestrator.evaluation.metrics import METRICS
from infoaug.orchestrator.reporting import figures
from infoaug.orchestrator.reporting.page import template


def files(sweep: Sweep) -> dict[str, bytes]:
    """All files by name: `comparison.html`, `comparison.md`, `trials.csv`, `summary.csv`, every figure as PNG and SVG.

    Args:
        sweep: its trials are compared; their order does not matter.

    Raises:
        ValueError: two trials have the same arm and seed, or a cross-domain matrix does not fit its domains.
    """
    drawn = draw(sweep)
    vectors = {name: figures.svg(figure) for name, (figure, _) in drawn.items()}
    pictures = {name: (vectors[name], caption) for name, (_, caption) in drawn.items()}
    contents = {
        "comparison.html": page(sweep, pictures).encode(),
        "comparison.md": tables.markdown(sweep).encode(),
        "trials.csv": tables.trials_csv(sweep).encode(),
        "summary.csv": tables.summary_csv(sweep).encode(),
    }
    contents |= {f"{name}.png": figures.png(figure) for name, (figure, _) in drawn.items()}
    return contents | {f"{name}.svg": vector for name, vector in vectors.items()}


def draw(sweep: Sweep) -> dict[str, tuple[Figure, str]]:
    """All figures with their captions, by name; the names are valid file names."""
    trials = arms.grouped(sweep.trials)
    drawn: dict[str, tuple[Figure | None, str]] = {}
    for dataset, of_dataset in by_dataset(effect_tables(sweep)).items():
        first = of_dataset[0]
        title, metric, slug = first.title, first.metric, file_name(dataset, list(arms.datasets(trials)))
        named = f"{METRICS[metric].name}, {title}"
        over = f"over {captions.seeds_in_words(first)}"
        drawn[f"accuracy-{slug}"] = (
            plots.draw_accuracy(of_dataset),
            f"Accuracy on {title}: means {over}, with 95 % intervals, of one seed over what was tested on. The "
            "tables give the differences paired within seeds, which are more precise than these intervals suggest.",
        )
        drawn[f"weights-{slug}"] = (
            plots.draw_weights(trials, dataset, metric, sweep.twin_weight),
            f"Effect of the twin weight ({named}): mean {over} with its 95 % interval as a band. Dashed line: no "
            f"twins. Square: random twins at weight {sweep.twin_weight:g}. All panels span the same range of accuracy.",
        )
        drawn[f"time-{slug}"] = (
            plots.draw_time(trials, dataset, metric, sweep.twin_weight),
            f"Accuracy ({named}) against wall-clock training time, means {over}. Lines connect no twins and the MI "
            f"twin of one setting. Small markers: weights other than {sweep.twin_weight:g}.",
        )
        if any(table.metric == "probe" for table in of_dataset):
            drawn[f"rank-me-{slug}"] = (
                plots.draw_quality(trials, dataset),
                f"Label-free quality and accuracy ({title}): RankMe (Garrido et al. 2023), the effective rank of the "
                "features, against linear-probe accuracy. One marker per arm, means over seeds, with the rank "
                "correlation over arms.",
            )
        drawn[f"settings-{slug}"] = (
            curves.draw_settings(trials, dataset, metric),
            f"Every trial as a line through its settings to its accuracy ({named}), which is also its colour.",
        )
    drawn["curves"] = (
        curves.draw_curves(trials),
        "Every trial as a line, by epoch, coloured by its twins: the loss, and what was measured of the features "
        "without test images. Losses of different frameworks cannot be compared.",
    )
    return {name: (figure, caption) for name, (figure, caption) in drawn.items() if figure}


def by_dataset(effects: Sequence[EffectTable]) -> dict[str, list[EffectTable]]:
    """Group tables by data set."""
    groups: dict[str, list[EffectTable]] = {}
    for table in effects:
        groups.setdefault(table.dataset, []).append(table)
    return groups


def file_name(name: str, among: Sequence[str]) -> str:
    """A data set's name as part of a file name, unique among those of all data sets."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", other.lower()).strip("-")[-40:] or "data" for other in among]
    index = list(among).index(name)
    return slugs[index] if slugs.count(slugs[index]) == 1 else f"{slugs[index]}-{index + 1}"


def page(sweep: Sweep, pictures: Mapping[str, tuple[bytes, str]]) -> str:
    """Render the comparison as one self-contained HTML page, without the secrets of URLs.

    Args:
        sweep: its trials are compared.
        pictures: SVG bytes and caption of the figures, by their names in `draw`; any may be missing.
    """
    effects = effect_tables(sweep)
    datasets = arms.datasets(arms.grouped(sweep.trials))
    return _TEMPLATE.render(
        sweep=sweep,
        headlines=captions.headlines(effects, sweep),
        next_step=captions.next_step(effects),
        how_to_read=captions.how_to_read(effects),
        excluded=captions.excluded_trials(sweep),
        completion=captions.completion(sweep),
        source=captions.source(sweep),
        training=captions.training_budget(sweep),
        groups=by_dataset(effects),
        pictures=pictures,
        suffixes={table.dataset: file_name(table.dataset, datasets) for table in effects},
        cross_domain=domains.cross_domain_tables(sweep),
        count=len({arms.arm_of(trial) for trial in sweep.trials}),
        trained=sum(trial.seconds for trial in sweep.trials),
        passes=sum(trial.passes for trial in sweep.trials),
        command=f"infoaug sweep {shlex.quote(sweep.name + '.yaml')}",
        packages={**({"commit": sweep.commit} if sweep.commit else {}), **sweep.packages},
        csv={"trials.csv": tables.trials_csv(sweep), "summary.csv": tables.summary_csv(sweep)},
        metrics={key: metric.name for key, metric in METRICS.items()},
        caption=captions.caption,
        choices_caption=captions.choices_caption,
        header=tables.header,
        lines=tables.lines,
        choice_header=tables.CHOICE_HEADER,
        choice_lines=tables.choice_lines,
    )


_TEMPLATE = template("comparison.html", {})
