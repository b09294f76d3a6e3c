"""Report: what came out of an experiment, as one self-contained HTML page and as a table for the terminal."""

import base64
import importlib.metadata
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from scipy.stats import t as student_t

from orchestrator.config import ExperimentConfig

PACKAGES = ("infoaug", "numpy", "opencv-python-headless", "npeet-plus", "scikit-learn", "timm", "torch", "ray")
STAGES = {"extract": "windows", "score": "windows", "pretrain": "epochs", "evaluate": "data sets"}  # what each counts
CONFIDENCE = 0.95


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
    examples: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=versions)


@dataclass(frozen=True)
class Summary:
    """Mean over seeds, and half the width of its 95 % interval (Student's t), None for a single seed."""

    mean: float
    half: float | None


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
        name = "scenes (synthetic)" if dataset == "scenes" else Path(dataset).name
        chance = 1 / ours[0]["classes"] if ours[0].get("classes") else None
        for key, metric in (("knn", "kNN"), ("probe", "linear probe")):
            trained, floor = (np.array([r[prefix + key] for r in ours], float) for prefix in ("", "floor_"))
            summaries = (_summary(trained), _summary(floor), _summary(trained - floor))
            rows.append(Accuracy(name, metric, len(ours), *summaries, chance))
    return rows


def _summary(values: NDArray[np.float64]) -> Summary:
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Summary(mean, None)
    return Summary(mean, float(student_t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)))


def page(report: Report) -> str:
    """The report as one HTML page that needs nothing beside it; user names and passwords in URLs are left out.

    Raises:
        pydantic.ValidationError: `config_yaml` is no experiment's config.
    """
    config_yaml = re.sub(r"(?<=://)[^/@\s]*@", "", report.config_yaml)
    config = ExperimentConfig.model_validate(yaml.safe_load(config_yaml))
    patches = report.counts.get("patches", 0)
    clips = {status: sum(row["status"] == status for row in report.ledger) for status in ("ok", "partial", "failed")}
    return _TEMPLATE.render(
        report=report,
        config=config,
        config_yaml=config_yaml,
        config_link=_data_url("application/yaml", config_yaml.encode()),
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
        numbers = _percent(row.trained), _percent(row.floor), _points(row.difference)
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


def _percent(value: Summary) -> str:
    return f"{value.mean:.1%}".replace("%", " %") + ("" if value.half is None else f" ± {100 * value.half:.1f}")


def _points(value: Summary) -> str:
    text = f"{100 * value.mean:+.1f}" + ("" if value.half is None else f" ± {100 * value.half:.1f}")
    return text.replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --dim: #5b6672; --line: #dde2e7; --paper: #fff; --card: #f5f7f9;
  --accent: #0072b2; --warn: #b45309 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --dim: #a3adb8; --line: #38414b; --paper: #14181d;
  --card: #1e242b; --accent: #6bb8e8; --warn: #f0b45c } img { filter: brightness(.92) } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere }
p { margin: .5rem 0; max-width: 44rem } a { color: var(--accent) } summary { cursor: pointer }
figcaption, caption, .dim { color: var(--dim); font-size: .87rem; overflow-wrap: anywhere }
.note { border-left: 4px solid var(--accent); background: var(--card); padding: .6rem .9rem; max-width: none }
.warn { border-color: var(--warn) } .wide { overflow-x: auto } .long { max-height: 26rem; overflow: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { caption-side: bottom; text-align: left; padding-top: .4rem }
th, td { text-align: left; padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-size: .87rem; color: var(--dim); font-weight: 600 }
.number { text-align: right } td.number { white-space: nowrap } td.name { overflow-wrap: anywhere; min-width: 5.5rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .6rem; margin: .8rem 0 }
.tiles div { background: var(--card); padding: .6rem .8rem; border-radius: 6px }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600 } .tiles dt { color: var(--dim); font-size: .82rem }
figure { margin: 1rem 0; break-inside: avoid } figcaption { margin-top: .3rem }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: #fff }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.2rem }
pre, code { font: .86rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
pre { background: var(--card); padding: .8rem; white-space: pre-wrap }
@media (max-width: 34rem) { th, td { padding-right: .5rem; font-size: .84rem } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #bbb; --paper: #fff; --card: #f4f4f4 }
  body { max-width: none; padding: 0; font-size: 10pt } .long { max-height: none } h2, h3 { break-after: avoid }
  img { max-height: 20cm; filter: none } .tiles div, tr { break-inside: avoid }
  details::details-content { content-visibility: visible; block-size: auto } }
"""

_CAPTIONS = {
    "accuracy": "Top-1 accuracy of the trained backbone and of the same backbone untrained.",
    "reasons": "How many patches have a twin, and why the others have none.",
    "training": "Loss and throughput by epoch. The total is the views’ loss plus the weighted loss of the twins.",
    "tracks": "Tracks of the patches on the window’s first frame.",
    "mutual-information": "Mutual information of the patches’ trajectories.",
    "twins": "Patches beside their twins, highest mutual information first.",
}

_PAGE = """
{%- macro picture(pictures, name) %}{% if name in pictures %}
<figure><img src="{{ pictures[name] | png }}" alt="{{ captions.get(name, name) }}">
<figcaption>{{ captions.get(name, name) }}</figcaption></figure>{% endif %}{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ report.name }} – infoaug</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ report.name }}</h1>
<p class="dim">infoaug experiment, <time datetime="{{ report.created }}">{{ report.created }}</time></p>
<p>{{ config.pretrain.framework }} on {{ config.pretrain.backbone }}, {{ config.pretrain.epochs }} epochs,
twins by {{ config.score.policy }}{% if config.score.policy != "none" %} (weight
{{ config.pretrain.twin_weight }}){% endif %}, seed {{ config.seed }}.</p>
<p class="note">{% if config.clips.path is none %}The video is <strong>synthetic</strong>: {{ config.scenes.count }}
scenes that infoaug renders itself, with a known coupling of the motions. What comes out shows that the pipeline works;
it says nothing about real video.{% else %}Video from <code>{{ config.clips.path }}</code>.{% endif %}</p>
{% if lost %}<p class="note warn">{{ lost | length }} of {{ report.ledger | length }} clips gave no window or only some:
<a href="#failed">which, and why</a>.</p>{% endif %}
</header>
<main>
<h2>Accuracy</h2>
<div class="wide"><table>
<caption>Top-1 accuracy on the test images, backbone frozen; difference in percentage points; {{ seeds }}.</caption>
<thead><tr><th>data set<th>metric<th class="number">trained<th class="number">random-init floor
<th class="number">difference</tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="name">{{ row.dataset }}<td>{{ row.metric }}
<td class="number"><strong>{{ row.trained | percent }}</strong><td class="number">{{ row.floor | percent }}
<td class="number">{{ row.difference | points }}</tr>
{% endfor %}
</tbody></table></div>
<p class="dim">{% for r in report.results %}{{ r.dataset }}: {{ "{:,}".format(r.train) }} images to train,
{{ "{:,}".format(r.test) }} to test, {{ r.classes }} classes. {% endfor %}</p>
{{ picture(report.pictures, "accuracy") }}

<h2>Data and twins</h2>
<dl class="tiles">
{% for value, what in (
  (report.ledger | length, "clips" if not lost else "clips, {} whole".format(clips.ok)),
  ("{:,}".format(frames), "frames"),
  ("{:,}".format(windows), "windows of {} frames".format(config.extract.window)),
  ("{:,}".format(report.counts.get("patches", 0)), "patches"),
  (share("tracked"), "tracked through every frame"),
  (share("static"), "static"),
  (share("twin"), "with a twin")) %}
<div><dd>{{ value }}</dd><dt>{{ what }}</dt></div>
{% endfor %}
</dl>
<p>A patch is lost if it is seen in fewer than {{ config.score.min_frames }} frames, static if its motion less the
camera’s spreads over less than {{ config.score.min_spread }} pixels.
{% if config.score.surrogates %}A pair is significant at a false discovery rate of {{ config.score.alpha }} in its
window.{% else %}Pairs were not tested for significance.{% endif %}</p>
{{ picture(report.pictures, "reasons") }}

<h2>Training</h2>
{% if report.history %}{% set last = report.history[-1] %}
<p>After epoch {{ last.epoch | int }}: loss {{ "%.3f" | format(last.loss) }} (views
{{ "%.3f" | format(last.view_loss) }}, twins {{ "%.3f" | format(last.twin_loss) }}),
{{ "{:,.0f}".format(last.images_per_second) }} images/s, {{ "{:.0%}".format(last.share_with_twin) }} of the images
with a twin.</p>
{% endif %}
{{ picture(report.pictures, "training") }}

<h2>Time</h2>
<div class="wide"><table>
<thead><tr><th>stage<th class="number">time<th>computed<th>found done</tr></thead>
<tbody>
{% for name, unit in stages.items() %}{% set stage = report.times.get(name) %}
<tr><td>{{ name }}
{% if stage %}<td class="number">{{ stage.seconds | duration }}<td>{{ stage.computed | int }} {{ unit }}
<td>{{ stage.resumed | int }}{% else %}<td class="number">–<td>nothing<td>all, from an earlier run{% endif %}</tr>
{% endfor %}
<tr><th>together<th class="number">{{ total | duration }}<td><td></tr>
</tbody></table></div>

{% if report.examples %}<h2>Windows</h2>
{% for title, pictures in report.examples.items() %}
<h3>{{ title }}</h3>
<div class="pair">{% for name in pictures %}{{ picture(pictures, name) }}{% endfor %}</div>
{% endfor %}{% endif %}

{% if lost %}<h2 id="failed">Failed clips</h2>
<p>{{ clips.failed }} failed, {{ clips.partial }} in part, {{ clips.ok }} whole.</p>
<div class="wide long"><table>
<thead><tr><th>clip<th>status<th>reason</tr></thead>
<tbody>{% for row in lost %}
<tr><td class="name">{{ row.clip_id }}<td>{{ row.status }}<td class="name">{{ row.reason }}</tr>{% endfor %}
</tbody></table></div>{% endif %}

<h2>To do it again</h2>
<p>Save the config as <a download="{{ report.name }}.yaml" href="{{ config_link }}">{{ report.name }}.yaml</a>, then</p>
<pre>{{ command }}</pre>
<p class="dim">{% for name, version in report.packages.items() %}
{{ name }}&nbsp;{{ version }}{{ ", " if not loop.last }}{% endfor %}</p>
<details><summary>Resolved config</summary><pre>{{ config_yaml }}</pre></details>
</main>
</body>
</html>
"""

_environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
_environment.filters |= {"percent": _percent, "points": _points, "duration": _duration}
_environment.filters["png"] = lambda content: _data_url("image/png", content)
_environment.globals |= {"captions": _CAPTIONS, "style": jinja2.utils.markupsafe.Markup(_STYLE)}
_TEMPLATE = _environment.from_string(_PAGE)
