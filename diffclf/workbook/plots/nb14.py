"""Figures of notebook 14: a race round by round, accuracy against cost, cost against the number of classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from diffclf.experiments.sweep import Outcome
from diffclf.pruning import Round
from diffclf.stats import Estimate
from diffclf.workbook.plots.pieces import Curve, curves
from diffclf.workbook.plots.style import MARKERS, PALETTE, PAPER, new_figure

__all__ = ["cost_panels", "cost_panels_alt", "growth_panels", "growth_panels_alt", "race_lines", "race_lines_alt"]

N_LINES = 5
"""Prompts of a race that are drawn in colour."""
RINGS = {"chosen": ("o", "chosen on tune images"), "equal cost": ("D", "calibrated race; staged, at its cost")}
"""Marker and label of the candidates of the tables."""
Marked = Mapping[str, Mapping[str, Sequence[tuple[str, float, float]]]]
"""Task -> kind, a key of RINGS -> (family, evaluations, accuracy in points)."""


def race_lines(looks: Sequence[Round], names: Sequence[str]) -> Figure:
    """Draw mean differences to the best prompt at every round of a race, with the margins that they may not exceed.

    The five prompts that last longest have colours and margins; the others are grey.
    """
    lines: dict[int, list[tuple[int, float, float]]] = {}
    for look in looks:
        for prompt, difference, margin in zip(look.raced, look.differences, look.margins, strict=True):
            lines.setdefault(int(prompt), []).append((look.n_trials, difference, margin if np.isfinite(margin) else 0))
    fig, ax = new_figure(width=9, height=4.6)
    ordered = sorted(lines, key=lambda prompt: (-len(lines[prompt]), lines[prompt][-1][1]))
    for index, prompt in enumerate(ordered):
        n_trials, differences, margins = np.array(lines[prompt]).T
        x = n_trials * (1 + 0.012 * min(index, N_LINES))  # side by side, so that bars do not hide each other
        if index < N_LINES:
            label = names[prompt] + (" (wins)" if prompt == looks[-1].best else "")
            style = {"color": PALETTE[index], "marker": MARKERS[index], "capsize": 2, "lw": 1.2, "label": label}
            ax.errorbar(x, differences, yerr=margins, **style)
        else:
            ax.plot(x, differences, color="#B0B0B0", marker=".", lw=1, label="others" * (index == N_LINES) or None)
        if prompt not in looks[-1].survivors:
            ax.plot(x[-1], differences[-1], "x", color=PAPER, ms=8, mew=1.8, zorder=5)
    ax.axhline(0, color=PAPER, lw=0.8)
    top = max(difference for prompt in ordered[:N_LINES] for _, difference, _ in lines[prompt]) or 1.0
    ax.set(
        xscale="log", xlabel="trials so far", ylabel="mean error minus that of the best", ylim=(-0.7 * top, 1.6 * top)
    )
    ax.set_xticks([look.n_trials for look in looks], [str(look.n_trials) for look in looks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="cross: dropped")
    return fig


def race_lines_alt(looks: Sequence[Round], names: Sequence[str]) -> str:
    """Return the figure in words: how many prompts are left after each round."""
    said = ", ".join(f"{len(look.survivors)} after {look.n_trials} trials" for look in looks)
    return (
        "A race drops each prompt when its mean error lies further above the best one than the margin. "
        f"Prompts left: {said}; {names[looks[-1].best]} wins."
    )


def cost_panels(panels: Mapping[str, Mapping[str, Curve]], marked: Marked, gigaflops: float) -> Figure:
    """Draw task -> family -> (evaluations, accuracies in points), a panel each; operations are on the upper axis.

    Candidates that are marked have a ring in the colour of their family.
    """
    fig, axes = new_figure(1, len(panels), width=6.2 * len(panels), height=5.4, squeeze=False)
    order = list(dict.fromkeys(family for drawn in panels.values() for family in drawn))
    handles: dict[str, object] = {}
    for ax, (title, drawn) in zip(axes[0], panels.items(), strict=True):
        best = max(estimate.value for _, estimates in drawn.values() for estimate in estimates)
        labels = {"xscale": "log", "xlabel": "denoiser evaluations per image", "ylabel": "accuracy, points"}
        rings = [(kind, *each) for kind, found in marked.get(title, {}).items() for each in found]
        bottom = min([best - 22, *(accuracy - 2 for *_, accuracy in rings)])
        curves(ax, drawn, order=order, alpha=0.12, title=title, ylim=(bottom, best + 4), **labels)
        for kind, family, cost, accuracy in rings:
            style = {"marker": RINGS[kind][0], "ms": 12, "mfc": "none", "mec": PALETTE[order.index(family)], "mew": 1.8}
            ax.plot(cost, accuracy, ls="none", zorder=5, **style)
        upper = ax.secondary_xaxis("top", functions=(lambda n: n * gigaflops, lambda work: work / gigaflops))
        upper.set_xlabel("billions of operations per image")
        for axis in (ax.xaxis, upper.xaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        ax.get_legend().remove()
        ax.title.set_position((0, 1.0))
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    for marker, label in RINGS.values() if marked else ():
        handles[label] = Line2D([], [], ls="none", marker=marker, ms=10, mfc="none", mec=PAPER, mew=1.6)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return fig


def cost_panels_alt(panels: Mapping[str, Mapping[str, Curve]], marked: Marked) -> str:
    """Return the figure in words: each family's cheapest point within a point of its best, and what is marked."""
    said = []
    for title, drawn in panels.items():
        found = []
        for family, (costs, estimates) in drawn.items():
            best = max(estimate.value for estimate in estimates)
            cost, near = next((c, e) for c, e in zip(costs, estimates, strict=True) if e.value >= best - 1)
            found.append(f"{family} {near.value:.1f} with {cost:.0f}")
        said.append(f"{title}: " + ", ".join(found))
        for kind, own in marked.get(title, {}).items():
            points = (f"{family} {accuracy:.1f} with {cost:.0f}" for family, cost, accuracy in own)
            said[-1] += f"; marked, {RINGS[kind][1]}: {', '.join(points)}"
    return f"Accuracy in points rises with the evaluations per image and then stays level. {'. '.join(said)}."


def growth_panels(found: Mapping[str, Mapping[int, Outcome]], n_trials: int, fits: Mapping[str, Estimate]) -> Figure:
    """Draw evaluations per image and per class against the number of classes, strategy -> classes -> outcome."""
    fig, axes = new_figure(1, 2, width=11, height=4.8)
    classes = sorted({n for own in found.values() for n in own})
    for ax, per_class in zip(axes, (False, True), strict=True):
        full = [n_trials if per_class else n_trials * n for n in classes]
        ax.plot(classes, full, color=PAPER, ls="--", label=f"all classes, {n_trials} trials (counted)")
        for place, (name, own) in enumerate(found.items()):
            x = np.array(list(own)) * 1.04**place
            cost = np.array([outcome.cost / (n if per_class else 1) for n, outcome in own.items()])
            label = f"{name}: exponent {fits[name].value:.2f}" if name in fits else name
            ax.plot(x, cost, color=PALETTE[place], marker=MARKERS[place], label=label)
        ax.set(xscale="log", yscale="log", xlabel="classes")
        ax.set_xticks(classes, [str(n) for n in classes])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter("{x:,g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(ylabel=f"evaluations per image{' and class' if per_class else ''}")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


def growth_panels_alt(found: Mapping[str, Mapping[int, Outcome]], n_trials: int, fits: Mapping[str, Estimate]) -> str:
    """Return the figure in words: the evaluations of each strategy at its least and its most classes."""
    said = [
        f"{name} from {own[min(own)].cost:,.0f} with {min(own)} classes to {own[max(own)].cost:,.0f} with {max(own)}"
        for name, own in found.items()
    ]
    return (
        f"Evaluations per image grow with the number of classes, differently for each strategy. {'; '.join(said)}; "
        f"all classes on {n_trials} trials: in proportion. "
        f"Exponents: {', '.join(f'{fit.value:.2f} ({name})' for name, fit in fits.items()) or 'not measured'}."
    )
