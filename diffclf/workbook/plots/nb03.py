"""Figures of notebook 03: the eight timestep designs, their differences at equal trials, and their last gains."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from diffclf.experiments.e03_timestep_strategies import DESIGNS
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, Curve, curves, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["design_panels", "design_panels_alt", "difference_panels", "difference_panels_alt", "gain_points"]
__all__ += ["gain_points_alt"]

PANELS = {
    "timesteps from the whole range": ("Uniform", "Even 10", "Even 5", "0,500,1000"),
    "timesteps from one place": ("Uniform", "475,500,525", "500", "0", "1000"),
}
GREY = "#C4C4C4"
Points = Sequence[Sequence[float]]
"""[[trials, points], ...] of the paper."""
Gain = tuple[int, int, Estimate | float]
"""n, 2 n, and the gain from n to 2 n trials."""


def _draw(ax: Axes, drawn: Mapping[str, Curve], paper: Mapping[str, Points], labels: Mapping[str, object]) -> None:
    """Draw this run's curves with error bars side by side and the paper's dashed, over their trials.

    A design has the same colour in all figures.
    """
    aside = {name: 1.05 ** (place - (len(drawn) - 1) / 2) for place, name in enumerate(drawn)}
    named = {name: (np.asarray(n) * aside[name], estimates) for name, (n, estimates) in drawn.items()}
    for name, points in paper.items():
        index, style = list(DESIGNS).index(name), {"markersize": 3, "linestyle": "--", "label": f"{name}, paper"}
        ax.plot(*np.asarray(points, dtype=float).T, color=PALETTE[index], marker=MARKERS[index], **style)
    curves(ax, named, order=[*DESIGNS, *(drawn.keys() - DESIGNS.keys())], alpha=0, **BY_TRIALS | labels)
    most = max([max(n) for n, _ in drawn.values()] + [points[-1][0] for points in paper.values()])
    ax.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 400) if n <= most])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())


def design_panels(run: Mapping[str, Curve], paper: Mapping[str, Points], chance: tuple[float, float]) -> Figure:
    """Draw Figure 4 in points, this run's left and the paper's right, design -> curve; chance is that of both.

    Each row of panels has some of the designs in colours and the others in grey.
    """
    fig, axes = new_figure(2, 2, width=10.5, height=8.2, sharex=True, sharey="row")
    for (left, right), (title, names) in zip(axes, PANELS.items(), strict=True):
        labels = {"ylabel": f"accuracy, points (chance: {chance[0]:.3g}, paper {chance[1]:.3g})"}
        _draw(left, {name: run[name] for name in names}, {}, labels | {"title": f"This run: {title}"})
        _draw(right, {}, {name: paper[name] for name in names}, {"ylabel": "", "title": f"The paper: {title}"})
        limits = left.get_ylim()
        for name in DESIGNS.keys() - set(names):
            left.plot(run[name][0], split(run[name][1])[0], color=GREY, lw=1, zorder=0)
            right.plot(*np.asarray(paper[name], dtype=float).T, color=GREY, lw=1, zorder=0)
        left.set_ylim(limits)
        left.get_legend().remove()
        right.legend(*left.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def design_panels_alt(run: Mapping[str, Curve], paper: Mapping[str, Points], chance: tuple[float, float]) -> str:
    """Return the figure in words: each design at its first and its last point."""
    said = (f"{name} {e[0].value:.3g} with {n[0]} and {e[-1].value:.3g} with {n[-1]}" for name, (n, e) in run.items())
    theirs = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in paper.items())
    return (
        f"Accuracy in points rises with the trials per class, from a chance of {chance[0]:.3g}. This run has: "
        f"{'; '.join(said)} trials. The paper's curves end at: {theirs}."
    )


def difference_panels(single: Mapping[str, Curve], run: Mapping[str, Curve], paper: Mapping[str, Points]) -> Figure:
    """Draw accuracy of Uniform minus that of a design at equal trials, in points.

    Left: label -> this run's curve for the single timestep. Right: design -> this run's and the paper's curve.
    """
    fig, axes = new_figure(1, 2, width=10.5, height=4.4, sharey=True)
    labels = {"ylabel": "Uniform minus the design, points", "title": "One timestep, 95%"}
    _draw(axes[0], single, {}, labels)
    _draw(axes[1], run, paper, {"ylabel": "", "title": "Several timesteps, 95%"})
    for ax in axes:
        ax.axhline(0, color="#666666", lw=1.2, ls="--")
        ax.legend()
    return fig


def difference_panels_alt(single: Mapping[str, Curve], run: Mapping[str, Curve], paper: Mapping[str, Points]) -> str:
    """Return the figure in words: each difference at its first and its last point."""
    drawn = {**single, **run}
    said = (f"{name} {e[0]:.3g} with {n[0]} and {e[-1]:.3g} with {n[-1]}" for name, (n, e) in drawn.items())
    theirs = ", ".join(f"{name} {points[-1][1]:.3g} with {points[-1][0]:.0f}" for name, points in paper.items())
    return (
        "Accuracy of Uniform minus that of a design at equal trials per class changes with the number of trials, in "
        f"points. This run has: {'; '.join(said)} trials. The paper's curves end at: {theirs} trials."
    )


def gain_points(run: Mapping[str, Gain], paper: Mapping[str, Gain]) -> Figure:
    """Draw the gain of a design from n to 2 n trials in points, a row per design; the paper's points are black."""
    fig, ax = new_figure(width=8.5, height=0.4 * len(run) + 1.2)
    values, ends = split([gain for _, _, gain in run.values()])
    rows = np.arange(len(run))
    ax.errorbar(values, rows - 0.12, xerr=ends, fmt="o", color=PALETTE[0], capsize=3, label="this run, 95%")
    style = {"color": PAPER, "markerfacecolor": "white", "label": "paper"}
    ax.plot([paper[name][2] for name in run], rows + 0.12, "s", **style)
    ax.axvline(0, color="#666666", lw=1.2, ls="--")
    named = (
        f"{name}: {n} to {twice} (paper {paper[name][0]} to {paper[name][1]})" for name, (n, twice, _) in run.items()
    )
    ax.set_yticks(rows, named)
    ax.set(ylim=(len(run) - 0.5, -0.5), xlabel="gain from twice as many trials, points")
    paper_handle, run_handle = ax.get_legend_handles_labels()[0]
    ax.legend(handles=[run_handle, paper_handle], loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def gain_points_alt(run: Mapping[str, Gain], paper: Mapping[str, Gain]) -> str:
    """Return the figure in words: every gain of this run and of the paper."""
    said = (f"{name} gains {gain:.3g} from {n} to {twice} trials" for name, (n, twice, gain) in run.items())
    theirs = ", ".join(f"{name} {paper[name][2]:.3g}" for name in run)
    return f"Points show what twice as many trials add to the accuracy: {'; '.join(said)}. The paper has: {theirs}."
