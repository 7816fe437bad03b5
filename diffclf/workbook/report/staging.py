"""Makes executed notebooks and the pages of docs/ ready for Sphinx. Nothing is run.

Figures get their descriptions, failures a red box, and links to notebooks lead to their pages.
"""

import re
from collections.abc import Collection
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from diffclf.workbook.display import html_text

__all__ = ["stage", "stage_guide"]

_LINK = re.compile(r"\[([^\]]+)\]\((?:\./|\.\./notebooks/)?(\d\d_\w+)\.ipynb(?:#[^)]*)?\)")
_BANNER = "papermill-error-cell-tag"


def _title(notebook: NotebookNode) -> str:
    """Return the text of the first heading, without its formatting; "" where there is none."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.*)", text, re.MULTILINE)
    return re.sub("[*`]", "", heading[1]).strip() if heading else ""


def _failure(error: str) -> NotebookNode:
    """Return a cell with a red box that says how the run ended."""
    box = (
        '<div class="failed" role="alert"><strong>✗ This notebook did not run to its end.</strong> '
        f"<code>{html_text(error)}</code><br>What it had computed until then stands below; none of its claims is "
        "counted.</div>"
    )
    return nbformat.v4.new_markdown_cell(f"```{{raw}} html\n{box}\n```")


def _one_output_each(cell: NotebookNode) -> list[NotebookNode]:
    """Return a code cell as cells of one output each; those after the first have no code.

    A picture gets the description that came with it: Sphinx takes the description from the cell.
    """
    outputs, cells = cell.outputs, [cell]
    # The text of a cell without code: MyST-NB leaves out a cell that has none, and its output.
    cells += [nbformat.v4.new_code_cell("...", metadata={"tags": ["remove-input"]}) for _ in outputs[1:]]
    for part, output in zip(cells, outputs, strict=False):  # a cell without outputs stays as it is
        part.outputs = [output]
        if "image/png" in output.get("data", {}):
            stated = output.get("metadata", {}).get("image/png", {})
            image = {"alt": " ".join(stated.get("alt", "Figure without a description").split())}
            image |= {"width": f"{stated['width']}px"} if "width" in stated else {}
            part.metadata["mystnb"] = {"image": image}
    return cells


def stage(source: Path, target: Path, error: str, pages: Collection[str] = ()) -> str:
    """Write an executed notebook as the report shows it; return its title.

    The error is shown in a red box; "" means that there was none. `pages` are the names of the notebooks that have a
    page; links to other notebooks become plain text.
    """
    notebook = nbformat.read(source, as_version=4)
    title, cells = _title(notebook) or source.stem, []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "code":
            if tags & {"parameters", "solution"}:
                cell.metadata["tags"] = sorted(tags | {"hide-input"})
            cells += _one_output_each(cell)
        elif _BANNER not in tags:
            cell.source = _LINK.sub(lambda link: link[0] if link[2] in pages else link[1], cell.source)
            cells.append(cell)
    if not (cells and cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")):
        cells.insert(0, nbformat.v4.new_markdown_cell(f"# {title}"))
    if error:
        cells.insert(1, _failure(error))
    notebook.cells = cells
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return title


def stage_guide(source: Path, target: Path, pages: Collection[str] = ()) -> None:
    """Write a page of docs/ as the report shows it; links to notebooks without a page become plain text."""
    text = source.read_text(encoding="utf-8")
    text = _LINK.sub(lambda link: f"[{link[1]}](../nb/{link[2]}.ipynb)" if link[2] in pages else link[1], text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
