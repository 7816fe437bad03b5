"""Pieces of figures that several notebooks draw: curves, points, images, maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffclf.stats import Estimate
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["BY_TRIALS", "Curve", "curves", "image_row", "paper_curve", "picture_grid", "pictures", "split"]

Curve = tuple[ArrayLike, Sequence[Estimate]]
"""Positions and the estimates there."""
BY_TRIALS = {"xscale": "log", "xlabel": "trials per class", "ylabel": "accuracy, points"}


def split(estimates: Sequence[Estimate]) -> tuple[NDArray, NDArray]:
    """Return (n,) values and the (2, n) lengths of the intervals below and above them."""
    values, lows, highs = np.array([tuple(estimate) for estimate in estimates], dtype=float).T
    return values, np.stack([values - lows, highs - values])


def curves(
    ax: Axes,
    drawn: Mapping[str, Curve],
    levels: Mapping[str, float] | None = None,
    *,
    order: Sequence[str] = (),
    marker: bool = True,
    alpha: float = 0.18,
    **labels: object,
) -> None:
    """Draw lines of estimates with their intervals, and horizontal lines such as chance, with a legend.

    Colours and markers go by the place of a label among all labels, `order` (default: those drawn). The intervals are
    bands of an opacity alpha; 0: error bars. The other options are those of `Axes.set`.
    """
    for place, (label, (x, estimates)) in enumerate(drawn.items()):
        index = (list(order).index(label) if order else place) % len(PALETTE)
        values, ends = split(estimates)
        style = {"color": PALETTE[index], "label": label, "marker": MARKERS[index] if marker else None}
        if alpha:
            ax.plot(x, values, **style)
            x = np.asarray(x, dtype=float)
            ax.fill_between(x, values - ends[0], values + ends[1], color=PALETTE[index], alpha=alpha, lw=0)
        else:
            ax.errorbar(x, values, yerr=ends, capsize=3, **style)
    for (label, height), style in zip((levels or {}).items(), ("--", ":"), strict=False):
        ax.axhline(height, color="#666666", linestyle=style, linewidth=1.2, label=label)
    ax.set(**labels)
    ax.legend()


def paper_curve(ax: Axes, points: ArrayLike, *, label: str = "paper") -> None:
    """Draw the paper's points [[x, y], ...] as a dashed black line."""
    ax.plot(*np.asarray(points, dtype=float).T, color=PAPER, linestyle="--", linewidth=1.4, label=label, zorder=3)


def pictures(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1], (n, 3, H, W), as pictures to draw: (n, H, W, 3) in [0, 1], clipped, on the CPU."""
    return ((pixels.detach().cpu().float() + 1) / 2).clamp(0, 1).movedim(1, -1)


def image_row(axes: Sequence[Axes], images: Sequence[ArrayLike], titles: Sequence[str], **options: object) -> None:
    """Show images side by side, each under its title; options go to `Axes.imshow`."""
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(np.asarray(image), **options)
        ax.set_title(title, loc="center", fontweight="normal")
        ax.set_axis_off()


def picture_grid(rows: Mapping[str, Sequence[ArrayLike]], columns: Sequence[str]) -> Figure:
    """Show rows of pictures of equal length, each row and each column under its title."""
    n = len(columns)
    fig, axes = new_figure(len(rows), n, width=1.25 * n + 1.2, height=1.35 * len(rows) + 0.2, squeeze=False)
    for place, (row, (title, images)) in enumerate(zip(axes, rows.items(), strict=True)):
        image_row(row, images, [""] * n if place else columns)
        row[0].annotate(title, (-0.1, 0.5), xycoords="axes fraction", ha="right", va="center")
    return fig
