"""Where the project's files are."""

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["checkout", "data_dir", "embedded_models", "home", "known_models"]


def checkout() -> Path | None:
    """Return the root of the checkout that this code lies in; None where pip has installed a copy elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def home() -> Path:
    """Return the folder of notebooks/, docs/ and reports/: the checkout, else the current folder."""
    return checkout() or Path.cwd()


def data_dir() -> Path:
    """Return the folder of embedded images, models and paper numbers: $DIFFCLF_DATA, else `data/` of the checkout.

    Raises FileNotFoundError, which says how to get the folder, if it does not exist.
    """
    stated, root = os.environ.get("DIFFCLF_DATA"), checkout()
    chosen = Path(stated) if stated else root and root / "data"
    if chosen is None or not chosen.is_dir():
        places = f"at $DIFFCLF_DATA ({stated or 'not set'})"
        places += f" or in the checkout ({root / 'data'})" if root else ""
        raise FileNotFoundError(
            f"data folder not found: expected a folder {places}; it comes with the repository and its source "
            "distribution, not with the installed package: get one of these, then "
            "export DIFFCLF_DATA=/path/to/diffclf/data"
        )
    return chosen


def embedded_models(file: str) -> dict[str, Path]:
    """Return the folders, by name, of the embedded models that have a file; none without a data folder."""
    try:
        root = data_dir() / "models"
    except FileNotFoundError:
        return {}
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{file}"))}


def known_models(names: Iterable[str]) -> str:
    """Return the names of embedded models for an error's message; without a data folder, how to get it."""
    try:
        data_dir()
    except FileNotFoundError as error:
        return f"none: {error}"
    return ", ".join(sorted(names)) or "none"
