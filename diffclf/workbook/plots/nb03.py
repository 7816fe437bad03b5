"""Figures of notebook 03: the eight timestep designs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, Curve, curves
from diffclf.workbook.plots.style import MARKERS, PALETTE, new_figure

__all__ = ["accuracy_on_the_line", "design_panels"]


def accuracy_on_the_line(accuracy: Mapping[str, Sequence[Estimate]], names: Sequence[str]) -> Figure:
    """Draw accuracy in points after 1, 2, ... trials for some of all designs (names), coloured as in Figure 4."""
    fig, ax = new_figure(height=3.4)
    drawn = {name: (range(1, len(estimates) + 1), estimates) for name, estimates in accuracy.items()}
    curves(ax, drawn, order=names, marker=False, **BY_TRIALS)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def design_panels(
    run: Mapping[str, Curve], paper: Mapping[str, Sequence[Sequence[float]]], chance: tuple[float, float]
) -> Figure:
    """Draw Figure 4 in points: this run's and the paper's, design -> [[trials, accuracy], ...], with chance in both."""
    fig, (left, right) = new_figure(1, 2, width=10.5, height=5.0, sharex=True)
    curves(left, run, {"chance": chance[0]}, alpha=0.1, title="This run, 95%", **BY_TRIALS)
    for index, name in enumerate(run):
        style = {"color": PALETTE[index], "marker": MARKERS[index], "markersize": 4, "linestyle": "--"}
        right.plot(*np.asarray(paper[name], dtype=float).T, **style)
    curves(right, {}, {"chance": chance[1]}, title="The paper", **BY_TRIALS)
    for ax in (left, right):
        ax.get_legend().remove()
        ax.set_ylim(0, 100)
        ax.xaxis.set_major_formatter("{x:.0f}")
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return fig
