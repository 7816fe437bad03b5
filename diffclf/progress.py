"""Progress bars where somebody watches: a terminal, JupyterLab, or the runner of the notebooks.

The runner names a file in $DIFFCLF_PROGRESS and shows the newest state of the bar that is written there. Elsewhere (a
log, a pipe) there is no bar. It is always the plain text bar: the widget needs a network to be shown in the report.
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


def progress(iterable: Iterable[Item] | None = None, *, enabled: bool = True, **options: Any) -> "tqdm[Item]":  # noqa: ANN401
    """Return the iterable in a progress bar with rate and time left; tqdm's `options` are total, desc, unit.

    Without an iterable call `update(n)` on the result. With `enabled` False there is no bar.
    """
    path = os.environ.get("DIFFCLF_PROGRESS")
    if path and enabled:
        return tqdm(iterable, **options, file=_Line(Path(path)), mininterval=1, ncols=76)
    watched = sys.stderr.isatty() or bool(os.environ.get("JPY_SESSION_NAME") or os.environ.get("VSCODE_PID"))
    return tqdm(iterable, **options, disable=not (enabled and watched), mininterval=0.5)
