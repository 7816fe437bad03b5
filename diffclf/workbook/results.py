"""What a run leaves in reports/PROFILE, as plain data.

    runs/NOTEBOOK.json       how the run went: status, time, settings, model, environment
    claims/NOTEBOOK.json     the claims it judged
    metrics/NOTEBOOK.json    the numbers it recorded
    figures/NOTEBOOK-*, tables/NOTEBOOK-*, notebooks/NOTEBOOK.ipynb, logs/NOTEBOOK.log

Every notebook has files of its own, each written in one step, so two runs of a profile cannot mix their records.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["forget", "read_judged", "read_metrics", "read_run"]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_run(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of each notebook in a profile's folder, by name; empty where nothing ran."""
    return {path.stem: _read(path) for path in sorted((folder / "runs").glob("*.json"))}


def read_metrics(folder: Path, notebook: str) -> dict[str, Any]:
    """Return what a notebook recorded; empty where it recorded nothing."""
    path = folder / "metrics" / f"{notebook}.json"
    return _read(path) if path.is_file() else {}


def read_judged(folder: Path) -> list[dict[str, Any]]:
    """Return the claims judged in a profile's folder, in the order of notebooks.

    The claims of a notebook that failed or is still running are left out.
    """
    run, records = read_run(folder), []
    for path in sorted((folder / "claims").glob("*.json")):
        if run.get(path.stem, {"status": "ok"})["status"] == "ok":
            records += _read(path)["claims"]
    return records


def forget(folder: Path, notebook: str) -> None:
    """Remove the claims, metrics, figures and tables of an earlier run of a notebook."""
    for kind in ("claims", "metrics"):
        (folder / kind / f"{notebook}.json").unlink(missing_ok=True)
    for kind in ("figures", "tables"):
        for path in (folder / kind).glob(f"{notebook}-*"):
            path.unlink()
