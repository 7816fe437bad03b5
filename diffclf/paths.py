"""Where the project's files are."""

import os
from pathlib import Path

__all__ = ["data_dir"]


def data_dir() -> Path:
    """Return the folder of embedded images, models and paper numbers: $DIFFCLF_DATA, else `data/` of the checkout.

    Raises FileNotFoundError if it does not exist.
    """
    checkout = Path(__file__).resolve().parent.parent / "data"
    chosen = Path(os.environ["DIFFCLF_DATA"]) if os.environ.get("DIFFCLF_DATA") else checkout
    if not chosen.is_dir():
        raise FileNotFoundError(
            f"data folder not found: got {chosen}, expected a folder at $DIFFCLF_DATA "
            f"({os.environ.get('DIFFCLF_DATA') or 'not set'}) or in the checkout ({checkout})"
        )
    return chosen
