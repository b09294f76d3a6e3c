"""HTML pages from Jinja templates, with one style for phones, print and dark mode.

The secrets of URLs are masked in all values. A page is self-contained: its pictures are data URLs, and it fetches
nothing.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from infoaug.orchestrator.masking import without_secrets
from infoaug.orchestrator.reporting.statistics import percent, points


def template(name: str, captions: Mapping[str, str]) -> jinja2.Template:
    """Load a page from the folder `templates` beside this file.

    Pages extend `layout.html` with the blocks `title`, `header` and `main`, and may import the macros `picture` and
    `reproduce` from `parts.html`. Values are escaped, and an undefined name is an error. The filters are `percent` and
    `points` (of a `statistics.Summary`), `duration` (of seconds), `parted` (of a number's text), and `png`, `svg`,
    `yaml` and `csv`, which turn bytes or text into a data URL.

    Args:
        name: the template's file name.
        captions: captions of the page's pictures, by picture.
    """
    return _environment.get_template(name, globals={"captions": captions})


def source(name: str) -> str:
    """The text of a file of the folder `templates`, such as a script; in a page it is put in as it is."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def data_url(kind: str, content: bytes) -> str:
    """Bytes of a media type as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def duration(seconds: float) -> str:
    """Format seconds as `12.3 s`, `4 min 05 s` or `2 h 01 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def in_percent(share: float, digits: int = 0) -> str:
    """Format a share as `47 %`, or with digits behind the point."""
    return f"{100 * share:.{digits}f} %"


def parted(text: str) -> Markup:
    """A number and what stands behind it in brackets, between which a line may break, and nowhere else."""
    head, bracket, rest = text.partition(" (")
    whole = Markup('<span class="whole">{}</span>')
    return whole.format(head) + (Markup(" ") + whole.format(f"({rest}") if bracket else "")


def _shown(value: Any) -> Any:
    """A value as a page shows it. HTML was put together from such values."""
    return without_secrets(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


_FOLDER = Path(__file__).parent / "templates"
_loader = jinja2.FileSystemLoader(_FOLDER)
_environment = jinja2.Environment(
    loader=_loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined, finalize=_shown
)
_environment.filters |= {"percent": percent, "points": points, "duration": duration, "parted": parted}
_environment.filters["in_percent"] = in_percent
_environment.filters["png"] = lambda content: data_url("image/png", content)
_environment.filters["svg"] = lambda content: data_url("image/svg+xml", content)
_environment.filters["yaml"] = lambda text: data_url("application/yaml", without_secrets(text).encode())
_environment.filters["csv"] = lambda text: data_url("text/csv", text.encode())
