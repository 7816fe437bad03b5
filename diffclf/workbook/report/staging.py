"""Executed notebooks made ready for Sphinx: descriptions on figures, no code where nobody reads it, failures marked.

What a notebook shows travels with it; nothing is computed or run again here.
"""

import re
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

__all__ = ["stage", "title_of"]

_WIDGET = "application/vnd.jupyter.widget-view+json"
_LINK = re.compile(r"\[([^\]]+)\]\((?:\./)?(\d\d_\w+)\.ipynb(?:#[^)]*)?\)")
_BANNERS = {"papermill-error-cell-tag"}


def title_of(notebook: NotebookNode, name: str) -> str:
    """Return the text of the first heading, without its formatting; the name where there is none."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            if line.startswith("# "):
                return line[2:].replace("*", "").replace("`", "").strip()
    return name


def _failure(error: str) -> NotebookNode:
    """Return a cell with a red box that says where the run ended."""
    text = escape(error) or "unknown error"
    box = '<div class="failed" role="alert"><strong>✗ This notebook did not run to its end.</strong> '
    box += f"<code>{text}</code><br>What it had computed until then stands below; none of its claims is counted.</div>"
    return nbformat.v4.new_markdown_cell(f"```{{raw}} html\n{box}\n```")


def _without_widgets(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs without views that need a live kernel, and without those that then show nothing."""
    kept = []
    for output in outputs:
        data = output.get("data")
        if data is not None and _WIDGET in data:
            data.pop(_WIDGET)
            if set(data) <= {"text/plain"}:
                continue
        kept.append(output)
    return kept


def _describe_images(cell: NotebookNode) -> None:
    """Give the cell's picture the description that came with it: Sphinx looks for it in the cell, not the output."""
    for output in cell.outputs:
        data, metadata = output.get("data", {}), output.get("metadata", {})
        for kind in ("image/png", "image/svg+xml", "image/jpeg"):
            if kind in data:
                alt = metadata.get(kind, {}).get("alt") or "Figure without a description"
                image: dict[str, Any] = {"alt": " ".join(alt.split())}
                if metadata.get(kind, {}).get("width"):
                    image["width"] = f"{metadata[kind]['width']}px"
                cell.metadata.setdefault("mystnb", {})["image"] = image


def _split_images(cell: NotebookNode) -> list[NotebookNode]:
    """Return the cell, then one without code for each further picture: a cell has room for one description."""
    pictured = [output for output in cell.outputs if any(kind.startswith("image/") for kind in output.get("data", {}))]
    if len(pictured) < 2:
        return [cell]
    cut = next(index for index, output in enumerate(cell.outputs) if output is pictured[1])
    rest = nbformat.v4.new_code_cell("", outputs=cell.outputs[cut:], metadata={"tags": ["remove-input"]})
    cell.outputs = cell.outputs[:cut]
    return [cell, *_split_images(rest)]


def _without_dead_links(text: str, pages: Collection[str]) -> str:
    """Return Markdown in which a link to a notebook without a page is plain text."""
    return _LINK.sub(lambda link: link[0] if link[2] in pages else link[1], text)


def stage(source: Path, target: Path, status: str, error: str, pages: Collection[str] = ()) -> str:
    """Write a notebook as the report shows it; return its title.

    Args:
        source: executed notebook.
        target: file to write.
        status: "ok", or the page gets a red box.
        error: what went wrong.
        pages: names of the notebooks that have a page.
    """
    notebook = nbformat.read(source, as_version=4)
    title = title_of(notebook, source.stem)
    notebook.metadata.pop("widgets", None)
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if tags & _BANNERS:
            continue
        if cell.cell_type != "code":
            cell.source = _without_dead_links(cell.source, pages)
            cells.append(cell)
            continue
        if "parameters" in tags or "solution" in tags:
            cell.metadata["tags"] = sorted(tags | {"hide-input"})
        cell.outputs = _without_widgets(cell.outputs)
        cells += _split_images(cell)
    for cell in cells:
        if cell.cell_type == "code":
            _describe_images(cell)
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.lstrip().startswith("# "):
        cells.insert(0, nbformat.v4.new_markdown_cell(f"# {title}"))
    if status != "ok":
        cells.insert(1, _failure(error))
    notebook.cells = cells
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return title
