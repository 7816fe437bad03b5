"""Figures of notebook 06: five classifiers on several tasks, and what probabilities are worth."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import curves, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, new_figure

__all__ = [
    "coverage_curves",
    "coverage_curves_alt",
    "heat_map",
    "heat_map_alt",
    "reliability_panels",
    "reliability_panels_alt",
    "template_dots",
    "template_dots_alt",
]

Reliability = tuple[NDArray, Sequence[Estimate]]
"""Mean confidence of each bin, and the accuracy in it, in points."""


def _grid(rows: Mapping[str, Mapping[str, float]]) -> tuple[list[str], NDArray]:
    """Return the columns of row -> column -> number, and the numbers."""
    columns = list(next(iter(rows.values())))
    return columns, np.array([[float(row[column]) for column in columns] for row in rows.values()])


def _listed(row: str, numbers: Mapping[str, float | Estimate]) -> str:
    """Return a row in words: "CLIP: items 85.1, tops 77.0"."""
    return f"{row}: " + ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())


def heat_map(ours: Mapping[str, Mapping[str, float]], paper: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw accuracies in points, row -> task -> accuracy, of this run and of the paper, with their numbers."""
    widest = max(len(next(iter(grid.values()))) for grid in (ours, paper))
    fig, axes = new_figure(2, 1, width=0.9 * widest + 2.2, height=0.9 * len(ours) + 3)
    for ax, rows, title in zip(axes, (ours, paper), ("This run", "The paper's Table 1"), strict=True):
        columns, values = _grid(rows)
        ax.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 60 else "black"
            ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
        ax.set_xticks(range(len(columns)), [name.removeprefix("mini-") for name in columns], rotation=40, ha="right")
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set_title(title)
        ax.grid(visible=False)
    return fig


def heat_map_alt(ours: Mapping[str, Mapping[str, float]], paper: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figure in words."""
    said = []
    for title, rows in (("This run", ours), ("The paper", paper)):
        said.append(f"{title}. {'; '.join(_listed(row, own) for row, own in rows.items())}.")
    return f"Heat maps of accuracies in points. {' '.join(said)}"


def template_dots(found: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Draw classifier -> template -> accuracy in points, a group of points per classifier."""
    fig, ax = new_figure(width=8.5, height=0.9 * len(found) + 1.5)
    names = list(next(iter(found.values())))
    for place, name in enumerate(names):
        values, ends = split([own[name] for own in found.values()])
        rows = np.arange(len(found)) + 0.16 * (place - (len(names) - 1) / 2)
        style = {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": "none", "capsize": 3}
        ax.errorbar(values, rows, xerr=ends, label=f"“{name}”" if "{}" in name else name, **style)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(ylim=(len(found) - 0.5, -0.5), xlabel="accuracy, points")
    ax.grid(visible=False, axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="template")
    return fig


def template_dots_alt(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return the figure in words."""
    said = "; ".join(_listed(row, own) for row, own in found.items())
    return f"Accuracy in points with 95% intervals by template. {said}."


def reliability_panels(found: Mapping[str, Reliability]) -> Figure:
    """Draw the accuracy of each bin against its mean confidence, a panel per kind of probability."""
    fig, axes = new_figure(1, len(found), width=3.6 * len(found), height=3.8, sharey=True)
    for place, (ax, (name, (confidence, accuracy))) in enumerate(zip(axes, found.items(), strict=True)):
        values, ends = split(accuracy)
        ax.plot([0, 100], [0, 100], color="#666666", linestyle=":", linewidth=1.2, label="calibrated")
        style = {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": "none", "capsize": 3}
        ax.errorbar(confidence, values, yerr=ends, label="a bin, 95%", **style)
        ax.set(xlabel="mean probability, per cent", xlim=(-3, 103), ylim=(-3, 103))
        ax.set_title(name)
    axes[0].set_ylabel("accuracy, points")
    axes[0].legend(loc="lower right")
    return fig


def reliability_panels_alt(found: Mapping[str, Reliability]) -> str:
    """Return the figure in words."""
    said = []
    for name, (confidence, accuracy) in found.items():
        pairs = zip(confidence, accuracy, strict=True)
        said.append(f"{name}: " + ", ".join(f"{place:.0f}: {estimate.value:.0f}" for place, estimate in pairs))
    return f"Mean probability in per cent and accuracy in points of each bin. {'; '.join(said)}."


def coverage_curves(coverages: NDArray, found: Mapping[str, Sequence[Estimate]], whole: float) -> Figure:
    """Draw the accuracy of the most confident images against their share, by signal of confidence, drawn apart."""
    fig, ax = new_figure(width=7.5, height=4)
    places = enumerate(found.items())
    drawn = {name: (100 * coverages + 0.8 * (place - 1), estimates) for place, (name, estimates) in places}
    curves(ax, drawn, {"all images": whole}, alpha=0, xlabel="images answered, per cent", ylabel="accuracy, points")
    return fig


def coverage_curves_alt(coverages: NDArray, found: Mapping[str, Sequence[Estimate]], whole: float) -> str:
    """Return the figure in words."""
    said = []
    for name, estimates in found.items():
        pairs = zip(coverages, estimates, strict=True)
        said.append(f"{name}: " + ", ".join(f"{share:.0%} {estimate.value:.1f}" for share, estimate in pairs))
    return f"Accuracy in points of the most confident images, by share; all images {whole:.1f}. {'; '.join(said)}."
