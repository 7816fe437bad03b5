"""What a run leaves in reports/PROFILE, as plain data.

    runs/NOTEBOOK.json       how the run went: status, time, settings, model, environment
    claims/NOTEBOOK.json     the claims it judged
    metrics/NOTEBOOK.json    the numbers it recorded
    figures/NOTEBOOK-*, tables/NOTEBOOK-*, notebooks/NOTEBOOK.ipynb, logs/NOTEBOOK.log

Every notebook has files of its own, each written in one step, so two runs of a profile cannot mix their records.

README and report compare with reports/reference, which git keeps: claims, tables and figures of the full profile,
copied by `copy_reference` from a run in which every notebook came to its end, all from one commit and with the weights
that are shipped.
"""

import json
import shutil
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffclf.files import write_json, write_whole
from diffclf.models import load_model
from diffclf.workbook import settings
from diffclf.workbook.run.plan import choose

__all__ = ["MAX_BYTES", "copy_reference", "forget", "not_run", "read_judged", "read_metrics", "read_run"]

MAX_BYTES = 3_000_000
_WEIGHTS = ("name", "dtype", "fingerprint")
_KEPT = ("status", "seconds", "finished", "settings", "seed", "model", "environment")


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
    """Return the judged claims of a profile's notebooks that neither failed nor still run, in the notebooks' order."""
    run, paths = read_run(folder), sorted((folder / "claims").glob("*.json"))
    ended = [path for path in paths if run.get(path.stem, {"status": "ok"})["status"] == "ok"]
    return [claim for path in ended for claim in _read(path)["claims"]]


def forget(folder: Path, notebook: str) -> None:
    """Remove the claims, metrics, figures and tables of an earlier run of a notebook."""
    for pattern in ("claims/{}.json", "metrics/{}.json", "figures/{}-*", "tables/{}-*"):
        for path in folder.glob(pattern.format(notebook)):
            path.unlink()


def _small_figure(path: Path) -> bytes:
    """Return a figure in 256 colours, which plots hardly miss, with its description."""
    described, output = PngInfo(), BytesIO()
    with Image.open(path) as image:
        described.add_itxt("Description", image.info.get("Description", ""))
        image.convert("RGB").quantize(256).save(output, "png", optimize=True, pnginfo=described)
    return min(output.getvalue(), path.read_bytes(), key=len)


def not_run(run: Collection[str]) -> list[str]:
    """Return the notebooks that have no record in a run, by name."""
    return [path.stem for path in choose() if path.stem not in run]


def _check_run(profile: str, run: dict[str, dict[str, Any]], without: Sequence[str]) -> None:
    """Raise ValueError unless a run is whole, from one commit without local changes, and with the weights shipped."""
    left_out = {path.stem for path in choose(without)} if without else set()
    missing = ", ".join(name for name in not_run(run) if name not in left_out)
    failed = ", ".join(name for name, record in run.items() if record["status"] != "ok")
    if missing or failed:
        raise ValueError(f"the {profile} run must be whole: not run {missing or 'none'}, failed {failed or 'none'}")
    commits = {name: str(record["environment"]["commit"]) for name, record in run.items()}
    if len(set(commits.values())) > 1 or any(commit.endswith(("-dirty", "None")) for commit in commits.values()):
        got = ", ".join(f"{name} {commit}" for name, commit in commits.items())
        raise ValueError(f"the {profile} run must be made from one commit without local changes, got {got}")
    used = {tuple(record["model"][key] for key in _WEIGHTS): name for name, record in run.items() if record["model"]}
    for (model, dtype, got), name in used.items():
        shipped = load_model(model, device="cpu", dtype=dtype).fingerprint
        if got != shipped:
            raise ValueError(f"weights of {model} in {name} must be those shipped now, {shipped}, got {got}")


def copy_reference(profile: str = "full", without: Sequence[str] = ()) -> Path:
    """Replace reports/reference by the claims, tables and figures of a profile's run; return the folder.

    `without` has the numbers or names of notebooks that need not have run.
    Raises ValueError, and replaces nothing, if a notebook has not run or failed, notebooks were made from different
    commits, from changed code or with other weights than those shipped, or the copy would exceed MAX_BYTES.
    """
    source, target = settings.reports_dir(profile), settings.reports_dir("reference")
    run = read_run(source)
    _check_run(profile, run, without)
    files = {path: path.read_bytes() for pattern in ("claims/*.json", "tables/*.csv") for path in source.glob(pattern)}
    files |= {path: _small_figure(path) for path in source.glob("figures/*.png")}
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda path: len(files[path])).relative_to(source)
        raise ValueError(f"reference must stay below {MAX_BYTES:,} bytes, got {total:,}; largest: {largest}")
    shutil.rmtree(target, ignore_errors=True)
    for path, content in files.items():
        write_whole(target / path.relative_to(source), content)
    for name, record in run.items():
        write_json(target / "runs" / f"{name}.json", {key: record.get(key) for key in _KEPT})
    return target
