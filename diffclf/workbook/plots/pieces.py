"""Pieces of figures that several notebooks draw: curves, points, images, maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffclf.stats import Estimate
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER

__all__ = ["class_dots", "cost_points", "curves", "image_row", "map_row", "paper_curve", "pictures", "split"]

Curve = tuple[ArrayLike, Sequence[Estimate]]
"""Positions and the estimates there."""


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

    Args:
        ax: where.
        drawn: label -> (n,) positions and n estimates.
        levels: label -> height.
        order: all labels in the order of colours and markers, if `drawn` has only some of them.
        marker: mark the points.
        alpha: opacity of the bands; 0: error bars instead of bands.
        **labels: title, axis labels, limits and scales, as `Axes.set` takes them.
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


def cost_points(ax: Axes, points: Mapping[str, tuple[float, Estimate]], order: Sequence[str]) -> None:
    """Draw one marker with its interval per strategy at its cost, coloured by its place in the order of all labels."""
    for label, (cost, estimate) in points.items():
        values, ends = split([estimate])
        index = (order.index(label) + 1) % len(PALETTE)
        style = {"fmt": MARKERS[index], "color": PALETTE[index], "ms": 8, "capsize": 4, "zorder": 4}
        ax.errorbar([cost], values, yerr=ends, label=label, **style)


def class_dots(ax: Axes, estimates: Mapping[str, Estimate], right: str) -> None:
    """Draw one dot per class with its interval, top to bottom; the right class is a vermilion diamond."""
    for row, (name, estimate) in enumerate(estimates.items()):
        (values, ends), index = split([estimate]), int(name == right)
        ax.errorbar(values, [row], xerr=ends, fmt="oD"[index], color=PALETTE[index], capsize=2)
    ax.axvline(0, color="#222222", linewidth=0.8)
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.set_ylim(len(estimates) - 0.5, -0.5)  # not invert_yaxis: panels may share the axis
    ax.grid(visible=False, axis="y")


def pictures(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1], (n, 3, H, W), as pictures to draw: (n, H, W, 3) in [0, 1], clipped, on the CPU."""
    return ((pixels.detach().cpu().float() + 1) / 2).clamp(0, 1).movedim(1, -1)


def image_row(axes: Sequence[Axes], images: Sequence[ArrayLike], titles: Sequence[str], **options: object) -> None:
    """Show images side by side, each under its title; options go to `Axes.imshow`."""
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(np.asarray(image), **options)
        ax.set_title(title, loc="center", fontweight="normal")
        ax.set_axis_off()


def map_row(axes: Sequence[Axes], maps: NDArray, titles: Sequence[str], *, symmetric: bool = False) -> None:
    """Show maps (n, h, w) side by side on one colour scale, with a colour bar; a symmetric scale has white at zero."""
    limit = float(np.abs(maps).max())
    lowest, colours = (-limit, "PuOr") if symmetric else (0.0, "viridis")
    image_row(axes, maps, titles, cmap=colours, vmin=lowest, vmax=limit)
    axes[0].figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.8)
