"""Figures of notebook 02: what a single timestep tells about the class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from diffclf.workbook.plots.pieces import Curve, curves, paper_curve, picture_grid, pictures
from diffclf.workbook.plots.style import PALETTE, new_figure

__all__ = ["figure3", "figure3_alt", "guesses", "guesses_alt", "snr_panels", "snr_panels_alt"]

Panels = Mapping[str, Mapping[str, Curve]]
"""Title -> label -> log10 SNR and the estimates there."""


def figure3(
    dots: tuple[ArrayLike, ArrayLike],
    run: Curve,
    paper: ArrayLike,
    scaled: Curve,
    theirs: ArrayLike,
    levels: Mapping[str, float],
) -> Figure:
    """Draw accuracies in points against t, and the way from chance to each curve's own peak against log10 SNR.

    `dots` are t and the accuracy of every timestep, `run` and `scaled` curves of this run, `paper` and `theirs` (n, 2)
    points of the paper's, `levels` horizontal lines on the left.
    """
    fig, (left, right) = new_figure(1, 2, width=10.0, height=4.0)
    left.plot(*dots, ".", color=PALETTE[5], markersize=4, label="one timestep")
    paper_curve(left, paper, label="paper, Pets")
    labels = {"xlabel": "timestep t", "ylabel": "accuracy, points", "title": "As measured", "ylim": (0, None)}
    curves(left, {"this run, averaged, 95%": run}, levels, marker=False, **labels)
    paper_curve(right, theirs)
    labels = {"xlabel": "log10 SNR, much noise on the right", "title": "Chance = 0, own peak = 1"}
    curves(right, {"this run": scaled}, marker=False, ylabel="share of the way", **labels)
    right.invert_xaxis()
    right.get_legend().remove()
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return fig


def figure3_alt(dots: object, run: Curve, paper: ArrayLike, *scaled: object) -> str:  # noqa: ARG001
    """Return the left panel in words: both ends and the peak of both curves."""
    own = np.column_stack((run[0], [estimate.value for estimate in run[1]]))
    said = [f"{name} has {_ends(*np.asarray(c).T)}" for name, c in (("This run", own), ("the paper's", paper))]
    return f"The accuracy of single timesteps is drawn against t, then scaled, against the SNR. {'; '.join(said)}."


def _ends(x: ArrayLike, heights: ArrayLike) -> str:
    """Return a curve in words: its first, its highest and its last point."""
    x, heights = np.asarray(x, dtype=float), np.asarray(heights, dtype=float)
    return ", ".join(f"{heights[i]:.1f} at {x[i]:.4g}" for i in (0, int(heights.argmax()), -1))


def snr_panels(panels: Panels, ylabels: Sequence[str], levels: Mapping[str, float] | None = None) -> Figure:
    """Draw curves with error bars against log10 SNR, side by side; levels are horizontal lines in the first panel."""
    fig, axes = new_figure(1, len(panels), width=(7.0, 10.0)[len(panels) > 1], height=3.4, squeeze=False)
    for place, (ax, (title, drawn)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        aside = {name: (np.asarray(x) + 0.03 * i, e) for i, (name, (x, e)) in enumerate(drawn.items())}
        labels = {"title": title, "xlabel": "log10 SNR, much noise on the right", "ylabel": ylabels[place]}
        curves(ax, aside, None if place else levels, alpha=0, **labels)
        ax.invert_xaxis()
    return fig


def snr_panels_alt(panels: Panels) -> str:
    """Return the curves in words: both ends and the peak of each."""
    said = "; ".join(
        f"{title}, {name}: {_ends(x, [estimate.value for estimate in e])}"
        for title, drawn in panels.items()
        for name, (x, e) in drawn.items()
    )
    return f"Against log10 SNR, the curves have these first, highest and last values: {said}."


def guesses(rows: Mapping[str, Tensor], timesteps: Sequence[int], log_snr: ArrayLike) -> Figure:
    """Show rows of pixels (n_t, 3, H, W), each column under its timestep and its SNR; log10 SNR of every timestep."""
    titles = [f"t = {t}\nSNR {10 ** float(np.asarray(log_snr)[t]):.3g}" for t in timesteps]
    return picture_grid({name: pictures(row) for name, row in rows.items()}, titles)


def guesses_alt(rows: Mapping[str, Tensor], timesteps: Sequence[int]) -> str:
    """Return the figure in words: what the rows are."""
    names = " and for ".join(name.split("\n")[1] for name in list(rows)[1:])
    span = f"{len(timesteps)} timesteps from {timesteps[0]} to {timesteps[-1]}"
    return f"One picture is noised to {span}; below are the model's guesses at the clean picture, for {names}."
