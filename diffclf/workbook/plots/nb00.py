"""Figures of notebook 00: the exact world, and one image step by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffclf.experiments.e00_start_here import PLANE, Gaps, winner
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, Curve, curves, image_row, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, new_figure

__all__ = ["agreement", "agreement_alt", "class_gaps", "class_gaps_alt", "error_map_row", "error_map_row_alt"]
__all__ += ["errors_over_t", "errors_over_t_alt", "four_steps", "four_steps_alt", "rules", "rules_alt"]


def rules(margins: Mapping[str, NDArray], points: Tensor, of: Tensor, n_rules: int) -> Figure:
    """Colour a plane by the sign of the margins of the first rules (`rule_margins`), with points of classes 0 and 1.

    A title has the share of places that are decided as by the first rule, whose boundary is a line in all panels.
    Of the points (n, 2, 1, 1) the first 300 are drawn.
    """
    n, first, (x, y) = n_rules, next(iter(margins.values())), PLANE
    fig, axes = new_figure(1, n, width=10 if n > 1 else 7, height=2.6 if n > 1 else 3.6, sharey=True, squeeze=False)
    for ax, (name, grid) in zip(axes[0], margins.items(), strict=False):
        ax.contourf(x, y, grid, levels=[-np.inf, 0, np.inf], colors=PALETTE[:2], alpha=0.22)
        ax.contour(x, y, first, levels=[0], colors="#222222", linewidths=1)
        for c in (0, 1):
            ax.plot(*points[:300].flatten(1)[of[:300] == c].T, MARKERS[c], color=PALETTE[c], markersize=3, alpha=0.7)
        title = name if grid is first else f"{name}: {_alike(grid, first):.0f}% alike"
        ax.set(title=title, xlabel="$x_1$", aspect="equal")
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("$x_2$")
    return fig


def rules_alt(margins: Mapping[str, NDArray], n_rules: int) -> str:
    """Return the figure in words: the classes, and how often each rule decides as the first one."""
    (name, first), *others = list(margins.items())[:n_rules]
    alike = ((other, _alike(grid, first)) for other, grid in others)
    said = "".join(f" The rule with {other} decides alike on {share:.0f}% of the plane." for other, share in alike)
    start = "Points of class middle lie around the origin, and points of class sides in two clouds beside it."
    return f"{start} {name} chooses sides in two ovals.{said}"


def _alike(grid: NDArray, other: NDArray) -> float:
    """Return the share of places that two rules decide alike, in per cent."""
    return 100 * float(((grid > 0) == (other > 0)).mean())


def errors_over_t(t: ArrayLike, errors: NDArray, every: ArrayLike, exact: NDArray, names: Sequence[str]) -> Figure:
    """Draw errors of two classes (2, n_trials), those over all noises (exact, at every t), and their differences."""
    fig, (left, right) = new_figure(1, 2, width=9.5, height=3.4)
    for c, name in enumerate(names):
        left.plot(t, errors[c], MARKERS[c], color=PALETTE[c], markersize=4, alpha=0.6)
        left.plot(every, exact[c], color=PALETTE[c], label=name)
    right.plot(t, errors[0] - errors[1], ".", color=PALETTE[7], label="one trial")
    right.plot(every, exact[0] - exact[1], color="#222222", label="mean over all noises")
    left.set(title="Error of each class", xlabel="timestep t", ylabel="squared error")
    right.set(title=f"{names[0]} minus {names[1]}", xlabel="timestep t")
    left.legend()
    right.legend()
    return fig


def errors_over_t_alt(every: ArrayLike, exact: NDArray, names: Sequence[str]) -> str:
    """Return the figure in words: where the two mean errors differ most."""
    gap = np.asarray(exact[0] - exact[1])
    most = int(np.abs(gap).argmax())
    told = f"Over all noises {names[0]} minus {names[1]} is largest at t = {np.asarray(every)[most]}: {gap[most]:.2f}."
    return f"Squared errors of two classes fall with the timestep. {told} Single trials scatter around it."


def agreement(curve: Curve, bayes: Estimate) -> Figure:
    """Draw accuracy in points against trials per class, beside that of Bayes' rule."""
    fig, ax = new_figure()
    levels = {"guessing": 50, "Bayes' rule, the best possible": bayes.value}
    curves(ax, {"Algorithm 1, 95% over points": curve}, levels, alpha=0, **BY_TRIALS)
    ax.set_xticks(curve[0], curve[0])
    return fig


def agreement_alt(curve: Curve, bayes: Estimate) -> str:
    """Return the figure in words: both ends of the curve, and Bayes' rule."""
    (first, *_, last), (few, *_, many) = curve
    ends = f"from {few.value:.1f} points with {first} to {many.value:.1f} with {last}"
    return f"Accuracy rises with the trials per class, {ends}; Bayes' rule reaches {bayes.value:.1f}."


def error_map_row(picture: ArrayLike, maps: NDArray, names: Sequence[str]) -> Figure:
    """Show a picture, the error map of its class (the first of n maps), and by how much other classes exceed it.

    All numbers are x 1000; a title has the mean of its map.
    """
    maps = 1000 * maps
    fig, axes = new_figure(1, 1 + len(maps), width=10, height=2.3)
    extra, means = maps[1:] - maps[0], maps.mean(axis=(1, 2))
    titles = [f"as {name}\n{mean - means[0]:+.1f}" for name, mean in zip(names[1:], means[1:], strict=True)]
    image_row(axes[:1], [picture], [names[0]])
    image_row(axes[1:2], maps[:1], [f"error\n{means[0]:.1f}"], cmap="viridis", vmin=0)
    limit = np.abs(extra).max()
    image_row(axes[2:], extra, titles, cmap="PuOr", vmin=-limit, vmax=limit)  # white at zero
    for scaled in (axes[1:2], axes[2:]):
        fig.colorbar(scaled[0].images[0], ax=list(scaled), shrink=0.8)
    return fig


def error_map_row_alt(maps: NDArray, names: Sequence[str]) -> str:
    """Return the figure in words: the mean error under the right prompt, and by how much the rivals exceed it."""
    means = 1000 * maps.mean(axis=(1, 2))
    said = ", ".join(f"{name} {value:+.1f}" for name, value in zip(names[1:], means[1:] - means[0], strict=True))
    return f"The mean error x 1000 under the prompt {names[0]} is {means[0]:.1f}; its rivals differ by: {said}."


def class_gaps(pictures: Mapping[int, ArrayLike], gaps: Mapping[int, Gaps], right: str, *timesteps: int) -> Figure:
    """Show at each timestep the noised picture, and below it the prompts' errors minus the right one's (Figure 1)."""
    n = len(timesteps)
    size = {"width": max(5.0, 2.5 * n), "height": 4.8, "height_ratios": [1, 1.6]}
    fig, axes = new_figure(2, n, sharey="row", squeeze=False, **size)
    for t, above, ax in zip(timesteps, *axes, strict=True):
        own, best = gaps[t], winner(gaps[t])
        image_row([above], [pictures[t]], [f"t = {t}\n{best} wins: {'right' if best == right else 'WRONG'}"])
        for row, (name, estimate) in enumerate(own.items()):
            (values, ends), index = split([estimate]), int(name == right)
            ax.errorbar(values, [row], xerr=ends, fmt="oD"[index], color=PALETTE[index], capsize=2)
        ax.axvline(0, color="#222222", linewidth=0.8)
        ax.grid(visible=False, axis="y")
        ax.set_yticks(range(len(own)), list(own))
        ax.set_ylim(len(own) - 0.5, -0.5)  # not invert_yaxis: the panels share the axis
    scales = " (each panel has its own scale)" if n > 1 else ""
    fig.supxlabel(f"error x 1000, minus that of {right}{scales}", fontsize=10)
    return fig


def class_gaps_alt(gaps: Mapping[int, Gaps], right: str, *timesteps: int) -> str:
    """Return the figure in words: the prompt with the smallest error at each timestep, and the next one."""
    said = []
    for t in timesteps:
        first, second = sorted(gaps[t], key=lambda name: gaps[t][name].value)[:2]
        ahead = gaps[t][second].value - gaps[t][first].value
        said.append(f"At t = {t} {first} has the smallest error, by {ahead:.3g} before {second}.")
    return f"The image shows a {right}; differences of errors are x 1000. {' '.join(said)}"


def four_steps(pictures: Sequence[ArrayLike], gaps: Gaps, right: str) -> Figure:
    """Show Figure 1 in four steps: an image, its noised version, a prediction per prompt, and the prompts' errors.

    The pictures (H, W, 3) are the image, the noised one, and the clean image predicted under each prompt of `gaps`.
    """
    shown, big = np.asarray(pictures), {"fontsize": 15, "loc": "left"}
    height, pitch = shown.shape[1], shown.shape[1] * 9 // 8  # of a prediction, and from one to the next
    column = np.ones((pitch * len(gaps) - pitch + height, shown.shape[2], 3))
    for place, prediction in enumerate(shown[2:]):
        column[place * pitch :][:height] = prediction
    fig, layout = Figure(figsize=(8, 5.2)), [["image", "column", "errors"], ["noised", "column", "errors"]]
    axes = fig.subplot_mosaic(layout, width_ratios=[1.7, 1, 2.2])
    panels = {"image": shown[0], "noised": shown[1], "column": column}
    for (name, panel), title in zip(panels.items(), ("1. An image", "2. Add noise", "3. Predict"), strict=True):
        axes[name].imshow(panel)
        axes[name].set_axis_off()
        axes[name].set_title(title, **big)
    ax = axes["errors"]
    for place, (name, gap) in enumerate(gaps.items()):  # beside the prediction of the prompt
        best, middle = name == winner(gaps), place * pitch + height / 2
        (values, ends), colour, where = split([gap]), PALETTE[int(best)], middle + height / 6
        ax.barh(where, values, height / 2.5, xerr=ends, color=colour, error_kw={"capsize": 4})
        if best:
            ax.plot(values, [where], "D", color=colour, markersize=9, clip_on=False)
        words, weight = (f"{name}: smallest", "bold") if best else (name, "normal")
        options = {"fontsize": 14, "fontweight": weight, "in_layout": False}
        ax.text(0.03, middle - height / 8, words, transform=ax.get_yaxis_transform(), **options)
    ax.set_title("4. Compare errors", **big)
    ax.set_xlabel(f"error x 1000, minus that of {right}", fontsize=14)
    ax.set(ylim=(len(column) - 0.5, -0.5), yticks=[])
    ax.tick_params(labelsize=13)
    return fig


def four_steps_alt(t: int, gaps: Gaps, right: str) -> str:
    """Return the figure in words: the steps, the errors, and whether the smallest one is right."""
    said = ", ".join(f"{name} {gap:.1f}" for name, gap in gaps.items() if name != right)
    verdict = "which is right" if winner(gaps) == right else f"but the image shows a {right}"
    steps = (
        f"An image of a {right} gets noise (t = {t}), and the model predicts the clean image under {len(gaps)} prompts."
    )
    return (
        f"{steps} Mean errors x 1000 minus that of {right}: {said}. The smallest is that of {winner(gaps)}, {verdict}."
    )
