"""Figures of notebook 02: what a single timestep tells about the class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, paper_curve
from diffclf.workbook.plots.style import PALETTE, PAPER, new_figure

__all__ = ["accuracy_on_the_line", "margin_panels", "snr_panels", "timestep_panels"]


def timestep_panels(
    points: tuple[ArrayLike, ArrayLike],
    run: tuple[ArrayLike, Sequence[Estimate], Sequence[Estimate]],
    paper: tuple[ArrayLike, ArrayLike, ArrayLike],
    chance: tuple[float, float],
) -> Figure:
    """Draw Figure 3 twice: accuracies, in points, and as shares of the way from chance to each curve's own peak."""
    fig, (left, right) = new_figure(1, 2, width=10.0, height=4.0)
    left.plot(*points, ".", color=PALETTE[5], markersize=4, label="one timestep")
    for ax, row in ((left, 1), (right, 2)):
        paper_curve(ax, np.column_stack((paper[0], paper[row])), label="paper, Pets")
    levels = dict(zip(("chance, here", "chance, Pets"), chance, strict=True))
    labels = {"xlabel": "timestep t", "ylabel": "accuracy, points", "ylim": (0, None)}
    curves(left, {"this run, averaged, 95%": run[:2]}, levels, marker=False, title="As measured", **labels)
    labels |= {"title": "Chance = 0, own peak = 1", "ylabel": "share of the way", "ylim": (-0.3, 1.3)}
    curves(right, {"this run": run[::2]}, marker=False, **labels)
    right.get_legend().remove()
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return fig


def snr_panels(schedules: Mapping[str, ArrayLike], run: Curve | None = None, paper: Curve | None = None) -> Figure:
    """Draw label -> (T,) log10 SNR against t, of this model and the paper; if given, shares of the way against it."""
    n = 1 if run is None else 2
    fig, axes = new_figure(1, n, width=(7.0, 10.0)[n - 1], squeeze=False)
    for (label, values), colour, style in zip(schedules.items(), (PALETTE[0], PAPER), ("-", "--"), strict=True):
        axes[0, 0].plot(values, color=colour, linestyle=style, label=label)
    labels = {"title": "Signal-to-noise ratio", "xlabel": "timestep t", "ylabel": "log10 SNR(t)"}
    curves(axes[0, 0], {}, {"signal = noise": 0}, **labels)
    if run is not None and paper is not None:
        paper_curve(axes[0, 1], np.column_stack(paper), label="paper, Pets")
        labels = {"title": "Accuracy against it (chance = 0, own peak = 1)", "ylabel": "share of the way"}
        curves(axes[0, 1], {"this run, 95%": run}, marker=False, xlabel="log10 SNR, much noise on the right", **labels)
        axes[0, 1].invert_xaxis()
    return fig


def accuracy_on_the_line(t: ArrayLike, accuracy: Sequence[Estimate], nearest_mean: float) -> Figure:
    """Draw the accuracy in points of the perfect denoiser against t, and that of the nearest class mean."""
    fig, ax = new_figure(height=3.2)
    levels = {"nearest class mean": nearest_mean, "chance": 50}
    drawn = {"perfect denoiser, 95%": (t, accuracy)}
    curves(ax, drawn, levels, marker=False, xlabel="timestep t", ylabel="accuracy, points")
    return fig


def margin_panels(t: ArrayLike, means: Sequence[Estimate], ratios: Sequence[Estimate]) -> Figure:
    """Draw the right prompt's mean margin, and its ratio to the spread over images, against the timestep."""
    fig, axes = new_figure(1, 2, width=10.0)
    titles = ("Mean margin (error)", "Mean margin / its spread")
    for ax, estimates, title in zip(axes, (means, ratios), titles, strict=True):
        curves(ax, {"this run, 95%": (t, estimates)}, {"no margin": 0}, marker=False, title=title, xlabel="timestep t")
    return fig
