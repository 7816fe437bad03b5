"""Small made-up notebooks with profiles and claims, for tests of the runner and the report."""

import nbformat

PARAMETERS = 'profile: str = ""  # profile\nseed: int = 0  # seed\nn_images: int = 0  # images'

SECTION = "\n{name}:\n  evaluations: 1000\n"

PROFILE = """common:
  model: mini-sd
  dataset: mini-items
  n_images: 10
  world: the mini world
  verdicts: true
  offline: true
  timeout_s: 60
"""

CLAIM = """
{name}:
  - id: {claim}
    place: Figure 9
    sentence: More is & stays better.
    estimates: accuracy of more minus accuracy of less
    direction: greater
    margin: 0
    kind: {kind}
    unit: points
    covers: images
    paper: 12.5
"""


def write_notebook(folder, name, cells, parameters=PARAMETERS, tag="parameters"):
    """Write a notebook: title, parameters, then code cells, and Markdown cells where the text begins with #."""
    made = [nbformat.v4.new_markdown_cell(f"# {name}")]
    made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": [tag]}))
    for text in cells:
        make = nbformat.v4.new_markdown_cell if text.startswith("#") else nbformat.v4.new_code_cell
        made.append(make(text))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def write_workbook(folder, notebooks, claims=()):
    """Write notebooks (name -> cells), one profile called mini, and claims (notebook, id, kind); return the folder."""
    (folder / "profiles").mkdir(parents=True)
    for name, cells in notebooks.items():
        write_notebook(folder, name, cells)
    sections = "".join(SECTION.format(name=name) for name in notebooks)
    (folder / "profiles" / "mini.yaml").write_text(PROFILE + sections)
    text = "".join(CLAIM.format(name=name, claim=claim, kind=kind) for name, claim, kind in claims)
    (folder / "claims.yaml").write_text(text)
    return folder
