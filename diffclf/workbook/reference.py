"""The reference run: claims, tables and figures of the full profile, copied to where git keeps them.

README and report compare with reports/reference. It is written by `copy_reference` alone, from a run in which every
notebook came to its end, and stays small.
"""

import shutil
from io import BytesIO
from pathlib import Path

from diffclf.files import write_json, write_whole
from diffclf.workbook import settings
from diffclf.workbook.results import read_run
from diffclf.workbook.run.plan import choose

__all__ = ["MAX_BYTES", "copy_reference"]

MAX_BYTES = 3_000_000
_KEPT = ("status", "seconds", "finished", "settings", "seed", "model", "environment")


def _small_figure(path: Path) -> bytes:
    """Return a figure in 256 colours, which plots hardly miss, with its description."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as image:
        described, output = PngInfo(), BytesIO()
        described.add_itxt("Description", image.info.get("Description", ""))
        image.convert("RGB").quantize(256).save(output, "png", optimize=True, pnginfo=described)
    return min(output.getvalue(), path.read_bytes(), key=len)


def copy_reference(profile: str = "full") -> Path:
    """Replace reports/reference by the claims, tables and figures of a profile's run; return the folder.

    Raises:
        ValueError: a notebook has not run or has failed, or the copy would exceed MAX_BYTES. Nothing is replaced then.
    """
    source, target = settings.reports_dir(profile), settings.reports_dir("reference")
    run = read_run(source)
    missing = ", ".join(path.stem for path in choose() if path.stem not in run)
    failed = ", ".join(name for name, record in run.items() if record["status"] != "ok")
    if missing or failed:
        raise ValueError(f"the {profile} run must be whole: not run {missing or 'none'}, failed {failed or 'none'}")
    files = {path: path.read_bytes() for pattern in ("claims/*.json", "tables/*.csv") for path in source.glob(pattern)}
    files |= {path: _small_figure(path) for path in source.glob("figures/*.png")}
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda path: len(files[path]))
        raise ValueError(
            f"reference must stay below {MAX_BYTES:,} bytes, got {total:,}; "
            f"largest: {largest.relative_to(source)}, {len(files[largest]):,}"
        )
    shutil.rmtree(target, ignore_errors=True)
    for path, content in files.items():
        write_whole(target / path.relative_to(source), content)
    for name, record in run.items():
        write_json(target / "runs" / f"{name}.json", {key: record.get(key) for key in _KEPT})
    return target
