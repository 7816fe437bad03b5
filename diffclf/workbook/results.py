"""What a run left behind in reports/PROFILE, as plain data: run.json, and the claims of each notebook."""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_judged", "read_run", "short_path", "text_table", "write_json"]


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step, so that whoever reads it meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_run(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of each notebook in a profile's folder, by name; empty where nothing ran."""
    path = folder / "run.json"
    if not path.is_file():
        return {}
    return dict(sorted(json.loads(path.read_text(encoding="utf-8"))["notebooks"].items()))


def read_judged(folder: Path) -> list[dict[str, Any]]:
    """Return the claims judged in a profile's folder, in the order of notebooks.

    A claim of a notebook that failed, or is still running, is left out: its run did not come to its end.
    """
    run = read_run(folder)
    judged: list[dict[str, Any]] = []
    for path in sorted((folder / "claims").glob("*.json")):
        if run.get(path.stem, {}).get("status", "ok") == "ok":
            judged += json.loads(path.read_text(encoding="utf-8"))["claims"]
    return judged


def text_table(rows: list[list[str]], header: list[str]) -> str:
    """Return rows of text as columns, two blanks apart."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def short_path(path: Path) -> str:
    """Return a path as seen from the working folder, where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
