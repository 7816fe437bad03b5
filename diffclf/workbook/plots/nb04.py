"""Figures of notebook 04: stages, races, accuracy against cost, and what becomes of the true class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffclf.pruning import Round
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, paper_curve, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["accuracy_against_cost", "bars", "race_lines", "stage_panels", "study_panels"]


def stage_panels(panels: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]], labels: Sequence[str]) -> Figure:
    """Draw which of the first 200 timesteps each stage uses, from the top; `panels` are title -> `stage_timesteps`."""
    fig, axes = new_figure(len(panels), 1, width=8.5, height=2.7 * len(panels), sharex=True)
    for ax, (title, stages) in zip(axes, panels.items(), strict=True):
        for row, (new, old) in enumerate(stages):
            ax.plot(old, np.full(len(old), row), "|", color=PALETTE[7], ms=10, label="kept from before")
            ax.plot(new, np.full(len(new), row), "o", color=PALETTE[1], label="evaluated in this stage")
        ax.set(title=title, ylim=(len(stages) - 0.5, -0.5), xlim=(-2, 200))
        ax.set_yticks(range(len(stages)), labels)
        ax.grid(visible=False, axis="y")
    axes[-1].set_xlabel("timestep t (the first 200)")
    axes[0].legend(handles=axes[0].lines[:2], loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    return fig


def accuracy_against_cost(
    exhaustive: Curve, points: Mapping[str, tuple[float, Estimate]], paper: ArrayLike, chance: float
) -> Figure:
    """Draw accuracy (%) against evaluations per image and class; the paper's curve is [[trials, accuracy], ...]."""
    fig, ax = new_figure(width=8, height=6)
    drawn = {name: ([cost], [estimate]) for name, (cost, estimate) in points.items()}
    paper_curve(ax, paper, label="paper, Figure 4 (exhaustive, 37 classes)")
    labels = {"xscale": "log", "xlabel": "denoiser evaluations per image and class", "ylabel": "accuracy (%)"}
    curves(ax, {"exhaustive": exhaustive}, {"chance": chance}, ylim=(0, 100), **labels)
    curves(ax, drawn, order=["exhaustive", *points], alpha=0)
    ax.set_xticks([1, 3, 10, 30, 100, 300], labels=[1, 3, 10, 30, 100, 300])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, title="race, or stages: trials, prompts kept")
    return fig


def study_panels(panels: Mapping[str, tuple[Curve, Mapping[str, tuple[float, Estimate]]]]) -> Figure:
    """Draw title -> curve without pruning, and strategy -> (evaluations per image, accuracy in %), one panel each."""
    fig, axes = new_figure(1, len(panels), width=10.0, height=5.2, squeeze=False)
    strategies = dict.fromkeys(name for _, points in panels.values() for name in points)
    names = ["every class on as many trials", *strategies]
    drawn = [e for curve, points in panels.values() for e in (*curve[1], *(point[1] for point in points.values()))]
    labels = {"xscale": "log", "xlabel": "denoiser evaluations per image", "ylabel": "accuracy (%)"}
    labels["ylim"] = (10 * (min(estimate.low for estimate in drawn) // 10), 100)
    handles = {}
    for ax, (title, (exhaustive, points)) in zip(axes[0], panels.items(), strict=True):
        curves(ax, {names[0]: exhaustive}, title=title, **labels)
        curves(ax, {name: ([cost], [e]) for name, (cost, e) in points.items()}, order=names, alpha=0)
        ax.get_legend().remove()
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return fig


def race_lines(looks: Sequence[Round], names: Sequence[str]) -> Figure:
    """Draw mean differences to the best prompt at every look of a race, with the margins that they may not exceed."""
    lines: dict[int, list[tuple[int, float, float]]] = {}
    for look in looks:
        for prompt, difference, margin in zip(look.raced, look.differences, look.margins, strict=True):
            lines.setdefault(int(prompt), []).append((look.n_trials, difference, margin if np.isfinite(margin) else 0))
    fig, ax = new_figure(width=8, height=4.5)
    # As many as there are colours: those that lasted longest, then those closest to the best.
    drawn = sorted(lines, key=lambda prompt: (-len(lines[prompt]), lines[prompt][-1][1]))[: len(PALETTE)]
    for index, prompt in enumerate(drawn):
        n_trials, differences, margins = np.array(lines[prompt]).T
        x = n_trials + index * looks[-1].n_trials / 800  # side by side, so that bars do not hide each other
        style = {"color": PALETTE[index], "marker": MARKERS[index], "capsize": 2, "lw": 1.2}
        label = names[prompt] + (" (the winner)" if prompt == looks[-1].best else "")
        ax.errorbar(x, differences, yerr=margins, label=label, **style)
        if prompt not in looks[-1].survivors:
            ax.plot(x[-1], differences[-1], "x", color=PAPER, ms=9, mew=2, zorder=5)
    ax.axhline(0, color=PAPER, lw=0.8)
    top = max(difference for prompt in drawn for _, difference, _ in lines[prompt]) or 1.0
    ax.set(xlabel="trials so far", ylabel="mean error minus that of the best", ylim=(-0.7 * top, 1.7 * top))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="cross: dropped")
    return fig


def bars(estimates: Mapping[str, Estimate], *, title: str, xlabel: str) -> Figure:
    """Draw one horizontal bar per name with its interval, top to bottom."""
    fig, ax = new_figure(width=8.5, height=3.4)
    values, ends = split(list(estimates.values()))
    ax.barh(list(estimates), values, color=PALETTE[0], height=0.6, xerr=ends, capsize=3)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set(title=title, xlabel=xlabel)
    return fig
