"""HTML pages from Jinja templates, with one style for phones, print and dark mode.

A page is self-contained: its pictures are data URLs, and it fetches nothing.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2

from infoaug.orchestrator.reporting.statistics import percent, points


def template(name: str, captions: Mapping[str, str]) -> jinja2.Template:
    """Load a page from the folder `templates` beside this file.

    Pages extend `layout.html` with the blocks `title`, `header` and `main`, and may import the macros `picture` and
    `reproduce` from `parts.html`. Values are escaped, and an undefined name is an error. The filters are `percent` and
    `points` (of a `statistics.Summary`), `duration` (of seconds), and `png`, `svg`, `yaml` and `csv`, which turn bytes
    or text into a data URL.

    Args:
        name: the template's file name.
        captions: captions of the page's pictures, by picture.
    """
    return _environment.get_template(name, globals={"captions": captions})


def data_url(kind: str, content: bytes) -> str:
    """Bytes of a media type as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def without_passwords(text: str) -> str:
    """Remove user names and passwords from the URLs in a text."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def duration(seconds: float) -> str:
    """Format seconds as `12.3 s`, `4 min 05 s` or `2 h 01 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
_environment = jinja2.Environment(loader=_loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
_environment.filters |= {"percent": percent, "points": points, "duration": duration}
_environment.filters["png"] = lambda content: data_url("image/png", content)
_environment.filters["svg"] = lambda content: data_url("image/svg+xml", content)
_environment.filters["yaml"] = lambda text: data_url("application/yaml", text.encode())
_environment.filters["csv"] = lambda text: data_url("text/csv", text.encode())
