"""Figures of notebook 01: errors on shared noise, variances of differences, ratios by rival, accuracy by sharing."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, Curve, curves, split
from diffclf.workbook.plots.style import PALETTE, PAPER, new_figure

__all__ = ["accuracy_by_sharing", "accuracy_by_sharing_alt", "noise_panels", "noise_panels_alt", "rank_points"]
__all__ += ["rank_points_alt", "variance_panels", "variance_panels_alt"]


def noise_panels(t: ArrayLike, errors: NDArray, names: Sequence[str]) -> Figure:
    """Draw the errors (n_prompts, n_t, n_noises) of a few prompts over t, one panel per noise (Figure 2).

    At each timestep the mean over all curves is taken out.
    """
    errors = errors - errors.mean(axis=(0, 2), keepdims=True)
    fig, axes = new_figure(1, errors.shape[2], width=10, height=3.2, sharex=True, sharey=True, squeeze=False)
    for k, ax in enumerate(axes[0]):
        for index, (name, values) in enumerate(zip(names, errors[:, :, k], strict=True)):
            ax.plot(t, values, label=name, color=PALETTE[index], linestyle=("-", "--")[index % 2], linewidth=1.2)
        ax.axhline(0, color="#222222", linewidth=0.6)
        ax.set_title(f"noise {k + 1}", fontweight="normal", loc="center")
    fig.supxlabel("timestep t", fontsize=11)
    axes[0, 0].set_ylabel("summed error, centred")
    axes[0, 0].legend()
    return fig


def noise_panels_alt(t: ArrayLike, errors: NDArray, names: Sequence[str]) -> str:
    """Return the figure in words: the range of each noise's curves."""
    errors = errors - errors.mean(axis=(0, 2), keepdims=True)
    ranges = ", ".join(f"{errors[..., k].min():.3g} to {errors[..., k].max():.3g}" for k in range(errors.shape[2]))
    who = f"Errors of the prompts {' and '.join(names)} for one image run over t = {np.min(t)} to {np.max(t)}"
    return f"{who}, a panel for each noise. The ranges of the panels are {ranges}."


def variance_panels(t: ArrayLike, found: Mapping[str, Sequence[Estimate]], paper: Mapping[str, object]) -> Figure:
    """Draw the variances of the difference to the nearest rival over t, and their ratio, beside the paper's image.

    `found` are those of `Rivals.by_t`; of the paper's ratio there are the median over t and the quartiles.
    """
    fig, (left, right) = new_figure(1, 2, width=10)
    labels = {"yscale": "log", "xlabel": "timestep t"}
    names = list(found)[:2]
    curves(left, {name: (t, found[name]) for name in names}, ylabel="variance per latent element", **labels)
    left.set_title("variance of the difference")
    right.axhspan(*paper["quartiles"], color=PAPER, alpha=0.1, lw=0, label="paper, middle half over t")
    right.axhline(paper["median"], color=PAPER, ls="--", lw=1.4, label="paper, median over t")
    labels |= {"ylabel": "ratio of the variances", "title": "own noises / shared noise"}
    curves(right, {"this run, 95%": (t, found["ratio"])}, order=[*names, "this run, 95%"], **labels)
    return fig


def variance_panels_alt(t: ArrayLike, found: Mapping[str, Sequence[Estimate]], paper: Mapping[str, object]) -> str:
    """Return the figure in words: the variances at the first and the last timestep, and the median ratios."""
    t = np.asarray(t)
    said = "; ".join(f"{name} {e[0].value:.3g} and {e[-1].value:.3g}" for name, e in list(found.items())[:2])
    ratio = np.median([e.value for e in found["ratio"]])
    ends = f"The variances of the difference at t = {t[0]} and t = {t[-1]} are: {said}"
    return f"{ends}. The median of their ratio over t is {ratio:.3g}; that of the paper's is {paper['median']}."


def rank_points(by_rank: Sequence[Estimate], random: Estimate, margin: float, paper: float) -> Figure:
    """Draw the ratio of variances against the rank of the rival, and that of a random rival as a band."""
    fig, ax = new_figure(width=7.5, height=3.6)
    ranks = np.arange(1, len(by_rank) + 1)
    values, ends = split(by_rank)
    ax.axhspan(random.low, random.high, color=PALETTE[7], alpha=0.2, lw=0, label="random rival, 95%")
    ax.errorbar(ranks, values, yerr=ends, fmt="o", color=PALETTE[0], capsize=3, label="this run, 95%")
    ax.axhline(paper, color=PAPER, ls="--", lw=1.4, label="paper, two similar breeds")
    ax.axhline(margin, color="#666666", ls=":", lw=1.4, label="margin of the claim")
    ticks = [2, 5, 10, 20, 50]
    ax.set(yscale="log", xlabel="rank of the rival (1 is the nearest)", ylabel="ratio of the variances")
    ax.set_yticks(ticks, ticks)
    ax.minorticks_off()
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def rank_points_alt(by_rank: Sequence[Estimate], random: Estimate, margin: float, paper: float) -> str:
    """Return the figure in words: the ratios of the nearest, the farthest and a random rival."""
    ends = f"nearest rival {by_rank[0]}, farthest {by_rank[-1]}, random {random}"
    return f"The ratio of the variances is: {ends}. The margin is {margin:.3g} and the paper's image has {paper:.3g}."


def accuracy_by_sharing(found: Mapping[str, Curve], chance: float) -> Figure:
    """Draw accuracy in points against trials per class, one curve for what the classes share."""
    fig, ax = new_figure(height=3.8)
    # Side by side, so that the intervals do not hide each other.
    drawn = {f"shared: {what}": (n * 1.03**i, e) for i, (what, (n, e)) in enumerate(found.items(), -1)}
    curves(ax, drawn, {"guessing": chance}, alpha=0, **BY_TRIALS)
    budgets = next(iter(found.values()))[0]
    ax.set_xticks(budgets, budgets)
    ax.minorticks_off()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def accuracy_by_sharing_alt(found: Mapping[str, Curve], chance: float) -> str:
    """Return the figure in words: each accuracy with the fewest and with all trials."""
    said = "; ".join(f"{what} {e[0].value:.3g} and {e[-1].value:.3g}" for what, (_, e) in found.items())
    first, *_, last = next(iter(found.values()))[0]
    counts = f"with {first} and with {last} trials per class is, by what is shared"
    return f"The accuracy in points {counts}: {said}. Guessing has {chance:.3g}."
