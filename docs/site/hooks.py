"""What the site needs beyond the pages in docs/: README as its first page, the notebook, and files that pages link to.

A link in a page is a path in the repository, so that it works where the repository is shown. Here it becomes a link
within the site: to a page, or to a copy of the file under `files/`.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file alone

import notebook

ROOT = Path(__file__).parents[2]
# Pages of the site that lie elsewhere in the repository: where they are in the site, and where in the repository.
PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
NOTEBOOKS = {"tutorial.md": "docs/tutorial.ipynb"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#])")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
COPIED = "files/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and copies of the files that pages link to."""
    for uri, place in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / place).read_text(encoding="utf-8")))
    for uri, place in NOTEBOOKS.items():
        files.append(File.generated(config, uri, content=notebook.markdown(notebook.read(ROOT / place))))
    linked = set().union(*(_linked(file) for file in files.documentation_pages()))
    outside = {place for place in linked if not _page(place)}
    for place in sorted(outside):
        if (ROOT / place).is_dir():
            files.append(File.generated(config, _copy(place), content=_listing(place)))
            outside |= {path.relative_to(ROOT).as_posix() for path in _below(place)}
    for place in sorted(outside):
        if (ROOT / place).is_file():
            files.append(File.generated(config, _copy(place), abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    uri = page.file.src_uri

    def within(match: re.Match[str]) -> str:
        place = _place(uri, match[1])
        target = _page(place) or _copy(place)
        return posixpath.relpath(target, posixpath.dirname(uri) or ".")

    if uri.startswith(COPIED):
        return markdown
    return "".join(part if FENCE.match(part) else LINK.sub(within, part) for part in FENCE.split(markdown))


def _place(uri: str, link: str) -> str:
    """Where in the repository a link of the page `uri` leads to."""
    source = PAGES.get(uri) or NOTEBOOKS.get(uri) or f"docs/{uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _page(place: str) -> str:
    """The page or picture of the site that stands for a file of the repository; empty if none does."""
    for uri, source in (PAGES | NOTEBOOKS).items():
        if source == place:
            return uri
    return place.removeprefix("docs/") if place.startswith("docs/") else ""


def _copy(place: str) -> str:
    """Where in the site a file or a folder of the repository is copied to."""
    is_folder = (ROOT / place).is_dir()
    return f"{COPIED}{place}/index.md" if is_folder else COPIED + (place if Path(place).suffix else f"{place}.txt")


def _linked(file: File) -> set[str]:
    text = "".join(part for part in FENCE.split(file.content_string) if not FENCE.match(part))
    return {_place(file.src_uri, link) for link in LINK.findall(text)}


def _listing(place: str) -> str:
    """A page that lists the files of a folder."""
    names = [path.relative_to(ROOT / place).as_posix() for path in _below(place)]
    return f"# `{place}/`\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def _below(place: str) -> list[Path]:
    paths = (path for path in (ROOT / place).rglob("*.*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(paths)
