"""Figures of notebook 05: losses compared by set, by number of trials, and by timestep."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = [
    "difference_points",
    "difference_points_alt",
    "timestep_panels",
    "timestep_panels_alt",
    "trial_panels",
    "trial_panels_alt",
]

LOSSES = {"l2": "l2", "l1": "l1", "huber": "Huber", "vlb": "VLB", "l2+vlb": "l2+VLB"}
"""Losses by their labels; a loss has the same colour and marker in all figures."""


def difference_points(run: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw accuracy minus that of l2, in points, a row per set of this run, then per data set of the paper.

    Both are set -> loss -> difference. The paper's points are black.
    """
    rows = [*run, *(f"{name} (paper)" for name in paper)]
    losses = list(next(iter(run.values())))
    fig, ax = new_figure(width=8.5, height=0.42 * len(rows) + 1.2)
    for place, loss in enumerate(losses):
        index, shift = list(LOSSES).index(loss), 0.25 * (place - (len(losses) - 1) / 2)
        values, ends = split([own[loss] for own in run.values()])
        style = {"fmt": MARKERS[index], "capsize": 3, "label": f"{LOSSES[loss]}, this run, 95%"}
        ax.errorbar(values, np.arange(len(run)) + shift, xerr=ends, color=PALETTE[index], **style)
        theirs = [own[loss] for own in paper.values()]
        style = {"color": PAPER, "markerfacecolor": "white", "label": f"{LOSSES[loss]}, paper"}
        ax.plot(theirs, len(run) + np.arange(len(paper)) + shift, MARKERS[index], **style)
    ax.axvline(0, color="#666666", lw=1.2, ls="--")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy minus that of l2, points")
    handles = sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1].endswith("paper"))
    ax.legend(*zip(*handles, strict=True), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def difference_points_alt(run: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figure in words: every difference of this run, and how many of the paper's lie below 0."""
    said = "; ".join(
        f"{name}: " + ", ".join(f"{LOSSES[loss]} {e:.1f}" for loss, e in own.items()) for name, own in run.items()
    )
    below = {loss: sum(own[loss] < 0 for own in paper.values()) for loss in next(iter(run.values()))}
    counted = ", ".join(f"{LOSSES[loss]} on {n} of {len(paper)}" for loss, n in below.items())
    return f"Accuracy minus that of l2 in points by set. This run: {said}. The paper, below 0: {counted} data sets."


def trial_panels(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw accuracy against trials: set -> loss -> curve, a panel per set, four in a row."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = new_figure(rows, columns, width=2.75 * columns, height=2.7 * rows + 0.7, squeeze=False, sharex="row")
    handles = {}
    for ax, (title, drawn) in zip(axes.flat, panels.items(), strict=False):
        aside = {loss: 1.07 ** (place - (len(drawn) - 1) / 2) for place, loss in enumerate(drawn)}  # bars side by side
        named = {LOSSES[loss]: (np.asarray(n) * aside[loss], e) for loss, (n, e) in drawn.items()}
        curves(ax, named, order=list(LOSSES.values()), alpha=0, title=title, xscale="log", xlabel="trials per class")
        most = max(max(n) for n, _ in drawn.values())
        ax.set_xticks([n for n in (1, 2, 5, 10, 20, 40, 80, 160, 320) if n <= most])
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.get_legend().remove()
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy, points")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return fig


def trial_panels_alt(panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return the figure in words: each loss with the fewest and with all trials."""
    said = []
    for title, drawn in panels.items():
        ends = (f"{LOSSES[loss]} {e[0].value:.0f} to {e[-1].value:.0f}" for loss, (_, e) in drawn.items())
        trials = next(iter(drawn.values()))[0]
        said.append(f"{title}, {trials[0]} to {trials[-1]} trials: " + ", ".join(ends))
    return f"Accuracy in points against trials per class, one panel per set. {'; '.join(said)}."


def timestep_panels(t: ArrayLike, accuracy: Mapping[str, Sequence[Estimate]], parts: Mapping[str, ArrayLike]) -> Figure:
    """Draw the accuracy of each timestep alone (points), and its part in the score (%), against t, by loss."""
    fig, (left, right) = new_figure(1, 2, width=10, height=3.8)
    drawn = {LOSSES[loss]: (t, estimates) for loss, estimates in accuracy.items()}
    labels = {"xlabel": "timestep t", "ylabel": "accuracy, points", "title": "One trial alone, 95%"}
    curves(left, drawn, order=list(LOSSES.values()), **labels)
    for loss, part in parts.items():
        index = list(LOSSES).index(loss)
        right.plot(t, part, color=PALETTE[index], marker=MARKERS[index], label=LOSSES[loss])
    right.set(xlabel="timestep t", ylabel="part in the score, %", title="Part of each trial", ylim=(0, None))
    right.legend()
    return fig


def timestep_panels_alt(
    t: ArrayLike, accuracy: Mapping[str, Sequence[Estimate]], parts: Mapping[str, ArrayLike]
) -> str:
    """Return the figure in words: by loss, the best timestep and the part of the first tenth of the timesteps."""
    said, n = [], max(1, len(np.asarray(t)) // 10)
    for loss, estimates in accuracy.items():
        values = [estimate.value for estimate in estimates]
        best, first = int(np.argmax(values)), np.asarray(parts[loss])[:n].sum()
        peak = f"{LOSSES[loss]} is best at t = {np.asarray(t)[best]} ({values[best]:.0f} points)"
        said.append(f"{peak}; its {n} smallest timesteps have {first:.0f}% of the score")
    return f"Accuracy of each timestep alone, and its part in the score, against t. {'. '.join(said)}."
