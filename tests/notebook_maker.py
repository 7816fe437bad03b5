"""Small made-up notebooks with claims and settings, for tests of the runner and the report."""

import shutil
from pathlib import Path

import nbformat
import yaml

PARAMETERS = 'profile: str = ""  # profile\nseed: int = 0  # seed\nn_images: int = 0  # images'
SETTINGS = {"all": {"n_images": 10, "timeout_s": 60}}
COMMON = Path(__file__).parents[1] / "notebooks" / "common.yaml"


def make_claim(claim, kind="test"):
    """Return a claim as a notebook's file states it."""
    return {
        "id": claim, "place": "Figure 9", "sentence": "More is & stays better.", "direction": "greater", "margin": 0,
        "estimates": "accuracy of more minus accuracy of less", "kind": kind, "unit": "points", "covers": ["images"],
        "paper": 12.5,
    }  # fmt: skip


def write_notebook(folder, name, cells, claims=(), settings=SETTINGS, parameters=PARAMETERS, tag="parameters"):
    """Add a notebook to a folder: NN_name.ipynb and NN_name.yaml, beside the repository's own common.yaml.

    cells: the text of code cells, and of Markdown cells where it begins with #, after a title and the parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(COMMON, folder)
    made = [nbformat.v4.new_markdown_cell(f"# {name}")]
    made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": [tag]}))
    for text in cells:
        make = nbformat.v4.new_markdown_cell if text.startswith("#") else nbformat.v4.new_code_cell
        made.append(make(text))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), folder / f"{name}.ipynb")
    content = {"claims": list(claims), "settings": settings}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
