"""Figures of notebook 13: guidance, crops, noises of other distributions, and all tries in one order."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, paper_curve, split
from diffclf.workbook.plots.style import PALETTE, PAPER, new_figure

__all__ = ["crop_lines", "crop_lines_alt", "guidance_panels", "guidance_panels_alt", "noise_points"]
__all__ += ["noise_points_alt", "tried_points", "tried_points_alt"]

Points = Sequence[Sequence[float]]
"""[[x, y], ...] of the paper."""
NEAR = (-1.0, 1.5)
"""Values of w in the panel of errors."""


def guidance_panels(
    accuracy: Curve, paper: Points, errors: Mapping[str, Curve], vertex: Estimate, chance: float
) -> Figure:
    """Draw accuracy in points against w with the paper's, and the mean errors of right and wrong classes against w.

    Errors are those minus the error of the unconditional prediction; `vertex` is the w at which that of the right class
    is smallest. The curve of accuracies has a gap at w = -1.
    """
    fig, (left, right) = new_figure(1, 2, width=11, height=4.2)
    w, estimates = list(accuracy[0]), list(accuracy[1])
    place = sum(x < -1 for x in w)
    w.insert(place, -1.0)
    estimates.insert(place, Estimate(np.nan, np.nan, np.nan))
    paper_curve(left, paper)
    labels = {"xlabel": "w", "ylabel": f"accuracy, points (chance: {chance:.3g})", "title": "Accuracy, 95%"}
    curves(left, {"this run": (w, estimates)}, **labels)
    left.axvline(0, color="#666666", lw=1, ls=":")
    near = {
        name: tuple(zip(*((x, e) for x, e in zip(*curve, strict=True) if NEAR[0] <= x <= NEAR[1]), strict=True))
        for name, curve in errors.items()
    }
    labels = {"xlabel": "w", "ylabel": "error minus the unconditional error", "title": "Mean errors, 95%"}
    curves(right, near, order=["this run", *errors], **labels)
    right.axhline(0, color="#666666", lw=1, ls=":")
    right.axvline(vertex.value, color=PALETTE[1], lw=1.2, ls="--", label=f"right class: smallest at {vertex.value:.2f}")
    right.legend()
    return fig


def guidance_panels_alt(
    accuracy: Curve, paper: Points, errors: Mapping[str, Curve], vertex: Estimate, chance: float
) -> str:
    """Return the figure in words: accuracies at some w, the best w, and where the right class's error is smallest."""
    values = {w: estimate.value for w, estimate in zip(*accuracy, strict=True)}
    theirs = dict(map(tuple, paper))
    best, their_best = max(values, key=values.get), max(theirs, key=theirs.get)
    said = ", ".join(f"{values[w]:.1f} at w = {w:g} (paper {theirs[w]:.1f})" for w in (-0.5, 0, 0.5, 1, 2))
    return (
        f"Accuracy in points against w, chance {chance:.3g}: {said}. It is highest at w = {best:g}, in the paper at "
        f"{their_best:g}. The mean errors of the right class and of the wrong classes, minus the unconditional error, "
        f"are parabolas in w; that of the right class is smallest at w = {vertex:.2f}."
    )


def crop_lines(run: Curve, paper: Points, side: int) -> Figure:
    """Draw accuracy in points against the share of the side cut off at each end; the paper's latent has 64 a side."""
    fig, ax = new_figure(width=7.5, height=4)
    paper_curve(ax, [[crop / 64, accuracy] for crop, accuracy in paper], label="paper, 64 positions a side")
    labels = {"xlabel": "share of a side cut off at each end", "ylabel": "accuracy, points"}
    curves(ax, {f"this run, {side} positions a side, 95%": run}, alpha=0, **labels)
    ax.legend(loc="lower left")
    return fig


def crop_lines_alt(run: Curve, paper: Points, side: int) -> str:
    """Return the figure in words: every accuracy of this run, and the paper's at the same share of the side."""
    theirs = {crop / 64: accuracy for crop, accuracy in paper}
    said = "; ".join(
        f"{share:.3g}: {e:.1f}" + (f" (paper {theirs[share]:.1f})" if share in theirs else "")
        for share, e in zip(*run, strict=True)
    )
    return f"Accuracy in points by the share of the side of a latent of {side} cut off at each end: {said}."


def noise_points(run: Mapping[str, Estimate], paper: Mapping[str, float]) -> Figure:
    """Draw the accuracy with each noise in points, a row per noise; the paper's points are black."""
    fig, ax = new_figure(width=8, height=0.5 * len(run) + 1.1)
    rows, (values, ends) = np.arange(len(run)), split(list(run.values()))
    ax.errorbar(values, rows - 0.1, xerr=ends, fmt="o", color=PALETTE[0], capsize=3, label="this run, 95%")
    ax.plot([paper[name] for name in run], rows + 0.1, "s", color=PAPER, markerfacecolor="white", label="paper")
    ax.set_yticks(rows, run)
    ax.set(ylim=(len(run) - 0.5, -0.5), xlabel="accuracy, points")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def noise_points_alt(run: Mapping[str, Estimate], paper: Mapping[str, float]) -> str:
    """Return the figure in words: the accuracy with each noise, and the paper's."""
    said = "; ".join(f"{name}: {estimate:.1f} (paper {paper[name]:.1f})" for name, estimate in run.items())
    return f"Accuracy in points by the distribution of the noise: {said}."


def tried_points(rows: Mapping[str, Estimate]) -> Figure:
    """Draw accuracy minus that of the plain classifier in points, a row per method; clear differences have colours."""
    fig, ax = new_figure(width=9, height=0.32 * len(rows) + 1.1)
    for place, (_, estimate) in enumerate(rows.items()):
        colour = PALETTE[1] if estimate.high < 0 else PALETTE[2] if estimate.low > 0 else PALETTE[7]
        value, ends = split([estimate])
        ax.errorbar(value, [place], xerr=ends, fmt="o", color=colour, capsize=3)
    ax.axvline(0, color="#666666", lw=1.2, ls="--")
    ax.set_yticks(range(len(rows)), rows)
    level = 100 * next(iter(rows.values())).level
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"accuracy minus that of the plain classifier, points, {level:.2f}%")
    return fig


def tried_points_alt(rows: Mapping[str, Estimate]) -> str:
    """Return the figure in words: every difference, from the worst to the best."""
    said = "; ".join(f"{name} {estimate:.1f}" for name, estimate in rows.items())
    return f"Accuracy minus that of the plain classifier in points, from the worst to the best: {said}."
