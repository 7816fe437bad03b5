"""Drawing: the palette, the style and the general pieces of figures. Functions here draw numbers and compute none.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; curves also differ in line style or
marker, and the paper's values are always black and dashed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from diffclf.racing import Round
from diffclf.stats import Estimate

__all__ = [
    "MARKERS",
    "PALETTE",
    "PAPER",
    "bars",
    "class_dots",
    "cost_points",
    "curve",
    "image_row",
    "map_row",
    "margin_panels",
    "new_figure",
    "noise_panels",
    "paper_curve",
    "picture_and_dots",
    "picture_grid",
    "race_lines",
    "regions",
    "set_style",
    "snr_panels",
    "stage_rows",
    "strategy_panels",
    "study_panels",
    "timestep_panels",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B")
"""Blue, vermilion, green, purple, orange, sky, violet, grey: in this order."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAPER = "#000000"
"""Colour of everything the paper measured."""


def set_style() -> None:
    """Set matplotlib's defaults for the workbook; SVG files come out the same in every run."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 4.0),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 160,
            "font.size": 11,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titleweight": "bold",
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "image.interpolation": "nearest",
            "svg.hashsalt": "diffclf",
        }
    )


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.0, **options: object
) -> tuple[Figure, Any]:
    """Return a figure of this size in inches and its axes (one Axes, or an array of them).

    The figure is none of pyplot's: it appears where `Workbook.show` puts it, with its description, and nowhere else.
    """
    fig = Figure(figsize=(width, height))
    return fig, fig.subplots(rows, columns, **options)


def curve(
    ax: Axes,
    x: ArrayLike,
    estimates: Sequence[Estimate],
    *,
    label: str,
    index: int = 0,
    band: bool = True,
    marker: bool = True,
) -> None:
    """Draw a line of estimates with their intervals.

    Args:
        ax: where.
        x: (n,) positions.
        estimates: n estimates.
        label: for the legend.
        index: which colour and marker of the palette.
        band: a shaded band for dense curves; False: error bars.
        marker: mark the points.
    """
    values, lows, highs = np.array([tuple(estimate) for estimate in estimates], dtype=float).T
    colour = PALETTE[index % len(PALETTE)]
    style = {"color": colour, "label": label, "marker": MARKERS[index % len(MARKERS)] if marker else None}
    if band:
        ax.plot(x, values, **style)
        ax.fill_between(np.asarray(x, dtype=float), lows, highs, color=colour, alpha=0.18, linewidth=0)
    else:
        ax.errorbar(x, values, yerr=(values - lows, highs - values), capsize=3, **style)


def paper_curve(ax: Axes, points: Sequence[Sequence[float]], *, label: str = "paper") -> None:
    """Draw the paper's points [[x, y], ...] as a dashed black line."""
    x, y = np.asarray(points, dtype=float).T
    ax.plot(x, y, color=PAPER, linestyle="--", linewidth=1.4, label=label, zorder=3)


def bars(
    ax: Axes, estimates: Mapping[str, Estimate], *, paper: Mapping[str, float] | None = None, label: str = "this run"
) -> None:
    """Draw one horizontal bar per name with its interval, top to bottom, and the paper's values as black diamonds."""
    names = list(estimates)
    values, lows, highs = np.array([tuple(estimates[name]) for name in names], dtype=float).T
    rows = np.arange(len(names))
    ax.barh(rows, values, color=PALETTE[0], height=0.6, label=label)
    ax.errorbar(values, rows, xerr=(values - lows, highs - values), fmt="none", ecolor="#222222", capsize=3)
    known = [(paper[name], row) for row, name in enumerate(names) if name in (paper or {})]
    if known:
        x, y = zip(*known, strict=True)
        ax.plot(x, y, linestyle="none", marker="D", color=PAPER, label="paper", zorder=4)
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")


def image_row(axes: Sequence[Axes], images: Sequence[ArrayLike], titles: Sequence[str]) -> None:
    """Show images side by side, each under its title."""
    for ax, image, title in zip(np.ravel(axes), images, titles, strict=True):
        ax.imshow(np.asarray(image))
        ax.set_title(title, loc="center", fontweight="normal", fontsize=10)
        ax.set_axis_off()


def stage_rows(ax: Axes, stages: Sequence[tuple[ArrayLike, ArrayLike]], labels: Sequence[str]) -> None:
    """Draw which timesteps each stage of a schedule uses, one row per stage from the top.

    Args:
        ax: where.
        stages: for each stage the timesteps it evaluates for the first time, and those it has from earlier stages.
        labels: for each stage.
    """
    for row, (new, old) in enumerate(stages):
        first = row == 0
        ax.plot(old, np.full(len(old), row), "|", color=PALETTE[7], ms=10, label="kept from before" if first else None)
        ax.plot(
            new, np.full(len(new), row), "o", color=PALETTE[1], ms=5, label="evaluated in this stage" if first else None
        )
    ax.set_yticks(range(len(stages)), labels)
    ax.set_ylim(len(stages) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def cost_points(ax: Axes, points: Mapping[str, tuple[float, Estimate]], *, start: int = 1) -> None:
    """Draw one marker with its interval per strategy at its cost.

    Args:
        ax: where.
        points: label -> (cost, estimate).
        start: which colour and marker of the palette the first one takes.
    """
    for index, (label, (cost, (value, low, high))) in enumerate(points.items(), start):
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        ends = [[value - low], [high - value]]
        ax.errorbar([cost], [value], yerr=ends, fmt=marker, color=colour, ms=8, capsize=4, label=label, zorder=4)


def study_panels(tasks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw accuracy against evaluations per image, one panel per task of a study, each strategy in the same colour.

    Args:
        tasks: as `diffclf.workbook.study.study_task` returns them.
    """
    fig, axes = new_figure(1, len(tasks), width=10.0, height=5.2, squeeze=False)
    names = list(dict.fromkeys(name for task in tasks.values() for name in task["strategies"]))
    drawn = [row for task in tasks.values() for row in task["exhaustive"]]
    drawn += [row["accuracy"] for task in tasks.values() for row in task["strategies"].values()]
    lowest = 100 * min(row["low"] for row in drawn)
    for ax, (title, task) in zip(axes[0], tasks.items(), strict=True):
        points = task["exhaustive"]
        estimates = [100 * Estimate(*(row[key] for key in ("value", "low", "high"))) for row in points]
        curve(ax, [row["evaluations"] for row in points], estimates, label="every class on as many trials")
        for index, name in enumerate(names, 1):
            if name in task["strategies"]:
                row = task["strategies"][name]
                accuracy = 100 * Estimate(*(row["accuracy"][key] for key in ("value", "low", "high")))
                cost_points(ax, {name: (row["evaluations"]["value"], accuracy)}, start=index)
        ax.set(title=f"{title}: {task['classes']} classes, {task['images']} images", xscale="log")
        ax.set(ylim=(10 * (lowest // 10), 100), xlabel="denoiser evaluations per image", ylabel="accuracy (%)")
    handles = dict(zip(*reversed(axes[0][-1].get_legend_handles_labels()), strict=True))
    for ax in axes[0]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return fig


def race_lines(ax: Axes, looks: Sequence[Round], names: Sequence[str]) -> None:
    """Draw a race: mean differences to the best prompt at every look, with the margins that they may not exceed.

    No more prompts are drawn than the palette has colours: those that lasted longest, then those closest to the best.
    The scale fits the differences; margins may go beyond it.

    Args:
        ax: where.
        looks: the rounds.
        names: of the prompts.
    """
    lines: dict[int, list[tuple[int, float, float]]] = {}
    for look in looks:
        for prompt, difference, margin in zip(look.raced, look.differences, look.margins, strict=True):
            lines.setdefault(int(prompt), []).append((look.n_trials, difference, margin if np.isfinite(margin) else 0))
    winner, step = looks[-1].best, looks[-1].n_trials / 800
    lasting = sorted(lines, key=lambda prompt: (-len(lines[prompt]), lines[prompt][-1][1]))
    for index, prompt in enumerate(lasting[: len(PALETTE)]):
        line = lines[prompt]
        n_trials, differences, margins = np.array(line).T
        label = f"{names[prompt]} (the winner)" if prompt == winner else names[prompt]
        style = {"color": PALETTE[index % len(PALETTE)], "label": label}
        x = n_trials + index * step  # side by side, so that bars do not hide each other
        ax.errorbar(x, differences, yerr=margins, marker=MARKERS[index % len(MARKERS)], capsize=2, lw=1.2, **style)
        if prompt not in looks[-1].survivors:
            ax.plot(x[-1], differences[-1], "x", color=PAPER, ms=9, mew=2, zorder=5)
    ax.axhline(0, color=PAPER, lw=0.8)
    top = max(difference for prompt in lasting[: len(PALETTE)] for _, difference, _ in lines[prompt]) or 1.0
    ax.set(xlabel="trials so far", ylabel="mean error minus that of the best", ylim=(-0.7 * top, 1.7 * top))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="cross: dropped")


def timestep_panels(
    points: tuple[ArrayLike, ArrayLike],
    run: tuple[ArrayLike, Sequence[Estimate], Sequence[Estimate]],
    paper: tuple[ArrayLike, ArrayLike, ArrayLike],
    chance: tuple[float, float],
) -> Figure:
    """Draw Figure 3 twice: accuracy in points, and as a share of the way from chance to each curve's own peak.

    Args:
        points: timesteps and accuracies of single timesteps, in points.
        run: timesteps; accuracies in points; shares of the way.
        paper: the same of the paper.
        chance: accuracy of guessing here and in the paper, in points.
    """
    fig, (left, right) = new_figure(1, 2, width=10.0, height=4.0)
    left.plot(*points, ".", color=PALETTE[5], markersize=4, label="one timestep")
    curve(left, run[0], run[1], label="this run, averaged, 95%", marker=False)
    paper_curve(left, np.column_stack(paper[:2]), label="paper, Pets")
    for level, colour, where in zip(chance, (PALETTE[0], PAPER), ("here", "Pets"), strict=True):
        left.axhline(level, color=colour, linestyle=":", linewidth=1.2, label=f"chance, {where}")
    left.set(title="As measured", xlabel="timestep t", ylabel="accuracy, points", ylim=(0, None))
    curve(right, run[0], run[2], label="this run", marker=False)
    paper_curve(right, np.column_stack((paper[0], paper[2])))
    right.set(title="Chance = 0, own peak = 1", xlabel="timestep t", ylabel="share of the way", ylim=(-0.3, 1.3))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, fontsize=9)
    return fig


def snr_panels(
    schedules: Mapping[str, ArrayLike], run: tuple[ArrayLike, Sequence[Estimate]] | None, paper: tuple | None
) -> Figure:
    """Draw log10 of the signal-to-noise ratio against t, and accuracy against it.

    Args:
        schedules: label -> (T,) log10 SNR, this model's first, the paper's second.
        run: log10 SNR and shares of the way from chance to the peak; None: only the schedules.
        paper: the same of the paper.
    """
    fig, axes = new_figure(1, 1 if run is None else 2, width=7.0 if run is None else 10.0, height=3.6, squeeze=False)
    axes = axes[0]
    for index, (label, values) in enumerate(schedules.items()):
        colour, style = (PALETTE[0], "-") if index == 0 else (PAPER, "--")
        axes[0].plot(np.arange(len(np.asarray(values))), values, color=colour, linestyle=style, label=label)
    axes[0].axhline(0, color="#888888", linewidth=1, linestyle=":")
    axes[0].set(title="Signal-to-noise ratio", xlabel="timestep t", ylabel="log10 SNR(t)")
    axes[0].legend(fontsize=9)
    if run is not None and paper is not None:
        curve(axes[1], *run, label="this run, 95%", marker=False)
        paper_curve(axes[1], np.column_stack(paper), label="paper, Pets")
        axes[1].set(
            title="Accuracy against it (chance = 0, own peak = 1)",
            xlabel="log10 SNR, much noise on the right",
            ylabel="share of the way",
        )
        axes[1].invert_xaxis()
        axes[1].legend(fontsize=9)
    return fig


def margin_panels(t: ArrayLike, means: Sequence[Estimate], ratios: Sequence[Estimate]) -> Figure:
    """Draw the right prompt's mean margin and its ratio to the spread over images, against the timestep."""
    fig, axes = new_figure(1, 2, width=10.0, height=3.6)
    for ax, estimates, title in zip(
        axes, (means, ratios), ("Mean margin (error)", "Mean margin / its spread"), strict=True
    ):
        curve(ax, t, estimates, label="this run, 95%", marker=False)
        ax.axhline(0, color="#888888", linewidth=1, linestyle=":")
        ax.set(title=title, xlabel="timestep t")
    return fig


def picture_grid(rows: Mapping[str, Sequence[ArrayLike]], columns: Sequence[str]) -> Figure:
    """Show rows of pictures of equal length, each row and each column under its title."""
    n = len(columns)
    fig, axes = new_figure(len(rows), n, width=1.25 * n + 1.2, height=1.35 * len(rows) + 0.2, squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(row, images, strict=True):
            ax.imshow(np.asarray(image))
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, loc="center", fontweight="normal", fontsize=10)
    return fig


def strategy_panels(
    run: Mapping[str, tuple[ArrayLike, Sequence[Estimate]]],
    paper: Mapping[str, Sequence[Sequence[float]]],
    chance: tuple[float, float],
) -> Figure:
    """Draw Figure 4, this run's on the left and the paper's on the right, each strategy in the same colour and marker.

    Args:
        run: strategy -> trials per class and accuracies in points.
        paper: strategy -> [[trials, accuracy], ...].
        chance: accuracy of guessing here and in the paper, in points.
    """
    fig, axes = new_figure(1, 2, width=10.5, height=5.0, sharex=True)
    for index, (name, (trials, estimates)) in enumerate(run.items()):
        curve(axes[0], trials, estimates, label=name, index=index, band=len(estimates) > 1)
        for band in axes[0].collections:
            band.set_alpha(0.1)  # eight of them overlap
        x, y = np.asarray(paper[name], dtype=float).T
        style = {"color": PALETTE[index], "marker": MARKERS[index], "markersize": 4}
        axes[1].plot(x, y, linestyle="--", **style)
    for ax, level, title in zip(axes, chance, ("This run, 95%", "The paper"), strict=True):
        ax.axhline(level, color="#888888", linestyle=":", linewidth=1.2)
        ax.annotate("chance", (1, level), (0, 3), textcoords="offset points", fontsize=9, color="#555555")
        ax.set(title=title, xlabel="trials per class", xscale="log", ylim=(0, 100))
        ax.xaxis.set_major_formatter("{x:.0f}")
    axes[0].set_ylabel("accuracy, points")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def class_dots(ax: Axes, estimates: Mapping[str, Estimate], *, right: str | None = None) -> None:
    """Draw one dot per class with its interval, top to bottom; the right class is a vermilion diamond."""
    for row, (name, estimate) in enumerate(estimates.items()):
        value, low, high = estimate
        known = name == right
        colour, marker = (PALETTE[1], "D") if known else (PALETTE[0], "o")
        ax.errorbar(value, row, xerr=[[value - low], [high - value]], fmt=marker, color=colour, capsize=2, markersize=5)
    ax.axvline(0, color="#222222", linewidth=0.8)
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.set_ylim(len(estimates) - 0.5, -0.5)  # not invert_yaxis: panels may share the axis
    ax.grid(visible=False, axis="y")


def picture_and_dots(
    picture: ArrayLike, title: str, estimates: Mapping[str, Estimate], *, right: str | None, xlabel: str
) -> Figure:
    """Return a figure of one picture and, beside it, one dot per class."""
    fig, axes = new_figure(1, 2, width=8, height=3.4, width_ratios=[1, 1.4])
    image_row(axes[:1], [picture], [title])
    class_dots(axes[1], estimates, right=right)
    axes[1].set_xlabel(xlabel)
    return fig


def regions(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    margin: ArrayLike,
    *,
    points: ArrayLike | None = None,
    of: ArrayLike | None = None,
) -> None:
    """Colour the plane by which of two classes a rule chooses, and draw points in the colours of their own classes.

    Args:
        ax: where.
        x: (n_x,) grid.
        y: (n_y,) grid.
        margin: (n_y, n_x) score of the second class minus that of the first.
        points: (n, 2) positions.
        of: (n,) their classes, 0 or 1.
    """
    ax.contourf(x, y, margin, levels=[-np.inf, 0, np.inf], colors=PALETTE[:2], alpha=0.22)
    if points is not None and of is not None:
        for c in (0, 1):
            here = np.asarray(points)[np.asarray(of) == c]
            ax.plot(*here.T, linestyle="none", marker=MARKERS[c], color=PALETTE[c], markersize=3, alpha=0.7)
    ax.set_aspect("equal")
    ax.grid(visible=False)


def noise_panels(axes: Sequence[Axes], t: ArrayLike, errors: ArrayLike, names: Sequence[str]) -> None:
    """Draw the errors of a few prompts over t, one panel per noise, after Figure 2.

    Args:
        axes: one per noise.
        t: (n_t,) timesteps.
        errors: (n_prompts, n_t, n_noises).
        names: of the prompts.
    """
    for k, ax in enumerate(np.ravel(axes)):
        for index, (name, values) in enumerate(zip(names, np.asarray(errors)[:, :, k], strict=True)):
            style = {"color": PALETTE[index], "linestyle": ("-", "--")[index % 2], "linewidth": 1.2}
            ax.plot(t, values, label=name if k == 0 else None, **style)
        ax.axhline(0, color="#222222", linewidth=0.6)
        ax.set_title(f"noise {k + 1}", fontweight="normal", loc="center")


def map_row(axes: Sequence[Axes], maps: Sequence[ArrayLike], titles: Sequence[str], *, symmetric: bool = False) -> None:
    """Show maps (h, w) side by side on one colour scale, with a colour bar; a symmetric scale has its white at zero."""
    limit = max(float(np.abs(values).max()) for values in maps)
    lowest = -limit if symmetric else 0.0
    for ax, values, title in zip(np.ravel(axes), maps, titles, strict=True):
        shown = ax.imshow(np.asarray(values), cmap="PuOr" if symmetric else "viridis", vmin=lowest, vmax=limit)
        ax.set_title(title, loc="center", fontweight="normal", fontsize=10)
        ax.set_axis_off()
    np.ravel(axes)[0].figure.colorbar(shown, ax=list(np.ravel(axes)), shrink=0.8)
