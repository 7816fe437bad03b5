"""Files that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

__all__ = ["write_json", "write_whole"]


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step: a reader, or a process killed meanwhile, finds the old file or the new one.

    Args:
        path: the file; its folder is made if need be.
        content: text (written as UTF-8) or bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write plain values as a JSON file in one step."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
