"""The HTML report of a run: opens from disk, with search and mathematics, and asks no network for anything."""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from diffclf.workbook import settings
from diffclf.workbook.results import read_run, short_path

__all__ = ["add_arguments", "build_report", "run"]

_MISSING = "the report needs the packages of the extra [report]: pip install 'diffclf[report]'"


def _mathjax() -> Path:
    """Return MathJax as one file, from the package that carries it (its folder is no importable name).

    Raises:
        ValueError: the package is not installed.
    """
    from importlib import metadata

    try:
        files = metadata.files("sphinx-mathjax-offline") or []
    except metadata.PackageNotFoundError:
        raise ValueError(_MISSING) from None
    for file in files:
        if file.parts[-2:] == ("mathjax", "tex-svg.js"):
            return Path(file.locate())
    raise ValueError("sphinx-mathjax-offline must contain mathjax/tex-svg.js, got none: install version 0.0.2")


def _stage(profile: str, folder: Path, source: Path) -> None:
    """Fill a fresh folder with all that Sphinx reads."""
    from diffclf.workbook.report.front import front_page
    from diffclf.workbook.report.staging import stage

    shutil.rmtree(source, ignore_errors=True)
    site = Path(__file__).parent / "site"
    shutil.copytree(site, source, ignore=shutil.ignore_patterns("*.jinja", "__pycache__"))
    (source / "_static" / "mathjax").mkdir()
    shutil.copy(_mathjax(), source / "_static" / "mathjax")
    (source / "_static" / "figures").mkdir()
    for path in (folder / "figures").glob("*.png"):
        shutil.copy(path, source / "_static" / "figures")
    records, titles = read_run(folder), {}
    executed = sorted((folder / "notebooks").glob("*.ipynb"))
    names = {path.stem for path in executed}
    for path in executed:
        record = records.get(path.stem, {"status": "failed", "error": "the run was interrupted"})
        titles[path.stem] = stage(path, source / "nb" / path.name, record["status"], record.get("error", ""), names)
    page = front_page(profile, folder, reference_dir(), titles)
    (source / "index.md").write_text(page, encoding="utf-8")


def reference_dir() -> Path:
    """Return the folder of the reference run's results."""
    return settings.reports_dir("reference")


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
    if not (folder / "run.json").is_file():
        raise ValueError(
            f"profile must have been run before its report is built (no run.json in {folder}), got {profile!r}"
        )
    for package in ("sphinx", "myst_nb", "sphinx_book_theme"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(_MISSING)
    source, target = folder / "report-src", folder / "html"
    _stage(profile, folder, source)
    shutil.rmtree(target, ignore_errors=True)  # no page of an earlier run may stay behind
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-b",
            "html",
            "-d",
            str(folder / "doctrees"),
            *(["-W", "--keep-going"] if strict else []),
            str(source),
            str(target),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(folder / "doctrees", ignore_errors=True)
    messages = done.stderr.replace(str(source) + "/", "").strip()
    if done.returncode:
        raise RuntimeError(f"sphinx could not build the report:\n{messages}")
    if messages:
        print(messages, file=sys.stderr)
    return target / "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diffclf report`."""
    parser.add_argument(
        "--profile", default="", help="smoke, mini, full or paper (default: $DIFFCLF_PROFILE, else mini)"
    )
    parser.add_argument("--strict", action="store_true", help="fail on a warning")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf report`: build it, print where it is, return the exit status."""
    print(f"Report: {short_path(build_report(args.profile, strict=args.strict))}")
    return 0
