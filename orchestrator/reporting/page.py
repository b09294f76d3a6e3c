"""What infoaug's HTML pages share: one style, for phones, paper and dark rooms, and how numbers are written in it.

A page is self-contained: pictures are inside it, and nothing is fetched.
"""

import base64
import re
from collections.abc import Mapping

import jinja2

from infoaug.orchestrator.reporting.statistics import percent, points


def template(source: str, captions: Mapping[str, str]) -> jinja2.Template:
    """A page's template, which fills the blocks `title`, `header` and `main` of `{% extends "page" %}`.

    It knows `captions`, the filters `percent` and `points` (of a `seeds.Summary`), `duration` (of seconds), `png` and
    `svg` (bytes as a URL), `yaml` and `csv` (text as a URL); an unknown name is an error, and whatever is put in is
    escaped. From `"parts"` it can import, with context, `picture(pictures, name)`, a PNG with its caption, and
    `again(name, config, command, packages)`, what it takes to do the same again.
    """
    return _environment.from_string(source, globals={"captions": captions})


def data_url(kind: str, content: bytes) -> str:
    """Bytes of a media type as a URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def without_passwords(text: str) -> str:
    """Text without the user names and passwords of URLs in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


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
.wide + .caption { margin-bottom: 1.2rem; max-width: none }
caption { caption-side: bottom; text-align: left; padding-top: .4rem }
th, td { text-align: left; padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-size: .87rem; color: var(--dim); font-weight: 600 }
tfoot td { border-top: 2px solid var(--dim) }
.number { text-align: right } td.number { white-space: nowrap } td.name { overflow-wrap: anywhere; min-width: 5.5rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .6rem; margin: .8rem 0 }
.tiles div { background: var(--card); padding: .6rem .8rem; border-radius: 6px }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600 } .tiles dt { color: var(--dim); font-size: .82rem }
figure { margin: 1rem 0; break-inside: avoid } figcaption { margin-top: .3rem }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: #fff }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.2rem }
pre, code { font: .86rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
pre { background: var(--card); padding: .8rem; white-space: pre-wrap }
@media (max-width: 34rem) { th, td { padding-right: .5rem; font-size: .84rem }
  .wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper) } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #bbb; --paper: #fff; --card: #f4f4f4 }
  body { max-width: none; padding: 0; font-size: 10pt } .long { max-height: none } h2, h3 { break-after: avoid }
  img { max-height: 20cm; filter: none } .tiles div, tr { break-inside: avoid }
  .wide { overflow: visible } .wide th, .wide td { padding-right: .5rem; font-size: 8.5pt; position: static }
  tfoot { display: table-row-group }
  details::details-content { content-visibility: visible; block-size: auto } }
"""

_LAYOUT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{% block title %}{% endblock %} – infoaug</title>
<style>{{ style }}</style>
</head>
<body>
<header>
{% block header %}{% endblock %}
</header>
<main>
{% block main %}{% endblock %}
</main>
</body>
</html>
"""

_PARTS = """\
{% macro picture(pictures, name) %}{% if name in pictures %}
<figure><img src="{{ pictures[name] | png }}" alt="{{ captions.get(name, name) }}">
<figcaption>{{ captions.get(name, name) }}</figcaption></figure>{% endif %}{% endmacro %}
{% macro again(name, config, command, packages) %}
<h2>To do it again</h2>
<p>Save the config as <a download="{{ name }}.yaml" href="{{ config | yaml }}">{{ name }}.yaml</a>, then</p>
<pre>{{ command }}</pre>
<p class="dim">{% for package, version in packages.items() %}
{{ package }}&nbsp;{{ version }}{{ ", " if not loop.last }}{% endfor %}</p>
<details><summary>Resolved config</summary><pre>{{ config }}</pre></details>
{% endmacro %}
"""

_loader = jinja2.DictLoader({"page": _LAYOUT, "parts": _PARTS})
_environment = jinja2.Environment(loader=_loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
_environment.filters |= {"percent": percent, "points": points, "duration": duration}
_environment.filters["png"] = lambda content: data_url("image/png", content)
_environment.filters["svg"] = lambda content: data_url("image/svg+xml", content)
_environment.filters["yaml"] = lambda text: data_url("application/yaml", text.encode())
_environment.filters["csv"] = lambda text: data_url("text/csv", text.encode())
_environment.globals["style"] = jinja2.utils.markupsafe.Markup(_STYLE)
