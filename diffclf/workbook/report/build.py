"""Builds the report with Sphinx: the front page, then a page per executed notebook."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from diffclf.workbook import settings
from diffclf.workbook.report.front import front_page
from diffclf.workbook.report.staging import stage
from diffclf.workbook.results import read_run

__all__ = ["build_report"]

_MATHJAX = "sphinx-mathjax-offline"


def _mathjax() -> Path:
    """Return MathJax as one file, from the package that has it.

    Raises:
        ValueError: a package that the report needs is not installed.
    """
    for package in ("sphinx", "myst_nb", "sphinx_book_theme", _MATHJAX):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"the report needs the package {package}: pip install 'diffclf[report]'")
    return Path(importlib.util.find_spec(_MATHJAX).origin).parent / "static" / "mathjax" / "tex-svg.js"


def _stage_all(profile: str, folder: Path, source: Path) -> None:
    """Fill a new folder with all that Sphinx reads."""
    ignored = shutil.ignore_patterns("*.jinja", "__pycache__")
    shutil.copytree(Path(__file__).parent / "site", source, ignore=ignored)
    static = source / "_static"
    for path, name in [(_mathjax(), "mathjax"), *((path, "figures") for path in (folder / "figures").glob("*.png"))]:
        (static / name).mkdir(exist_ok=True)
        shutil.copy(path, static / name)
    records, titles = read_run(folder), {}
    executed = {path.stem: path for path in sorted((folder / "notebooks").glob("*.ipynb"))}
    for name, path in executed.items():
        error = records[name]["error"] if name in records else "the run was interrupted"
        titles[name] = stage(path, source / "nb" / path.name, error, executed)
    page = front_page(profile, folder, settings.reports_dir("reference"), titles)
    (source / "index.md").write_text(page, encoding="utf-8")


def build_report(profile: str = "", *, strict: bool = False) -> Path:
    """Build reports/PROFILE/html from what a run left there; return its front page.

    Args:
        profile: "": $DIFFCLF_PROFILE, else mini.
        strict: a warning of Sphinx is an error, too.

    Raises:
        ValueError: nothing has run at that profile, or a package is missing.
        RuntimeError: Sphinx failed.
    """
    profile = profile or settings.default_profile()
    folder = settings.reports_dir(profile)
    if not (folder / "runs").is_dir():
        raise ValueError(
            f"profile must have been run before its report is built (no runs in {folder}), got {profile!r}"
        )
    with tempfile.TemporaryDirectory(prefix="dc") as scratch:
        source, built = Path(scratch) / "source", Path(scratch) / "html"
        _stage_all(profile, folder, source)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", f"{scratch}/doctrees"]
        command += [*(["-W", "--keep-going"] if strict else []), str(source), str(built)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        messages = done.stderr.replace(f"{source}/", "").strip()
        if done.returncode:
            raise RuntimeError(f"sphinx could not build the report:\n{messages}")
        shutil.rmtree(folder / "html", ignore_errors=True)  # pages of an earlier run
        shutil.copytree(built, folder / "html")
    if messages:
        print(messages, file=sys.stderr)
    return folder / "html" / "index.html"
