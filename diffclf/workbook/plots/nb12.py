"""Figures of notebook 12: the versions of one model on many tasks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["predictor_panels", "predictor_panels_alt", "step_panels", "step_panels_alt", "version_panels"]
__all__ += ["version_panels_alt"]

GREY = "#9A9A9A"
AVERAGE = "average"


def _apart(heights: ArrayLike, least: float, top: float) -> NDArray[np.float64]:
    """Return heights (n,) in the same order, at least `least` apart and none above `top`."""
    moved = np.array(heights, dtype=float)
    order = np.argsort(moved, kind="stable")
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    moved[order[-1]] = min(moved[order[-1]], top)
    for above, below in pairwise(order[::-1]):
        moved[below] = min(moved[below], moved[above] - least)
    return moved


def _lines(ax: Axes, accuracy: Mapping[str, Mapping[str, float]], colour: str) -> None:
    """Draw a grey line per task and a thick one of the average, each with its name at its right end."""
    names = list(accuracy[AVERAGE])
    for task, own in accuracy.items():
        style = {"color": colour, "lw": 2.6, "zorder": 3} if task == AVERAGE else {"color": GREY, "lw": 1.1}
        ax.plot(range(len(names)), list(own.values()), marker="o" if task == AVERAGE else ".", **style)
    ends = [own[names[-1]] for own in accuracy.values()]
    for task, end, height in zip(accuracy, ends, _apart(ends, 4.6, 101), strict=True):
        style = {"color": colour, "fontweight": "bold"} if task == AVERAGE else {"color": "#555555"}
        link = {"arrowstyle": "-", "color": "#D0D0D0", "lw": 0.8}
        place = (len(names) - 1, end), (len(names) - 0.7, height)
        ax.annotate(f" {task}", *place, va="center", fontsize=8.5, arrowprops=link, annotation_clip=False, **style)
    ax.set_xticks(range(len(names)), [name.removeprefix("stable-diffusion-") for name in names])
    ax.set(ylim=(0, 104), ylabel="accuracy, points")


def version_panels(accuracy: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw accuracy in points against the version: left this run, right Table 10.

    Args:
        accuracy: task, and "average" -> version -> accuracy.
        paper: data set, and "average" -> version -> accuracy.
    """
    fig, (left, right) = new_figure(1, 2, width=12, height=5)
    _lines(left, {task: {v: e.value for v, e in own.items()} for task, own in accuracy.items()}, PALETTE[0])
    values, ends = split(list(accuracy[AVERAGE].values()))
    left.errorbar(range(len(values)), values, yerr=ends, color=PALETTE[0], capsize=3, linestyle="none")
    _lines(right, paper, PAPER)
    left.set(title="This run (average: 95%)", xlabel="version, from little to much training")
    right.set(title="The paper, Table 10", xlabel="version of Stable Diffusion")
    return fig


def version_panels_alt(accuracy: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figure in words."""
    ours = ", ".join(f"{name} {own.value:.1f}" for name, own in accuracy[AVERAGE].items())
    theirs = ", ".join(f"{name} {value:.1f}" for name, value in paper[AVERAGE].items())
    ends = {task: [own.value for own in found.values()] for task, found in accuracy.items()}
    tasks = "; ".join(f"{task} from {own[0]:.0f} to {own[-1]:.0f}" for task, own in ends.items())
    return (
        f"Accuracy in points against the version. This run, average task: {ours}. First and last version: {tasks}. "
        f"The paper, average of eight data sets: {theirs}."
    )


def step_panels(gains: Mapping[str, Mapping[str, Estimate]], marks: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the gain of each step in points with its interval: a panel per step, a row per task.

    Args:
        gains: task, and "average" -> step -> gain.
        marks: step -> the paper's step -> the paper's gain on its average data set.
    """
    names, tasks = list(gains[AVERAGE]), list(gains)[::-1]
    fig, axes = new_figure(1, len(names), width=12, height=4.4, sharex=True, sharey=True, squeeze=False)
    bottom = tasks.index(AVERAGE)
    for ax, step in zip(axes[0], names, strict=True):
        for row, task in enumerate(tasks):
            values, ends = split([gains[task][step]])
            colour = PALETTE[0] if task == AVERAGE else "#555555"
            finite = np.where(np.isfinite(ends), ends, 0)
            ax.errorbar(values, [row], xerr=finite, color=colour, marker="o", capsize=3, linestyle="none")
        for name, gain in marks.get(step, {}).items():
            ax.plot([gain], [bottom - 0.4], color=PAPER, marker="*", markersize=10, linestyle="none")
            style = {"xytext": (8, -3), "textcoords": "offset points", "fontsize": 8.5}
            ax.annotate(f"paper, {name}", (gain, bottom - 0.4), **style)
        ax.axvline(0, color="#666666", linestyle="--", linewidth=1.2)
        ax.set(title=step, xlabel="gain, points (95%)", ylim=(-0.8, len(tasks) - 0.4))
        ax.set_yticks(range(len(tasks)), tasks)
        ax.grid(visible=False, axis="y")
    return fig


def step_panels_alt(gains: Mapping[str, Mapping[str, Estimate]], marks: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figure in words."""
    said = []
    for step in gains[AVERAGE]:
        own = "; ".join(f"{task} {found[step].value:.1f}" for task, found in gains.items())
        theirs = "".join(f" The paper, {name}: {gain:.1f}." for name, gain in marks.get(step, {}).items())
        said.append(f"{step}: {own}.{theirs}")
    return "Gain of each step in points with 95% intervals. " + " ".join(said)


def predictor_panels(
    measured: Mapping[str, Mapping[str, Sequence[float]]],
    accuracy: Mapping[str, Mapping[str, Estimate]],
) -> Figure:
    """Draw accuracy in points against each predictor: a line per task, a colour and a marker per version.

    Args:
        measured: predictor -> task -> its value for each version.
        accuracy: task -> version -> accuracy.
    """
    names = list(accuracy[AVERAGE])
    fig, axes = new_figure(1, len(measured), width=12, height=4.2, sharey=True, squeeze=False)
    for ax, (predictor, values) in zip(axes[0], measured.items(), strict=True):
        for task, x in values.items():
            heights = [estimate.value for estimate in accuracy[task].values()]
            ax.plot(x, heights, color="#CFCFCF", lw=1, zorder=1)
            for place, (at, height) in enumerate(zip(x, heights, strict=True)):
                style = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
                ax.plot([at], [height], linestyle="none", label=names[place], **style)
        ax.set(xlabel=predictor, xscale="linear" if min(map(min, values.values())) <= 0 else "log")
    axes[0, 0].set_ylabel("accuracy, points")
    handles, found = axes[0, 0].get_legend_handles_labels()
    fig.legend(dict(zip(found, handles, strict=True)).values(), names, loc="outside lower center", ncols=len(names))
    return fig


def predictor_panels_alt(
    measured: Mapping[str, Mapping[str, Sequence[float]]], correlations: Mapping[str, float]
) -> str:
    """Return the figure in words; correlations: predictor -> rank correlation with accuracy over all points."""
    said = "; ".join(
        f"{name}, {min(map(min, own.values())):.3g} to {max(map(max, own.values())):.3g}, correlation of the ranks "
        f"{correlations[name]:.2f}"
        for name, own in measured.items()
    )
    return f"Accuracy in points against each predictor, a line per task and a point per version. {said}."
