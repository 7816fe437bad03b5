"""Files that are written whole or not at all, and whether a folder can take files."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_writable", "plain_cell", "write_csv", "write_json", "write_whole"]


def check_writable(name: str, folder: str | os.PathLike) -> None:
    """Raise ValueError, with the folder's name in a command, unless files can be written to a folder or a new one."""
    place = Path(folder).absolute()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if not there.is_dir():
        raise ValueError(f"{name} must be a folder, got {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name} must be a folder that can be written to, got {folder}: {there} cannot")


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step: a reader, or a process killed meanwhile, finds the old file or the new one.

    Args:
        path: the file; its folder is made if need be.
        content: text (written as UTF-8) or bytes.

    Raises:
        OSError: the file cannot be written (a full disk); it has the file's name, and the old file is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    partial = None
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write plain values as a JSON file in one step."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: str | os.PathLike, lines: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in one step, its cells by `plain_cell`."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([plain_cell(cell) for cell in line] for line in lines)
    write_whole(path, text.getvalue())


def plain_cell(cell: object) -> object:
    """Return a cell of a CSV file; a text that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
