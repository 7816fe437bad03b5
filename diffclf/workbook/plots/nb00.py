"""Figures of notebook 00: the exact world, and one image step by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, curves, image_row, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, new_figure

__all__ = ["agreement", "class_gaps", "error_map_row", "errors_over_t", "rules"]


def rules(x: NDArray, y: NDArray, margins: Mapping[str, ArrayLike], points: NDArray, of: NDArray) -> Figure:
    """Colour a grid x, y by the sign of each rule's margins (n_y x n_x,); points (n, 2) are of classes 0 and 1."""
    n, grids = len(margins), [np.asarray(margin).reshape(len(y), len(x)) for margin in margins.values()]
    fig, axes = new_figure(1, n, width=10 if n > 1 else 7, height=2.6 if n > 1 else 3.6, sharey=True, squeeze=False)
    for ax, title, grid in zip(axes[0], margins, grids, strict=True):
        ax.contourf(x, y, grid, levels=[-np.inf, 0, np.inf], colors=PALETTE[:2], alpha=0.22)
        # The first rule's boundary is a line in all panels.
        ax.contour(x, y, grids[0], levels=[0], colors="#222222", linewidths=1)
        for c in (0, 1):
            ax.plot(*points[of == c].T, MARKERS[c], color=PALETTE[c], markersize=3, alpha=0.7)
        ax.set(title=title, xlabel="$x_1$", aspect="equal")
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("$x_2$")
    return fig


def errors_over_t(
    timesteps: ArrayLike, errors: NDArray, every: ArrayLike, exact: ArrayLike, names: Sequence[str]
) -> Figure:
    """Draw errors of two classes (2, n_trials), those over all noises (exact, at every t), and their differences."""
    fig, (left, right) = new_figure(1, 2, width=9.5, height=3.4)
    for c, name in enumerate(names):
        left.plot(timesteps, errors[c], MARKERS[c], color=PALETTE[c], markersize=4, alpha=0.6)
        left.plot(every, exact[c], color=PALETTE[c], label=name)
    right.plot(timesteps, errors[0] - errors[1], ".", color=PALETTE[7])
    right.plot(every, exact[0] - exact[1], color="#222222", label="all noises")
    left.set(title="error of each class", xlabel="timestep t", ylabel="squared error")
    right.set(title=f"{names[0]} minus {names[1]}", xlabel="timestep t")
    left.legend()
    right.legend()
    return fig


def agreement(budgets: Sequence[int], accuracy: Sequence[Estimate], bayes: float) -> Figure:
    """Draw accuracy in points against trials per class, beside that of Bayes' rule."""
    fig, ax = new_figure()
    levels = {"guessing": 50, "Bayes' rule, the best possible": bayes}
    curves(ax, {"Algorithm 1, 95% over points": (budgets, accuracy)}, levels, alpha=0, **BY_TRIALS)
    ax.set_xticks(budgets, budgets)
    return fig


def error_map_row(picture: ArrayLike, maps: NDArray, names: Sequence[str]) -> Figure:
    """Show a picture, the error map of its class (the first of n maps), and by how much other classes exceed it."""
    fig, axes = new_figure(1, 1 + len(maps), width=10, height=2.1)
    image_row(axes[:1], [picture], names[:1])
    image_row(axes[1:2], maps[:1], ["error"], cmap="viridis", vmin=0)
    extra, titles = maps[1:] - maps[0], [f"as {name}" for name in names[1:]]
    limit = np.abs(extra).max()
    image_row(axes[2:], extra, titles, cmap="PuOr", vmin=-limit, vmax=limit)  # white at zero
    for scaled in (axes[1:2], axes[2:]):
        fig.colorbar(scaled[0].images[0], ax=list(scaled), shrink=0.8)
    return fig


def class_gaps(
    images: Sequence[ArrayLike], titles: Sequence[str], gaps: Sequence[Mapping[str, Estimate]], right: str, label: str
) -> Figure:
    """Show images, and below each its gaps, one dot per class, a diamond for the right one (Figure 1)."""
    size = {"width": max(5.0, 2.5 * len(images)), "height": 4.6, "height_ratios": [1, 1.6]}
    fig, axes = new_figure(2, len(images), sharey="row", squeeze=False, **size)
    image_row(axes[0], images, titles)
    for ax, estimates in zip(axes[1], gaps, strict=True):
        for row, (name, estimate) in enumerate(estimates.items()):
            (values, ends), index = split([estimate]), int(name == right)
            ax.errorbar(values, [row], xerr=ends, fmt="oD"[index], color=PALETTE[index], capsize=2)
        ax.axvline(0, color="#222222", linewidth=0.8)
        ax.grid(visible=False, axis="y")
        ax.set_yticks(range(len(estimates)), list(estimates))
        ax.set_ylim(len(estimates) - 0.5, -0.5)  # not invert_yaxis: the panels share the axis
    fig.supxlabel(label, fontsize=10)
    return fig
