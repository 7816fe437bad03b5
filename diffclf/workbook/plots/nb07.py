"""Figures of notebook 07: what passes the training filter, and models trained with and without it."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import picture_grid, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["arm_panels", "arm_panels_alt", "example_grid", "example_grid_alt", "share_panels", "share_panels_alt"]

SHOWN = {"R": "resolution", "Q+F": "quality, no flag", "R+Q+F": "whole filter"}
"""Columns of Table 2 that are drawn, and their names in the legend."""
MOST = 12  # classes that are drawn

Shares = Mapping[str, Mapping[str, Estimate | float]]


def example_grid(rows: Mapping[str, Sequence[ArrayLike]], classes: Sequence[str]) -> Figure:
    """Show an image of each class (columns) in each group of images (rows)."""
    return picture_grid(rows, classes)


def example_grid_alt(rows: Mapping[str, Sequence[ArrayLike]], classes: Sequence[str]) -> str:
    """Return the figure in words."""
    return (
        f"Pictures of {', '.join(classes)}, a row for each of the groups {', '.join(rows)}. With 16 pixels a side the "
        "outlines are soft, with 8 pixels only coarse shapes are left; pictures of low quality are flat, dark or thin."
    )


def _rows(ax: Axes, shares: Shares, colours: Sequence[str], title: str) -> None:
    """Draw a row per name with a marker, and an interval where there is one, for each column."""
    for place, (column, label) in enumerate(SHOWN.items()):
        cells = [row[column] for row in shares.values()]
        values, ends = split([cell if isinstance(cell, Estimate) else Estimate(cell, cell, cell) for cell in cells])
        y = np.arange(len(cells)) + 0.22 * (place - 1)
        style = {"color": colours[place], "marker": MARKERS[place], "markerfacecolor": "white" if place == 1 else None}
        ax.errorbar(values, y, xerr=ends, linestyle="none", capsize=2, label=label, **style)
    ax.set_yticks(range(len(shares)), shares)
    ax.set(ylim=(len(shares) - 0.5, -0.5), xlim=(-3, 103), xlabel="images that pass, %", title=title)
    ax.grid(visible=False, axis="y")


def share_panels(shares: Shares, paper: Shares, classes: Shares, name: str) -> Figure:
    """Draw the share of images that pass in per cent: data sets of this run, those of Table 2, classes of one set.

    Args:
        shares: data set -> column -> share.
        paper: the same of the paper.
        classes: class -> column -> share in one set; of many classes the first and the last are drawn.
        name: of this set.
    """
    if len(classes) > MOST:
        names = list(classes)
        classes = {own: classes[own] for own in names[: MOST // 2] + names[-MOST // 2 :]}
    fig, axes = new_figure(1, 3, width=13, height=4.6)
    _rows(axes[0], shares, PALETTE, "This run, 95%")
    _rows(axes[1], paper, (PAPER,) * len(SHOWN), "The paper, Table 2")
    _rows(axes[2], classes, PALETTE, f"Classes of {name}, 95%")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(SHOWN))
    return fig


def _value(cell: Estimate | float) -> float:
    return cell.value if isinstance(cell, Estimate) else cell


def share_panels_alt(shares: Shares, paper: Shares, classes: Shares, name: str) -> str:
    """Return the figure in words."""

    def said(own: Shares) -> str:
        rows = (f"{label} " + ", ".join(f"{_value(row[column]):.1f}" for column in SHOWN) for label, row in own.items())
        return "; ".join(rows)

    return (
        f"Share of images in per cent that pass {', '.join(SHOWN.values())}. This run: {said(shares)}. The paper: "
        f"{said(paper)}. Classes of {name}: {said(classes)}."
    )


def _points(ax: Axes, found: Mapping[str, Mapping[str, Estimate]], first: int) -> None:
    """Draw a group of points, side by side, for each group of images; `first` is the place of the first colour."""
    for place, name in enumerate(next(iter(found.values()))):
        values, ends = split([own[name] for own in found.values()])
        x = np.arange(len(found)) + 0.18 * (place - (len(next(iter(found.values()))) - 1) / 2)
        style = {"color": PALETTE[first + place], "marker": MARKERS[first + place]}
        ax.errorbar(x, values, yerr=ends, linestyle="none", capsize=3, label=name, **style)
    ax.set_xticks(range(len(found)), [name.replace(" ", "\n") for name in found])
    ax.grid(visible=False, axis="x")


def arm_panels(
    accuracy: Mapping[str, Mapping[str, Estimate]], gains: Mapping[str, Mapping[str, Estimate]], chance: float
) -> Figure:
    """Draw the accuracy of each arm in points by group of images, and the differences to the filtered arm.

    Args:
        accuracy: group -> arm -> accuracy.
        gains: group -> name of a difference -> its size.
        chance: accuracy of guessing in points.
    """
    fig, (left, right) = new_figure(1, 2, width=13, height=4.6)
    _points(left, accuracy, 0)
    _points(right, gains, 1)
    ends = [end for own in accuracy.values() for e in own.values() for end in (e.low, e.high)]
    left.set(ylim=(min(ends) - 3, max(ends) + 3), ylabel=f"accuracy, points (chance: {chance:.3g})")
    left.set_title("Accuracy by training set, 95%")
    right.axhline(0, color="#666666", linestyle="--", linewidth=1.2)
    right.set(title="Difference to training with the filter, 95%", ylabel="points")
    for ax in (left, right):
        ax.legend(loc="best")
    return fig


def arm_panels_alt(
    accuracy: Mapping[str, Mapping[str, Estimate]], gains: Mapping[str, Mapping[str, Estimate]], chance: float
) -> str:
    """Return the figure in words."""
    said = "; ".join(
        f"{group}: " + ", ".join(f"{name} {own.value:.1f}" for name, own in chain(found.items(), gains[group].items()))
        for group, found in accuracy.items()
    )
    return (
        f"Accuracy of each arm in points by group of images, chance {chance:.3g}, and differences to the filtered arm "
        f"with 95% intervals. {said}."
    )
