"""The table of sizes in data/README.md: sizes from the disk, origins from the table itself.

`python -m tests.data_table` (`make data-table`) writes it; a test compares it. A new folder gets a row without an
origin, which the test refuses until somebody has written one.
"""

import re
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
README = DATA / "README.md"
ROW = re.compile(r"^\| `(?P<folder>[^`]+)` \|[^|]*\|[^|]*\| (?P<origin>.*?) ?\|$", re.MULTILINE)
FAMILY = re.compile(r"((?:mini|shortcut)-(?:resnet|vit)|shortcut-dit|mini-clip|filter|features|synthetic)-.*")
"""Models that differ in their size or seed share a row."""
TABLE = re.compile(r"^\| folder \|.*?(?=^(?!\|)|\Z)", re.MULTILINE | re.DOTALL)


def sizes(data: Path = DATA) -> dict[str, tuple[int, int]]:
    """Return (number of files, bytes) of each folder and of each kind of model, without hidden files and the README."""
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(data.rglob("*")):
        parts = path.relative_to(data).parts
        if path.is_file() and path != data / "README.md" and not any(part.startswith(".") for part in parts):
            folder = FAMILY.sub(r"\1-*", "/".join(parts[:-1][: 2 if parts[0] == "models" else 1])) or "."
            n_files, n_bytes = found.get(folder, (0, 0))
            found[folder] = (n_files + 1, n_bytes + path.stat().st_size)
    return found


def table(text: str, data: Path = DATA) -> str:
    """Return the table for what is on the disk, with the origins that `text` gives."""
    origins = {row["folder"]: row["origin"].strip() for row in ROW.finditer(text)}
    found = sizes(data)
    lines = ["| folder | files | MB | origin and licence |", "|---|---:|---:|---|"]
    for folder, (n_files, n_bytes) in sorted(found.items()):
        lines.append(f"| `{folder}` | {n_files} | {n_bytes / 1e6:.2f} | {origins.get(folder, '')} |")
    total_files, total_bytes = (sum(column) for column in zip(*found.values(), strict=True))
    lines.append(f"| total | {total_files} | {total_bytes / 1e6:.2f} | |")
    return "\n".join(lines) + "\n"


def updated(text: str, data: Path = DATA) -> str:
    """Return `text` with its table brought up to date."""
    return TABLE.sub(lambda _: table(text, data), text, count=1)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
