"""What a run leaves in reports/PROFILE, as plain data.

    runs/NOTEBOOK.json       how the run went: status, time, settings, model, environment
    claims/NOTEBOOK.json     the claims it judged
    metrics/NOTEBOOK.json    the numbers it recorded
    predictions/NOTEBOOK-*   what each method answered on each image (Parquet)
    figures/NOTEBOOK-*, tables/NOTEBOOK-*, notebooks/NOTEBOOK.ipynb, logs/NOTEBOOK.log

Every notebook has files of its own, each written in one step, so two runs of a profile cannot mix their records.

README and report compare with reports/reference, which git keeps: claims, tables and figures of the full profile,
copied by `copy_reference` from notebooks that came to their end, with the weights that are shipped. The record of each
notebook has the commit that it was run from.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffclf.files import write_json, write_whole
from diffclf.models import load_model
from diffclf.workbook import settings
from diffclf.workbook.claims import ALLOWED, VERDICTS
from diffclf.workbook.run.plan import choose

__all__ = ["MAX_BYTES", "copy_reference", "forget", "not_run", "read_judged", "read_metrics", "read_run"]

MAX_BYTES = 3_000_000
_WEIGHTS = ("name", "dtype", "fingerprint")
_KEPT = ("status", "seconds", "finished", "settings", "seed", "model", "environment")


_REMEDY = "remove the file or run the notebook again"


def _read(path: Path) -> dict[str, Any]:
    """Return a record; raise ValueError, with the file's name, where it holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object, got {error}; {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {content!r:.80}; {_REMEDY}")
    return content


def _is_number(value: object) -> bool:
    """Return whether a value is a number that plots and tables can take."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15  # false for NaN


def _check(path: Path, content: object, rules: Mapping[str, Any]) -> None:
    """Raise ValueError unless a record has every field, each of the type, among the values, or true to the function."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold objects, got {content!r:.80}; {_REMEDY}")
    for name, rule in rules.items():
        value = content.get(name)
        if isinstance(rule, FunctionType):
            fits = rule(value)
        else:
            fits = value in list(rule) if isinstance(rule, tuple) else isinstance(value, rule)
        if name not in content or not fits:
            raise ValueError(f"{name} in {path} is malformed: {value!r:.80}; {_REMEDY}")


def _is_name_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_end(value: object) -> bool:
    return value is None or _is_number(value)


_RUN = {"status": ("ok", "running", "failed"), "seconds": _is_number, "settings": dict, "environment": dict}
_RUN |= {"model": dict | None, "seed": int | None}
_ENVIRONMENT = {
    "commit": str | None,
    "packages": dict,
    "python": str,
    "platform": str,
    "cpu": str,
    "gpus": _is_name_list,
}
_CLAIM = dict.fromkeys(("id", "notebook", "place", "sentence", "estimates", "unit", "paper_note", "words"), str)
_CLAIM |= dict.fromkeys(("profile", "world", "detail"), str) | {"covers": _is_name_list, "verdict": (*VERDICTS, None)}
_CLAIM |= {name: ALLOWED[name] for name in ("direction", "kind")}
_CLAIM |= dict.fromkeys(("margin", "estimate"), _is_number) | dict.fromkeys(("low", "high", "paper", "n"), _is_end)
_CLAIM |= {"level": lambda value: _is_number(value) and 0 < value < 1}


def _records(folder: Path, without: Collection[str]) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if path.stem not in without]


def read_run(folder: Path, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the record of each notebook in a profile's folder, by name; empty where nothing ran.

    `without` has the names of notebooks whose records are not read. Raises ValueError for a malformed record.
    """
    records = {}
    for path in _records(folder / "runs", without):
        record = records[path.stem] = _read(path)
        _check(path, record, _RUN)
        _check(path, record["environment"], _ENVIRONMENT)
        if "dataset" in record["settings"]:
            _check(path, record["settings"], {"n_images": int})
        if record["model"] is not None:
            _check(path, record["model"], dict.fromkeys(_WEIGHTS, str))
        if record["status"] != "ok":
            _check(path, record, {"error": str})
    return records


def read_metrics(folder: Path, notebook: str) -> dict[str, Any]:
    """Return what a notebook recorded; empty where it recorded nothing."""
    path = folder / "metrics" / f"{notebook}.json"
    return _read(path) if path.is_file() else {}


def read_judged(folder: Path, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the judged claims of a profile's notebooks that neither failed nor still run, in the notebooks' order.

    `without` has the names of notebooks whose records are not read. Raises ValueError for a malformed record.
    """
    run, paths, judged = read_run(folder, without), _records(folder / "claims", without), []
    for path in paths:
        if run.get(path.stem, {"status": "ok"})["status"] == "ok":
            claims = _read(path)
            _check(path, claims, {"claims": list})
            for claim in claims["claims"]:
                _check(path, claim, _CLAIM)
            judged += claims["claims"]
    return judged


def forget(folder: Path, notebook: str) -> None:
    """Remove the claims, metrics, figures, tables and predictions of an earlier run of a notebook."""
    for pattern in ("claims/{}.json", "metrics/{}.json", "figures/{}-*", "tables/{}-*", "predictions/{}-*"):
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


def _check_run(profile: str, run: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """Raise ValueError unless these notebooks ran to their end, from one unchanged commit, with the weights shipped."""
    missing = ", ".join(name for name in names if name not in run)
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


def copy_reference(profile: str = "full", only: Sequence[str] = ()) -> Path:
    """Replace reports/reference by the claims, tables and figures of a profile's run; return the folder.

    `only` has the numbers or names of notebooks: their results are replaced, and those of the others stay.
    Raises ValueError, and replaces nothing, if a notebook has not run or failed, notebooks were made from different
    commits, from changed code or with other weights than those shipped, or the reference would exceed MAX_BYTES.
    """
    source, target = settings.reports_dir(profile), settings.reports_dir("reference")
    names = [path.stem for path in choose(only)]
    run = {name: record for name, record in read_run(source).items() if name in names}
    _check_run(profile, run, names)
    files = {}
    if any(only):
        others = [path for path in target.rglob("*") if path.is_file() and path.stem.partition("-")[0] not in names]
        files |= {path.relative_to(target): path.read_bytes() for path in others}
    for name in names:
        for pattern in (f"claims/{name}.json", f"tables/{name}-*.csv"):
            files |= {path.relative_to(source): path.read_bytes() for path in source.glob(pattern)}
        files |= {path.relative_to(source): _small_figure(path) for path in source.glob(f"figures/{name}-*.png")}
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda path: len(files[path]))
        raise ValueError(f"reference must stay below {MAX_BYTES:,} bytes, got {total:,}; largest: {largest}")
    shutil.rmtree(target, ignore_errors=True)
    for path, content in files.items():
        write_whole(target / path, content)
    for name, record in run.items():
        write_json(target / "runs" / f"{name}.json", {key: record.get(key) for key in _KEPT})
    return target
