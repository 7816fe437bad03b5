"""The reference run: claims, tables and figures of the full profile, copied to where git keeps them.

reports/reference is what README and report compare with. It is written from here and nowhere else, from a run in
which every notebook came to its end, and stays small.
"""

import argparse
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

from diffclf.workbook import settings
from diffclf.workbook.plan import choose
from diffclf.workbook.results import read_run, short_path, write_json

__all__ = ["MAX_BYTES", "add_arguments", "copy_reference", "run"]

MAX_BYTES = 3_000_000
_KEPT = ("status", "seconds", "finished", "settings", "seed", "model", "environment")


def _small_figure(path: Path) -> bytes:
    """Return a figure in 256 colours, which plots hardly miss, with its description."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as image:
        described = PngInfo()
        described.add_itxt("Description", image.info.get("Description", ""))
        output = BytesIO()
        image.convert("RGB").quantize(256).save(output, "png", optimize=True, pnginfo=described)
    return min(output.getvalue(), path.read_bytes(), key=len)


def _check(run: dict[str, dict[str, Any]], profile: str) -> None:
    """Refuse a run that is not whole."""
    missing = [path.stem for path in choose() if path.stem not in run]
    failed = [name for name, record in run.items() if record["status"] != "ok"]
    if missing or failed:
        absent, broken = (", ".join(names) or "none" for names in (missing, failed))
        raise ValueError(f"the {profile} run must be whole: not run {absent}, failed {broken}")


def copy_reference(profile: str = "full") -> Path:
    """Replace reports/reference by the claims, tables and figures of a profile's run; return the folder.

    Raises:
        ValueError: a notebook has not run or has failed, or the copy would exceed MAX_BYTES. Nothing is replaced then.
    """
    source, target = settings.reports_dir(profile), settings.reports_dir("reference")
    run = read_run(source)
    _check(run, profile)
    files = {
        path.relative_to(source): path.read_bytes()
        for pattern in ("claims/*.json", "tables/*.csv")
        for path in sorted(source.glob(pattern))
    }
    files |= {path.relative_to(source): _small_figure(path) for path in sorted(source.glob("figures/*.png"))}
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise ValueError(
            f"reference must stay below {MAX_BYTES:,} bytes, got {total:,}; largest: {largest}, {len(files[largest]):,}"
        )
    for folder in ("claims", "tables", "figures"):
        shutil.rmtree(target / folder, ignore_errors=True)
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    records = {name: {key: record.get(key) for key in _KEPT} for name, record in run.items()}
    write_json(target / "run.json", {"profile": profile, "notebooks": records})
    return target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diffclf reference`."""
    parser.add_argument("--profile", default="full", help="whose run to keep (default: full)")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf reference`; print where it is and return the exit status."""
    print(f"Reference: {short_path(copy_reference(args.profile))}")
    return 0
