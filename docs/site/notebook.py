"""Run a notebook and write its outputs into it, or give it as Markdown; with no package beyond the notebook's own.

python docs/site/notebook.py docs/tutorial.ipynb
"""

import base64
import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
DPI = 90  # of figures


def read(path: Path) -> Notebook:
    """The notebook in a file."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code(notebook: Notebook) -> list[Notebook]:
    """Its cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(notebook: Notebook, values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the cells of code in the current folder, and keep in each what it prints and shows.

    Args:
        notebook: changed in place.
        values: texts of the first cell to replace, such as other numbers.

    Returns:
        The variables that the cells leave.
    """
    import matplotlib

    matplotlib.use("agg")
    variables: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code(notebook), 1):
        source = "".join(cell["source"])
        for old, new in (values or {}).items() if number == 1 else ():
            if old not in source:
                raise ValueError(f"the first cell has no '{old}'")
            source = source.replace(old, new)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # plt.show() without a window
            exec(compile(source, f"cell {number}", "exec"), variables)
        cell["execution_count"] = number
        cell["outputs"] = [*_stream(printed.getvalue()), *_figures()]
    return variables


def markdown(notebook: Notebook) -> str:
    """The notebook as a page: texts as they are, code in fences, and outputs below it."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            else:
                parts.append(f"![output](data:image/png;base64,{output['data']['image/png']})")
    return "\n\n".join(parts) + "\n"


def _stream(text: str) -> list[Notebook]:
    return [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []


def _figures() -> list[Notebook]:
    """The open figures as PNG, closed."""
    import matplotlib.pyplot as plt

    found = []
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        found.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return found


def main() -> None:
    """Run the notebooks named on the command line in an empty folder, and write them with their outputs."""
    for name in sys.argv[1:]:
        path = Path(name).absolute()
        notebook = read(path)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            execute(notebook)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


if __name__ == "__main__":
    main()
