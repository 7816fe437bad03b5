"""Progress bars where somebody watches: a terminal, JupyterLab, or the runner of the notebooks.

The runner names a file in $DIFFCLF_PROGRESS and shows what the newest bar wrote there. Anywhere else (a log, a pipe)
there is no bar. It is always the plain text bar: the widget needs a network to be shown in the report.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

__all__ = ["progress"]

Item = TypeVar("Item")


class _Line:
    """A text stream that keeps its newest line in a file."""

    encoding = "utf-8"

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        if text.strip():
            self._path.write_text(text.strip(), encoding="utf-8")
        return len(text)

    def flush(self) -> None:
        pass


def progress(
    iterable: Iterable[Item] | None = None,
    total: float | None = None,
    desc: str = "",
    *,
    unit: str = "it",
    unit_scale: bool | float = False,
    enabled: bool = True,
) -> "tqdm[Item]":
    """Return the iterable in a progress bar with rate and time left, silent where nobody watches.

    Args:
        iterable: what to iterate over; None: call `update(n)` on the result.
        total: its length, where it does not know it.
        desc: words before the bar.
        unit: of the rate.
        unit_scale: see tqdm.
        enabled: False: no bar.
    """
    options: dict[str, Any] = {"total": total, "desc": desc or None, "unit": unit, "unit_scale": unit_scale}
    path = os.environ.get("DIFFCLF_PROGRESS")
    if path and enabled:
        return tqdm(iterable, **options, file=_Line(Path(path)), mininterval=1, ncols=76)
    watched = sys.stderr.isatty() or bool(os.environ.get("JPY_SESSION_NAME") or os.environ.get("VSCODE_PID"))
    return tqdm(iterable, **options, disable=not (enabled and watched), mininterval=0.5)
