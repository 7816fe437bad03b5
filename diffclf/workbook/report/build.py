"""Builds the report with Sphinx.

Its front page says whether the paper's claims held, shows the figures and tells what produced them; then comes a page
per executed notebook.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from diffclf.workbook import settings
from diffclf.workbook.claims import VERDICTS
from diffclf.workbook.display import SIGNS, how_judged, html_text, interval, number
from diffclf.workbook.provenance import describe, duration
from diffclf.workbook.report.staging import stage
from diffclf.workbook.results import read_judged, read_run

__all__ = ["build_report"]

_SITE = Path(__file__).parent / "site"
_MATHJAX = "sphinx-mathjax-offline"


def _mathjax() -> Path:
    """Return MathJax as one file, from the package that has it; raise ValueError where the report lacks a package."""
    for package in ("sphinx", "myst_nb", "sphinx_book_theme", _MATHJAX):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"the report needs the package {package}: pip install 'diffclf[report]'")
    return Path(importlib.util.find_spec(_MATHJAX).origin).parent / "static" / "mathjax" / "tex-svg.js"


def _figures(folder: Path, notebooks: dict[str, str]) -> list[dict[str, str]]:
    """Return notebook, name, file and description of the notebooks' figures, in the order they were drawn."""
    found, drawn = [], (folder / "figures").glob("*.png")
    for path in sorted(drawn, key=lambda path: (path.name[:2], path.stat().st_mtime_ns)):
        notebook, _, name = path.stem.partition("-")
        if notebook in notebooks:
            with Image.open(path) as image:
                alt = image.info.get("Description", "")
            found.append({"notebook": notebook, "name": name, "source": f"_static/figures/{path.name}", "alt": alt})
    return found


def _facts(run: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what produced the run; where notebooks differ, all that was used."""
    described = [describe(record["environment"]) for record in run.values()]
    facts = {name: "; ".join(sorted({facts[name] for facts in described})) for name in described[0]}
    return {**facts, "Wall time": duration(sum(record["seconds"] for record in run.values()))}


def _escaped(value: object) -> Markup:
    """Return a value of the template as safe HTML; what a macro made is safe already."""
    return value if isinstance(value, Markup) else Markup(html_text(value))


def _front_page(profile: str, folder: Path, titles: dict[str, str]) -> str:
    """Return the Markdown of the front page; `titles` are those of the notebooks that have a page, by name."""
    run, judged, reference = read_run(folder), read_judged(folder), read_judged(settings.reports_dir("reference"))
    environment = Environment(autoescape=True, finalize=_escaped, undefined=StrictUndefined, trim_blocks=True)
    text = (_SITE / "index.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        profile=profile,
        judged=judged,
        worlds=sorted({claim["world"] for claim in judged if claim["world"]}),
        counts={word: sum(claim["verdict"] == word for claim in judged) for word in VERDICTS},
        signs=SIGNS,
        reference={} if profile == "full" else {claim["id"]: claim for claim in reference},
        run=run,
        failed={name: record["error"] for name, record in run.items() if record["status"] != "ok"},
        facts=_facts(run),
        figures=_figures(folder, titles),
        pages={name: f"nb/{name}.html" for name in titles},
        titles={**{claim["notebook"]: claim["notebook"] for claim in judged}, **titles},
        **{function.__name__: function for function in (number, interval, how_judged, duration)},
    )


def _stage_all(profile: str, folder: Path, source: Path) -> None:
    """Fill a new folder with all that Sphinx reads."""
    shutil.copytree(_SITE, source, ignore=shutil.ignore_patterns("*.jinja", "__pycache__"))
    for name, paths in {"mathjax": [_mathjax()], "figures": (folder / "figures").glob("*.png")}.items():
        (source / "_static" / name).mkdir()
        for path in paths:
            shutil.copy(path, source / "_static" / name)
    records, titles = read_run(folder), {}
    executed = {path.stem: path for path in sorted((folder / "notebooks").glob("*.ipynb"))}
    for name, path in executed.items():
        error = records[name]["error"] if name in records else "the run was interrupted"
        titles[name] = stage(path, source / "nb" / path.name, error, executed)
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
