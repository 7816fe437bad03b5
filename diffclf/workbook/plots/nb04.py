"""Figures of notebook 04: accuracy against cost, and rows of estimates."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, paper_curve, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["accuracy_against_cost", "accuracy_against_cost_alt", "row_points", "row_points_alt"]


def accuracy_against_cost(
    exhaustive: Curve, points: Mapping[str, tuple[float, Estimate]], paper: ArrayLike, n_classes: int
) -> Figure:
    """Draw accuracy (%) against evaluations per image and class; the paper's curve is [[trials, accuracy], ...].

    The points of strategies are moved sideways, by a few per cent, so that their intervals do not overlap.
    """
    fig, ax = new_figure(width=9, height=4.4)
    labels = {"xscale": "log", "xlabel": "denoiser evaluations per image and class"}
    labels["ylabel"] = f"accuracy, % (chance: {100 / n_classes:.1f}%)"
    aside = {name: 1.03 ** (place - (len(points) - 1) / 2) for place, name in enumerate(points)}
    drawn = {name: ([aside[name] * cost], [estimate]) for name, (cost, estimate) in points.items()}
    curves(ax, {"exhaustive, 95%": exhaustive})
    curves(ax, drawn, order=["exhaustive", *points], alpha=0, **labels)
    paper_curve(ax, paper, label="paper, Figure 4, Pets (exhaustive)")
    ax.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n >= min(exhaustive[0])])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="numbers: trials and prompts kept, by stage")
    return fig


def accuracy_against_cost_alt(
    exhaustive: Curve, points: Mapping[str, tuple[float, Estimate]], paper: ArrayLike, n_classes: int
) -> str:
    """Return the figure in words: the ends of the curves, and every point."""
    (n, estimates), ends = exhaustive, np.asarray(paper, dtype=float)[[0, -1]]
    said = "; ".join(f"{name} {estimate.value:.1f}% with {cost:.3g}" for name, (cost, estimate) in points.items())
    return (
        f"Accuracy rises with the evaluations per image and class: exhaustive search over {n_classes} classes has "
        f"{estimates[0].value:.1f}% with {n[0]} and {estimates[-1].value:.1f}% with {n[-1]}. Staged strategies have "
        f"{said}. The paper's curve goes from {ends[0, 1]:.1f}% to {ends[1, 1]:.1f}%."
    )


def row_points(rows: Mapping[str, Mapping[str, Estimate]], xlabel: str, paper: Mapping[str, float]) -> Figure:
    """Draw row -> series -> estimate, a row each from the top, the series of a row apart, and the paper's numbers."""
    fig, ax = new_figure(width=8.5, height=0.5 * len(rows) + 1.2)
    series = list(next(iter(rows.values())))
    for place, name in enumerate(series):
        values, ends = split([row[name] for row in rows.values()])
        y = np.arange(len(rows)) + 0.25 * (place - (len(series) - 1) / 2)
        style = {"fmt": MARKERS[place], "color": PALETTE[place], "capsize": 3, "label": f"{name}, 95%"}
        ax.errorbar(values, y, xerr=ends, **style)
    for label, value in paper.items():
        ax.axvline(value, color=PAPER, ls="--", lw=1.4, label=label)
    ax.axvline(0, color=PALETTE[7], lw=1)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def row_points_alt(rows: Mapping[str, Mapping[str, Estimate]], xlabel: str, paper: Mapping[str, float]) -> str:
    """Return the figure in words: every estimate with its interval, and the paper's numbers."""
    said = (f"{name} has " + ", ".join(f"{e:.3g} ({s})" for s, e in own.items()) for name, own in rows.items())
    theirs = "".join(f" A dashed line marks {value:.3g} ({label})." for label, value in paper.items())
    return f"Points with 95% intervals show the {xlabel}: {'; '.join(said)}.{theirs}"
