"""Figures of notebook 10: accuracy under distribution shift."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit, logit

from diffclf.experiments.robustness import Robustness
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves, image_row, split
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = [
    "Shift",
    "corruption_panels",
    "corruption_panels_alt",
    "gallery",
    "gallery_alt",
    "robustness_panels",
    "robustness_panels_alt",
    "shortcut_lines",
    "shortcut_lines_alt",
]

STYLES = {
    "ResNet": {"color": PALETTE[0], "marker": "o"},
    "ViT": {"color": PALETTE[2], "marker": "^"},
    "DiT": {"color": PALETTE[1], "marker": "*", "markersize": 13},
}
"""Colour and marker of a family."""
TICKS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])

Shift = tuple[Mapping[str, tuple[Estimate, Estimate]], Robustness]
"""Name -> shares in distribution and under the shift, and the effective robustness of the DiT."""


def _logit_axes(ax: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Set logit axes around values, with ticks in per cent."""
    ax.set(xscale="logit", yscale="logit")
    for values, axis, set_limits in ((x, ax.xaxis, ax.set_xlim), (y, ax.yaxis, ax.set_ylim)):
        low, high = expit(logit(min(values)) - 0.35), expit(logit(max(values)) + 0.35)
        shown = TICKS[(low <= TICKS) & (high >= TICKS)]
        axis.set_ticks(shown, [f"{100 * tick:g}" for tick in shown])
        axis.set_ticks([], minor=True)
        set_limits(low, high)


def _points(ax: Axes, drawn: Sequence[tuple[Estimate, Estimate]], **style: object) -> None:
    """Draw points with the intervals of both coordinates."""
    (x, x_ends), (y, y_ends) = (split(side) for side in zip(*drawn, strict=True))
    bars = {"linestyle": "none", "elinewidth": 0.7, "capsize": 0}
    ax.errorbar(x, y, xerr=np.maximum(x_ends, 0), yerr=np.maximum(y_ends, 0), **bars | style)


def robustness_panels(
    shifts: Mapping[str, Shift], families: Mapping[str, str], paper: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Figure:
    """Draw accuracy under each shift against accuracy in distribution, both in per cent on logit axes.

    `families` are name -> family; a name with "@" is a version along the training, drawn light. `paper` is letter ->
    name -> {x, y, line} in per cent: the paper's point, and its line at x.
    """
    fig, axes = new_figure(1, len(shifts), width=4.3 * len(shifts), height=4.6, squeeze=False)
    for ax, (letter, (points, found)) in zip(axes[0], shifts.items(), strict=True):
        for family, style in STYLES.items():
            for light in (True, False):
                own = [points[n] for n, kind in families.items() if kind == family and ("@" in n) == light]
                shown = {"alpha": 0.35, "markerfacecolor": "none"} if light else {}
                label = f"{family}, versions along the training" if light else family
                if own:
                    _points(ax, own, label=label, **style, **shown)
        reference = paper.get(letter, {})
        x = [p[0].value for p in points.values()] + [entry["x"] / 100 for entry in reference.values()]
        y = [p[1].value for p in points.values()]
        y += [entry[key] / 100 for entry in reference.values() for key in ("y", "line")]
        _logit_axes(ax, x, y)
        fitted = [points[n][0].value for n, kind in families.items() if kind != "DiT" and "@" not in n]
        grid = np.linspace(min(fitted), max(fitted), 200)
        ax.plot(grid, found.line(grid), color=PALETTE[7], label="line through the final networks")
        wide = np.linspace(*ax.get_xlim(), 400)[1:-1]
        ax.plot(wide, found.line(wide), color=PALETTE[7], linewidth=0.8, linestyle=":", label="the line, extrapolated")
        for place, entry in enumerate(reference.values()):
            ends = np.array([entry["line"], entry["y"]]) / 100
            ax.plot([entry["x"] / 100] * 2, ends, color=PAPER, linestyle="--", linewidth=1, marker="_", markersize=9)
            style = {"color": PAPER, "marker": "*", "markersize": 9, "linestyle": "none", "markerfacecolor": "none"}
            ax.plot(entry["x"] / 100, ends[1], label=None if place else "the paper, above its line", **style)
        ax.set(title=letter, xlabel="accuracy in distribution, %", ylabel=f"accuracy on {letter}, %")
    handles = {}
    for ax in axes[0]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return fig


def robustness_panels_alt(shifts: Mapping[str, Shift], name: str) -> str:
    """Return the figure in words; `name` is that of the DiT."""
    said = []
    for letter, (points, found) in shifts.items():
        x, y = (100 * share.value for share in points[name])
        line = 100 * float(found.line(x / 100))
        said.append(f"{letter}: the DiT {y:.0f}% at {x:.0f}% in distribution, where the line has {line:.0f}%")
    return f"Accuracy under a shift against accuracy in distribution, logit axes, 99.5% intervals. {'; '.join(said)}."


def shortcut_lines(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw accuracy where the colour agrees and where not, a line per architecture, a small point per training.

    `found` is architecture -> kind, accuracy (two estimates in points) and seeds (n lists of two accuracies).
    """
    fig, ax = new_figure(width=7.5, height=4.4)
    spread = np.linspace(-0.06, 0.06, len(found))
    for place, (name, entry) in enumerate(found.items()):
        style = {"color": PALETTE[1] if entry["kind"] == "generative" else (PALETTE[0], *PALETTE[2:])[place % 7]}
        values, ends = split(entry["accuracy"])
        x = np.arange(2) + spread[place]
        width = {"linewidth": 2.6 if entry["kind"] == "generative" else 1.4}
        marker = {"marker": MARKERS[place % len(MARKERS)], "capsize": 3}
        ax.errorbar(x, values, yerr=ends, label=f"{name} ({entry['kind']})", **style, **width, **marker)
        for seed in entry["seeds"] if len(entry["seeds"]) > 1 else ():
            ax.plot(x, seed, marker=".", linestyle="none", alpha=0.6, **style)
    ax.set_xticks([0, 1], ["the colour agrees", "the colour disagrees"])
    ax.set(xlim=(-0.3, 1.3), ylabel="accuracy, points")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def shortcut_lines_alt(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figure in words."""
    said = (f"{name}: {entry['accuracy'][0]:.0f} and {entry['accuracy'][1]:.0f}" for name, entry in found.items())
    return f"Accuracy in points [95%] where an item's colour agrees with the shortcut and where not. {'; '.join(said)}."


def corruption_panels(found: Mapping[str, Mapping[str, Curve]], chance: float) -> Figure:
    """Draw accuracy in points against severity, a panel per corruption, a line per family."""
    fig, axes = new_figure(1, len(found), width=2.9 * len(found) + 0.5, height=3.8, sharey=True, squeeze=False)
    order = ["ResNet", "DiT", "ViT"]  # colours as in the other figures
    for ax, (corruption, drawn) in zip(axes[0], found.items(), strict=True):
        curves(ax, drawn, {"chance": chance}, order=order, alpha=0.15, title=corruption, xlabel="severity")
        ax.get_legend().remove()
        ax.set_xticks(next(iter(drawn.values()))[0])
    axes[0, 0].set_ylabel("accuracy, points")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def corruption_panels_alt(found: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return the figure in words: the accuracies at the highest severity."""
    said = []
    for corruption, drawn in found.items():
        worst = ", ".join(f"{family} {estimates[-1].value:.0f}" for family, (_, estimates) in drawn.items())
        said.append(f"{corruption}: {worst}")
    return f"Accuracy in points against severity, with 95% bands. At the highest severity: {'; '.join(said)}."


def gallery(rows: Mapping[str, Sequence[tuple[Any, str, Mapping[str, str]]]]) -> Figure:
    """Show images with the true class above and the answer of each classifier below, wrong answers in vermilion.

    `rows` are title -> (image, true class, role -> answer) for each image.
    """
    n, n_roles = (max(map(len, found)) for found in (rows.values(), [a for row in rows.values() for *_, a in row]))
    heights = {"height_ratios": [1.0, 0.17 * n_roles] * len(rows)}
    height = (1.75 + 0.24 * n_roles) * len(rows)
    fig, axes = new_figure(2 * len(rows), n, width=1.7 * n, height=height, squeeze=False, gridspec_kw=heights)
    for ax in axes.flat:
        ax.set_axis_off()
    for pictures, texts, (title, row) in zip(axes[::2], axes[1::2], rows.items(), strict=True):
        image_row(pictures[: len(row)], [image for image, _, _ in row], [true for _, true, _ in row])
        for ax, (_, true, answers) in zip(texts, row, strict=False):
            for place, (role, answer) in enumerate(answers.items()):
                style = {"color": "black" if answer == true else PALETTE[1], "ha": "center", "va": "top", "fontsize": 9}
                ax.text(0.5, 1.1 - place / n_roles, f"{role}: {answer}", **style)
        pictures[0].annotate(title, (-0.12, 0.5), xycoords="axes fraction", ha="right", va="center", fontweight="bold")
    return fig


def gallery_alt(rows: Mapping[str, Sequence[tuple[Any, str, Mapping[str, str]]]]) -> str:
    """Return the figure in words."""
    said = []
    for title, row in rows.items():
        images = (f"a {true} ({', '.join(f'{role} {a}' for role, a in answers.items())})" for _, true, answers in row)
        said.append(f"{title}: {'; '.join(images)}")
    return f"Images with their true class and the answers. {'. '.join(said)}."
