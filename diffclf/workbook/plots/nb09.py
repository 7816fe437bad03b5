"""Figures of notebook 09: a diffusion classifier among networks trained to classify."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffclf.experiments.e09_supervised import Member
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import split
from diffclf.workbook.plots.style import PALETTE, PAPER, new_figure

__all__ = [
    "accuracy_against_cost",
    "accuracy_against_cost_alt",
    "accuracy_against_size",
    "accuracy_against_size_alt",
    "confusion_panels",
    "confusion_panels_alt",
    "kappa_points",
    "kappa_points_alt",
]

STYLES = {"ResNet": (PALETTE[0], "o"), "ViT": (PALETTE[2], "^"), "DiT": (PALETTE[1], "*")}
"""Colour and marker of a family."""


def _families(
    ax: Axes, members: Sequence[Member], accuracy: Mapping[str, Estimate], x: Sequence[float], **labels: object
) -> None:
    """Draw each classifier's accuracy at its x, a colour and a marker per family; the point's label is its tag."""
    for family, (colour, marker) in STYLES.items():
        own = [(place, m) for place, m in zip(x, members, strict=True) if m.family == family]
        own.sort(key=lambda entry: entry[0])
        if not own:
            continue
        values, ends = split([accuracy[m.name] for _, m in own])
        style = {"color": colour, "marker": marker, "markersize": 14 if family == "DiT" else 6, "linestyle": "none"}
        ax.errorbar([place for place, _ in own], values, yerr=ends, capsize=3, label=family, **style)
        text, offset, side = ("name", (-9, 4), "right") if family == "DiT" else ("tag", (6, 4), "left")
        for (place, m), value in zip(own, values, strict=True):
            style = {"textcoords": "offset points", "ha": side, "fontsize": 9, "color": colour}
            ax.annotate(getattr(m, text), (place, value), xytext=offset, **style)
    ax.set(xscale="log", ylabel="accuracy, points", **labels)
    ax.margins(x=0.12)
    ax.legend(loc="lower right")


def accuracy_against_size(
    members: Sequence[Member], accuracy: Mapping[str, Estimate], paper: Mapping[str, Estimate]
) -> Figure:
    """Draw accuracy in points against parameters, and the paper's accuracies, which have no parameters, beside it."""
    fig, (left, right) = new_figure(1, 2, width=10.5, height=4.6, width_ratios=(3, 2))
    _families(left, members, accuracy, [m.n_parameters for m in members], title="This run, 95%", xlabel="parameters")
    names = sorted(paper, key=lambda name: paper[name].value)
    for row, name in enumerate(names):
        values, ends = split([paper[name]])
        marker = next((marker for family, (_, marker) in STYLES.items() if name.startswith(family)), "*")
        style = {"color": PAPER, "marker": marker, "markersize": 11 if marker == "*" else 6, "capsize": 3}
        right.errorbar(values, [row], xerr=ends, linestyle="none", **style)
    right.set_yticks(range(len(names)), names)
    right.grid(visible=False, axis="y")
    right.set(title="The paper, ImageNet", xlabel="accuracy, points")
    return fig


def accuracy_against_size_alt(
    members: Sequence[Member], accuracy: Mapping[str, Estimate], paper: Mapping[str, Estimate]
) -> str:
    """Return the figure in words."""
    ours = "; ".join(f"{m.name}, {m.n_parameters:,} parameters: {accuracy[m.name]:.1f}" for m in members)
    theirs = "; ".join(f"{name} {estimate.value:.1f}" for name, estimate in paper.items())
    return f"Accuracy in points with 95% intervals against parameters. {ours}. Right, the paper's Table 4: {theirs}."


def accuracy_against_cost(members: Sequence[Member], accuracy: Mapping[str, Estimate]) -> Figure:
    """Draw accuracy in points against the multiply-adds that an image costs."""
    fig, ax = new_figure(width=8, height=4.4)
    _families(ax, members, accuracy, [m.multiply_adds for m in members], xlabel="multiply-adds for an image")
    return fig


def accuracy_against_cost_alt(members: Sequence[Member], accuracy: Mapping[str, Estimate]) -> str:
    """Return the figure in words."""
    said = "; ".join(f"{m.name} {m.multiply_adds:.2g}: {accuracy[m.name].value:.1f}" for m in members)
    return f"Accuracy in points against multiply-adds for an image, logarithmic axis. {said}."


def confusion_panels(matrices: Mapping[str, NDArray], classnames: Sequence[str]) -> Figure:
    """Draw how often each class is taken for each other class, in per cent of its images; the diagonal is left empty.

    `matrices` are title -> (n_classes, n_classes), three in a row. Cells of at least 1% have numbers, where there are
    20 classes or fewer.
    """
    n, columns = len(classnames), min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    fig, grid = new_figure(rows, columns, width=5.4 * columns, height=5.2 * rows, sharey=True, squeeze=False)
    axes = grid.ravel()[: len(matrices)]
    for empty in grid.ravel()[len(matrices) :]:
        empty.set_axis_off()
    off = {title: np.where(np.eye(n, dtype=bool), np.nan, matrix) for title, matrix in matrices.items()}
    top = max(float(np.nanmax(matrix)) for matrix in off.values()) or 1.0
    for ax, (title, matrix) in zip(axes, off.items(), strict=True):
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=top)
        for row, column in np.argwhere(matrix >= 1) if n <= 20 else ():
            value = matrix[row, column]
            colour = "white" if value > 0.6 * top else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color=colour)
        if n <= 20:
            ax.set_xticks(range(n), classnames, rotation=60, ha="right")
            ax.set_yticks(range(n), classnames)
        ax.set(title=title, xlabel="taken for")
        ax.grid(visible=False)
    for row in grid:
        row[0].set_ylabel("true class")
    return fig


def confusion_panels_alt(matrices: Mapping[str, NDArray], classnames: Sequence[str]) -> str:
    """Return the figure in words: the three most frequent confusions of each panel."""
    said = []
    for title, matrix in matrices.items():
        off = np.nan_to_num(np.where(np.eye(len(classnames), dtype=bool), 0, matrix))
        most = np.argsort(-off, axis=None, kind="stable")[:3]
        cells = [(*np.unravel_index(place, off.shape), off.flat[place]) for place in most]
        named = (f"{classnames[a]} taken for {classnames[b]} {value:.0f}%" for a, b, value in cells)
        said.append(f"{title}: " + ", ".join(named))
    return f"Confusion matrices in per cent of the true class. Most frequent: {'; '.join(said)}."


def kappa_points(kinds: Mapping[str, tuple[Sequence[float], Estimate]]) -> Figure:
    """Draw the kappa of each pair of classifiers, a row per kind of pair, with the mean and its interval."""
    fig, ax = new_figure(width=8, height=0.6 * len(kinds) + 1.4)
    for row, (pairs, estimate) in enumerate(kinds.values()):
        ax.plot(pairs, np.full(len(pairs), row + 0.18), "o", color=PALETTE[7], alpha=0.5, label="a pair")
        values, ends = split([estimate])
        ax.errorbar(values, [row], xerr=ends, fmt="D", color=PALETTE[1], capsize=3, label="mean, 95%")
    ax.set_yticks(range(len(kinds)), list(kinds))
    ax.set(ylim=(len(kinds) - 0.5, -0.5), xlabel="kappa of correctness: 0 independent errors, 1 the same errors")
    ax.grid(visible=False, axis="y")
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def kappa_points_alt(kinds: Mapping[str, tuple[Sequence[float], Estimate]]) -> str:
    """Return the figure in words."""
    said = "; ".join(f"{kind}, {len(pairs)}: {estimate:.2f}" for kind, (pairs, estimate) in kinds.items())
    return f"Kappa of correctness by kind of pair, mean with 95% interval. {said}."
