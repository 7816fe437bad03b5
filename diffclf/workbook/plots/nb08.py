"""Figures of notebook 08: examples, Table 3, what relation words earn, and trainings that learn relations."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["earning_lines", "earning_lines_alt", "example_rows", "example_rows_alt", "relation_panels"]
__all__ += ["relation_panels_alt", "tag_points", "tag_points_alt"]

Points = Mapping[str, Mapping[str, Estimate]]
"""Row -> tag -> text score in points."""


def _verdicts(margins: Sequence[float]) -> str:
    """Return which of an example's images find their captions: "image 0 right, image 1 wrong"."""
    return ", ".join(f"image {k} {'right' if margin > 0 else 'wrong'}" for k, margin in enumerate(margins))


def _write(ax: Axes, example: Mapping[str, Any]) -> None:
    """Write an example's captions and the margins of all models."""
    lines = [fill(f"caption {k}: {caption}", 62) for k, caption in enumerate(example["captions"])]
    ax.text(0, 1, "\n".join(lines), va="top", transform=ax.transAxes, fontsize=9.5)
    for place, (name, margins) in enumerate(example["margins"].items()):
        said = f"{name}: " + ",  ".join(f"{'✓' if m > 0 else '✗'} {m:+.2g}" for m in margins).replace("-", "−")
        ax.text(0, 0.5 - 0.17 * place, said, va="top", transform=ax.transAxes, fontsize=9, color=PALETTE[place])
    ax.set_axis_off()


def example_rows(examples: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Figure:
    """Draw an example of each tag: its pictures (if it has any), its captions, and the margins of each model.

    Args:
        examples: as `diffclf.experiments.e08_compositionality.shown_examples` returns them.
        names: tag -> its name.
    """
    n_pictures = len(examples[0]["pictures"])
    widths = {"width_ratios": [*[1] * n_pictures, 2.7]}
    fig, axes = new_figure(len(examples), n_pictures + 1, width=8.3, height=1.75 * len(examples),
                           gridspec_kw=widths, squeeze=False)  # fmt: skip
    for row, example in zip(axes, examples, strict=True):
        for k, picture in enumerate(example["pictures"]):
            row[k].imshow(np.asarray(picture))
            row[k].set_title(f"image {k}", loc="center", fontweight="normal", fontsize=9)
            row[k].set_axis_off()
        row[-1].set_title(names.get(example["tag"], example["tag"]), fontsize=10)
        _write(row[-1], example)
    return fig


def example_rows_alt(examples: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """Return the figure in words."""
    said = []
    for example in examples:
        found = "; ".join(f"{name}: {_verdicts(margins)}" for name, margins in example["margins"].items())
        first, second = example["captions"]
        said.append(f"{names.get(example['tag'], example['tag'])}: “{first}” and “{second}”. {found}.")
    return f"An example of each swap, with its two captions and which images find their own. {' '.join(said)}"


def tag_points(
    run: Points,
    paper: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
) -> Figure:
    """Draw text scores by tag with the paper's.

    Args:
        run: this run's.
        paper: row -> the paper's tag -> its text score.
        groups: the paper's tag -> the tags here that stand for it; its value is drawn in their middle.
        names: tag -> its name.
    """
    fig, ax = new_figure(width=9, height=4)
    tags = list(next(iter(run.values())))
    for place, (name, own) in enumerate(run.items()):
        shift = 0.17 * (place - (len(run) - 1) / 2)
        values, ends = split(list(own.values()))
        style = {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": "none"}
        ax.errorbar(np.arange(len(tags)) + shift, values, yerr=ends, capsize=3, label=f"{name}, this run, 95%", **style)
        style |= {"color": PAPER, "markerfacecolor": "white", "markersize": 7}
        xs = [np.mean([tags.index(t) for t in groups.get(tag, (tag,)) if t in tags]) for tag in paper[name]]
        ax.plot(np.array(xs) + shift, list(paper[name].values()), label=f"{name}, paper", **style)
    ax.axhline(25, color="#666666", linestyle=":", linewidth=1.2, label="two guesses")
    ax.set_xticks(range(len(tags)), [fill(names.get(tag, tag), 13) for tag in tags])
    ax.set(ylabel="text score, points", ylim=(-3, 103))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def tag_points_alt(run: Points, paper: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """Return the figure in words."""
    ours = "; ".join(
        f"{name}: " + ", ".join(f"{names.get(tag, tag)} {e:.1f}" for tag, e in own.items()) for name, own in run.items()
    )
    theirs = "; ".join(
        f"{name}: " + ", ".join(f"{t} {v:.1f}" for t, v in own.items()) for name, own in paper.items() if name in run
    )
    return f"Text scores in points by swap; 25 by guessing. {ours}. The paper: {theirs}."


def earning_lines(earned: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw what words that state the layout earn at each timestep, name of a loss -> (T,), on a logarithmic axis."""
    fig, ax = new_figure(width=7.5, height=3.6)
    for place, (name, own) in enumerate(earned.items()):
        ax.plot(own, label=name, color=PALETTE[place], linestyle=("-", "--", "-.")[place])
    highest = max(own.max() for own in earned.values())
    ax.set(yscale="log", ylim=(highest / 3000, 1.5 * highest), xlabel="timestep t", ylabel="earned, mean over latent")
    ax.legend(loc="upper left")
    return fig


def earning_lines_alt(earned: Mapping[str, NDArray[np.float64]]) -> str:
    """Return the figure in words: where each line is highest, and its height there and at the last timestep."""
    said = "; ".join(
        f"{name}: highest at t = {own.argmax()} with {own.max():.2g}, {own[-1]:.2g} at the last timestep"
        for name, own in earned.items()
    )
    return f"What words that state the layout of two scenes earn in the loss at each timestep. {said}."


def relation_panels(accuracy: Mapping[str, tuple[Estimate, Sequence[float]]], by_t: Mapping[str, Curve]) -> Figure:
    """Draw accuracies of trainings in points: all trials, with a small point per seed; and single trials against t.

    Args:
        accuracy: objective -> the accuracy, and that of each seed.
        by_t: objective -> timesteps and the accuracy of a single trial there.
    """
    fig, (left, right) = new_figure(1, 2, width=12, height=4, gridspec_kw={"width_ratios": [1, 1.6]})
    for place, (estimate, seeds) in enumerate(accuracy.values()):
        value, ends = split([estimate])
        left.errorbar([place], value, yerr=ends, color=PALETTE[place], marker=MARKERS[place], capsize=4)
        left.plot(place + np.linspace(0.15, 0.35, len(seeds)), seeds, ".", color=PALETTE[place])
    left.axhline(50, color="#666666", linestyle="--", linewidth=1.2)
    left.set_xticks(range(len(accuracy)), list(accuracy))
    left.set(
        ylabel="accuracy, points (chance: 50)",
        xlim=(-0.5, len(accuracy) - 0.4),
        title="All trials, 95%; a dot per seed",
    )
    labels = {"xlabel": "timestep t", "ylabel": "accuracy of one trial, points", "title": "One trial, 95%"}
    curves(right, by_t, {"chance": 50.0}, **labels)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def relation_panels_alt(accuracy: Mapping[str, tuple[Estimate, Sequence[float]]], by_t: Mapping[str, Curve]) -> str:
    """Return the figure in words."""
    said = "; ".join(f"{name} {estimate:.1f}" for name, (estimate, _) in accuracy.items())
    best = []
    for name, (t, estimates) in by_t.items():
        place = int(np.argmax([estimate.value for estimate in estimates]))
        best.append(f"{name}: {estimates[place].value:.1f} at t = {t[place]:.0f}")
    return f"Accuracy on relations in points, chance 50: {said}. One trial is best at: {'; '.join(best)}."
