"""The palette, the style, and empty figures.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; curves also differ in line style or
marker. What the paper measured is always black and dashed.
"""

from typing import Any

import seaborn as sns
from matplotlib.figure import Figure

__all__ = ["MARKERS", "PALETTE", "PAPER", "new_figure", "set_style"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B")
"""Blue, vermilion, green, purple, orange, sky, violet, grey: in this order."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAPER = "#000000"
"""Colour of everything that the paper measured."""


def set_style() -> None:
    """Set the defaults of matplotlib for the workbook; SVG files come out the same in every run."""
    ours = {
        "figure.constrained_layout.use": True,
        "savefig.dpi": 160,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "grid.color": "#E3E3E3",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "image.interpolation": "nearest",
        "svg.hashsalt": "diffclf",
    }
    sns.set_theme("notebook", "ticks", PALETTE, font_scale=0.9, rc=ours)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.6, **options: object
) -> tuple[Figure, Any]:
    """Return a figure of this size in inches and its axes (one Axes, or an array of them).

    pyplot does not know the figure: it appears where `Workbook.show` puts it, with its description, and nowhere else.
    """
    fig = Figure(figsize=(width, height))
    return fig, fig.subplots(rows, columns, **options)
