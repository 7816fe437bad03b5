"""Builds the report with Sphinx.

Its front page says whether the paper's claims held (a sentence, a forest plot, tables), shows the figures and tells
what produced them; then come a page per executed notebook and the
pages of docs/.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from diffclf.paths import home
from diffclf.workbook import settings
from diffclf.workbook.display import SIGNS, answer, how_judged, html_text, interval, lean, number
from diffclf.workbook.plots.forest import forest, forest_alt
from diffclf.workbook.plots.style import set_style
from diffclf.workbook.provenance import describe, duration
from diffclf.workbook.report.staging import stage, stage_guide
from diffclf.workbook.results import read_judged, read_run

__all__ = ["build_report"]

_SITE = Path(__file__).parent / "site"
_MATHJAX = "sphinx-mathjax-offline"
_SENTENCE = re.compile(r".*?\.(?=\s|$)")
_CONTRAST = ("estimates", "direction", "margin", "unit")


def _mathjax() -> Path:
    """Return MathJax as one file, from the package that has it; raise ValueError where the report lacks a package."""
    for package in ("sphinx", "myst_nb", "sphinx_book_theme", _MATHJAX):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"the report needs the package {package}: pip install 'diffclf[report]'")
    return Path(importlib.util.find_spec(_MATHJAX).origin).parent / "static" / "mathjax" / "tex-svg.js"


def _figures(folder: Path, notebooks: dict[str, str]) -> list[dict[str, str]]:
    """Return notebook, file, description and caption of the notebooks' figures, in the order they were drawn.

    The caption is the first sentence of the description.
    """
    found, drawn = [], (folder / "figures").glob("*.png")
    for path in sorted(drawn, key=lambda path: (path.name[:2], path.stat().st_mtime_ns)):
        notebook = path.stem.partition("-")[0]
        if notebook in notebooks:
            with Image.open(path) as image:
                alt = image.info.get("Description", "")
            sentence = _SENTENCE.match(alt)
            caption = sentence[0] if sentence else alt
            found.append(
                {"notebook": notebook, "source": f"_static/figures/{path.name}", "alt": alt, "caption": caption}
            )
    return found


def _facts(run: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what produced the run; where notebooks differ, all that was used."""
    described = [describe(record["environment"]) for record in run.values()]
    facts = {name: "; ".join(sorted({facts[name] for facts in described})) for name in described[0]}
    return {**facts, "Wall time": duration(sum(record["seconds"] for record in run.values()))}


def _weights(run: dict[str, dict[str, Any]], notebook: str) -> str:
    """Return the fingerprint of the weights that a notebook's run used; "" where it used no model."""
    return (run.get(notebook, {}).get("model") or {}).get("fingerprint", "")


def _reference(judged: list[dict[str, Any]], run: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the claims of the reference run by id, each with what differs from this run as its `marks`."""
    folder = settings.reports_dir("reference")
    theirs, found = read_run(folder), {claim["id"]: claim for claim in read_judged(folder)}
    for claim in (claim for claim in judged if claim["id"] in found):
        other = found[claim["id"]]
        marks = {
            "other weights": _weights(run, claim["notebook"]) != _weights(theirs, other["notebook"]),
            "another contrast or margin": any(claim[name] != other[name] for name in _CONTRAST),
        }
        other["marks"] = [mark for mark, differs in marks.items() if differs]
    return found


def _commits(run: dict[str, dict[str, Any]]) -> str:
    """Return the commits that the notebooks of a run were made from."""
    return ", ".join(sorted({str(record["environment"]["commit"])[:12] for record in run.values()}))


def _guides() -> list[Path]:
    """Return the pages of docs/."""
    return sorted((home() / "docs").glob("*.md"))


def _escaped(value: object) -> Markup:
    """Return a value of the template as safe HTML; what a macro made is safe already."""
    return value if isinstance(value, Markup) else Markup(html_text(value))


def _front_page(profile: str, folder: Path, titles: dict[str, str]) -> str:
    """Return the Markdown of the front page; `titles` are those of the notebooks that have a page, by name."""
    run, judged = read_run(folder), read_judged(folder)
    environment = Environment(autoescape=True, finalize=_escaped, undefined=StrictUndefined, trim_blocks=True)
    text = (_SITE / "index.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        profile=profile,
        judged=judged,
        answer=answer(judged),
        forest_alt=forest_alt(judged),
        signs=SIGNS,
        reference={} if profile == "full" else _reference(judged, run),
        commits=_commits(read_run(settings.reports_dir("reference"))),
        run=run,
        failed={name: record["error"] for name, record in run.items() if record["status"] != "ok"},
        facts=_facts(run),
        figures=_figures(folder, titles),
        pages={name: f"nb/{name}.html" for name in titles},
        guides=[f"docs/{path.stem}" for path in _guides()],
        titles=titles,
        **{function.__name__: function for function in (number, interval, how_judged, lean, duration)},
    )


def _stage_all(profile: str, folder: Path, source: Path) -> None:
    """Fill a new folder with all that Sphinx reads."""
    shutil.copytree(_SITE, source, ignore=shutil.ignore_patterns("*.jinja", "__pycache__"))
    for name, paths in {"mathjax": [_mathjax()], "figures": (folder / "figures").glob("*.png")}.items():
        (source / "_static" / name).mkdir()
        for path in paths:
            shutil.copy(path, source / "_static" / name)
    if judged := read_judged(folder):
        set_style()
        for name, narrow in {"forest": False, "forest-narrow": True}.items():
            forest(judged, narrow=narrow).savefig(source / "_static" / f"{name}.svg", metadata={"Date": None})
    records, titles = read_run(folder), {}
    executed = {path.stem: path for path in sorted((folder / "notebooks").glob("*.ipynb"))}
    for name, path in executed.items():
        error = records[name]["error"] if name in records else "the run was interrupted"
        titles[name] = stage(path, source / "nb" / path.name, error, executed)
    for path in _guides():
        stage_guide(path, source / "docs" / path.name, titles)
    (source / "index.md").write_text(_front_page(profile, folder, titles), encoding="utf-8")


def build_report(profile: str = "", *, strict: bool = False) -> Path:
    """Build reports/PROFILE/html from what a run left there; return its front page.

    If `strict`, a warning of Sphinx is an error. Raises ValueError if nothing has run at that profile or a package is
    missing, RuntimeError if Sphinx failed.
    """
    profile = settings.chosen_profile(profile)
    folder = settings.reports_dir(profile)
    if not read_run(folder):
        raise ValueError(f"profile must have been run before its report (no runs in {folder}), got {profile!r}")
    with tempfile.TemporaryDirectory(prefix="dc") as scratch:
        source, built = Path(scratch) / "source", Path(scratch) / "html"
        _stage_all(profile, folder, source)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", f"{scratch}/doctrees"]
        command += [*(["-W", "--keep-going"] if strict else []), str(source), str(built)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        messages = done.stderr.replace(f"{source}/", "")
        if done.returncode:
            raise RuntimeError(f"sphinx could not build the report:\n{messages.strip()}")
        shutil.rmtree(folder / "html", ignore_errors=True)  # pages of an earlier run
        shutil.copytree(built, folder / "html")
    sys.stderr.write(messages)
    return folder / "html" / "index.html"
