"""Figures of notebook 01: errors on shared noise, variances of differences, and accuracy for three ways of sharing."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import BY_TRIALS, curves
from diffclf.workbook.plots.style import PALETTE, PAPER, new_figure

__all__ = ["accuracy_by_sharing", "noise_panels", "variance_panels"]


def noise_panels(t: ArrayLike, errors: NDArray, names: Sequence[str]) -> Figure:
    """Draw the errors (n_prompts, n_t, n_noises) of a few prompts over t, one panel per noise (Figure 2)."""
    n_noises = errors.shape[2]
    fig, axes = new_figure(1, n_noises, width=10, height=3.2, sharex=True, sharey=True, squeeze=False)
    for k, ax in enumerate(axes[0]):
        for index, (name, values) in enumerate(zip(names, errors[:, :, k], strict=True)):
            ax.plot(t, values, label=name, color=PALETTE[index], linestyle=("-", "--")[index % 2], linewidth=1.2)
        ax.axhline(0, color="#222222", linewidth=0.6)
        ax.set_title(f"noise {k + 1}", fontweight="normal", loc="center")
    fig.supxlabel("timestep t", fontsize=11)
    axes[0, 0].set_ylabel("summed error, centred")
    axes[0, 0].legend()
    return fig


def variance_panels(t: ArrayLike, variances: Mapping[str, Sequence[Estimate]], ratios: Sequence[Estimate]) -> Figure:
    """Draw variances of the difference of two errors over t by their names, and their ratio beside the paper's."""
    fig, (left, right) = new_figure(1, 2, width=9.5)
    labels = {"yscale": "log", "xlabel": "timestep t"}
    drawn = {name: (t, estimates) for name, estimates in variances.items()}
    curves(left, drawn, ylabel="variance of the difference", title="two ways to compare", **labels)
    right.axhline(48, color=PAPER, linestyle="--", label="paper, one image: median 48")
    right.axhspan(21, 100, color=PAPER, alpha=0.07, label="its middle half, 21 to 100")
    labels |= {"ylabel": "ratio of variances", "title": "own noises / shared noise"}
    curves(right, {"this run, 95%": (t, ratios)}, order=[*variances, "this run, 95%"], **labels)
    return fig


def accuracy_by_sharing(budgets: NDArray, accuracy: Mapping[str, Sequence[Estimate]], chance: float) -> Figure:
    """Draw accuracy in points against trials per class, one curve for what the classes share."""
    fig, ax = new_figure(height=3.8)
    # Side by side, so that the intervals do not hide each other.
    drawn = {f"shared: {what}": (budgets * 1.03**i, found) for i, (what, found) in enumerate(accuracy.items(), -1)}
    curves(ax, drawn, {"guessing": chance}, alpha=0, ylim=(0, 100), **BY_TRIALS)
    ax.set_xticks(budgets, budgets)
    ax.minorticks_off()
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
