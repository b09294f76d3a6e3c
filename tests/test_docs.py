"""The documentation: links that lead somewhere, pages that are found, and texts that are still true of the code."""

import ast
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import infoaug
from infoaug.models import frameworks
from infoaug.models.backbones import create_backbone
from infoaug.orchestrator import named_configs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.ipynb"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), TUTORIAL])
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def tool(name: str) -> ModuleType:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "site" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def text(page: Path) -> str:
    """The Markdown of a page or a notebook, without code."""
    if page.suffix != ".ipynb":
        return FENCE.sub("", page.read_text(encoding="utf-8"))
    cells = tool("notebook").read(page)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where the repository is shown."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(text(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    links = ["there.md", "there.md#a-heading-with-code", "there.md#another", "gone.md", "https://example.org", "#none"]
    page.write_text("".join(f"[x]({link})\n" for link in links), encoding="utf-8")
    assert broken(page) == ["there.md#another", "gone.md", "#none"]


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml."""


def leaves(nav: Any) -> Iterator[str]:
    for value in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(value, str):
            yield value
        else:
            yield from leaves(value)


def test_every_page_is_in_the_navigation() -> None:
    nav = list(leaves(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]))
    assert len(nav) == len(set(nav))
    ours = {page.with_suffix(".md").name for page in PAGES} - {"README.md"} | {"index.md"}
    assert set(nav) == ours


def test_the_page_of_settings_is_that_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOAUG_STORE", raising=False)
    current = tool("settings").page() == (DOCS / "settings.md").read_text(encoding="utf-8")
    assert current, "run `python docs/site/settings.py`, which writes docs/settings.md anew"


def test_every_setting_is_explained() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert not re.findall(r"^\| `([\w.]+)`°? \|.*\|  \|$", page, re.MULTILINE)
    for name in infoaug.load_config().flat():
        section = re.sub(r"^(pretrain\.augment(_second)?|pretrain\.framework_settings)\..*", r"\1", name)
        assert f"| `{section}`" in page


def test_the_page_of_functions_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in infoaug.__all__ if f"::: infoaug.{name}\n" not in page] == []


def sentences() -> str:
    """All texts in the code; \\0 stands for what is put into them."""
    found = []
    for folder in ("orchestrator", "models", "estimators"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    found.append("".join(parts))
    return "\n".join(found)


def test_the_messages_that_troubleshooting_explains_are_in_the_code() -> None:
    page, code = (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), sentences()
    tables = re.findall(r"^\| message \| what to do \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    messages = [row.split(" | ")[0].removeprefix("| ") for table in tables for row in table.splitlines()]
    assert len(messages) >= 20
    missing = [
        (message, part)
        for message in messages
        for part in re.split(r"'?\(?…\)?'?", message)
        if len(part.strip(" ,:;'?()")) > 3 and part.strip(" ,:;'?()") not in code
    ]
    assert missing == []


def commands() -> dict[str, tuple[str, list[str]]]:
    """Config and overrides of the commands `infoaug run` in the pages, by the command."""
    found = {}
    for page in [DOCS.parent / "README.md", *DOCS.glob("*.md")]:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("infoaug run "):
                    _, _, config, *options = shlex.split(line, comments=True)
                    sets = [value for option, value in itertools.pairwise(options) if option == "--set"]
                    found[shlex.join([config, *sets])] = (config, sets)
    return {command: of for command, of in found.items() if named_configs.find(of[0]).is_file()}


@pytest.mark.parametrize(("config", "sets"), commands().values(), ids=commands())
def test_the_backbone_of_a_command_in_the_pages_can_be_built(config: str, sets: list[str]) -> None:
    page = (DOCS / "start.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n# (\w+)\.py, in the current folder.*?\n(.*?)```", page, re.DOTALL)
    own = {name: types.ModuleType(name) for name, _ in code}
    for name, source in code:
        exec(source, own[name].__dict__)
    with pytest.MonkeyPatch.context() as patched:
        for name, module in own.items():
            patched.setitem(sys.modules, name, module)
        loaded = infoaug.load_config(config, sets)
        made = loaded.pretrain
        backbone = create_backbone(made.backbone, loaded.extract.image_size, **made.backbone_settings)
        frameworks.create(made.framework, backbone, made.framework_settings).make_branch()


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook, full = tool("notebook"), "SCENES, FRAMES, EPOCHS, IMAGES = 4, 48, 8, 600"
    tutorial = notebook.read(TUTORIAL)
    variables = notebook.execute(tutorial, {full: "SCENES, FRAMES, EPOCHS, IMAGES = 2, 24, 2, 100"})
    assert variables["features"].shape == (2 * 96, 128)
    assert (tmp_path / "tutorial" / "export" / "backbone.pt").is_file()
    shown = [output["output_type"] for cell in notebook.code(tutorial) for output in cell["outputs"]]
    assert shown.count("display_data") == 3


def test_the_tutorial_shows_what_it_printed() -> None:
    notebook = tool("notebook")
    tutorial = notebook.read(TUTORIAL)
    assert all(cell["outputs"] for cell in notebook.code(tutorial)), "run `python docs/site/notebook.py`"
    assert "linear probe" in notebook.markdown(tutorial)
    assert TUTORIAL.stat().st_size < 1 << 20


def test_only_pytorch_needs_the_packages_of_cuda() -> None:
    # What README promises of an installation with PyTorch for CPUs.
    of_cuda, needing = re.compile("nvidia|cuda|triton"), set()
    for package in metadata.distributions():
        wanted = (Requirement(text) for text in package.requires or [])
        plain = (one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""}))
        if not of_cuda.search(package.name) and any(of_cuda.search(name) for name in plain):
            needing.add(package.name)
    assert needing <= {"torch"}


def test_another_index_serves_pytorch_alone() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "setup", "TORCH_INDEX=INDEX"]
    plan = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pytorch, rest = (line for line in plan.splitlines() if "pip install" in line)
    assert pytorch.endswith("--constraint constraints.txt --index-url INDEX torch torchvision")
    assert "INDEX" not in rest
