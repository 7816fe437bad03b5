"""The report's overview: each claim's estimate and interval beside its margin and the paper's number."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from diffclf.workbook.claims import ends, range_of
from diffclf.workbook.display import COLOURS, SIGNS, number
from diffclf.workbook.plots.style import PAPER, new_figure

__all__ = ["forest", "forest_alt"]

Record = Mapping[str, Any]
KINDS = {"test": "Tests of the method", "analogue": "Analogues about particular models"}
MARKERS = {"holds": "o", "does not hold": "X", "undecided": "s", None: "o"}
TRUE, MARGIN = "#DCE9F5", "#8FB4D9"
"""Colours of the numbers that make a claim true, and of their ends."""


def _by_unit(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records by unit; tests before analogues, each in the notebooks' order."""
    ordered = sorted(records, key=lambda record: list(KINDS).index(record["kind"]))
    return {unit: [record for record in ordered if record["unit"] == unit] for unit in {r["unit"]: 0 for r in ordered}}


def _heights(records: Sequence[Record], narrow: bool) -> list[float]:
    """Return the height of each claim, downwards, and of the lower end: room for names, and between notebooks."""
    heights, y = [], 0.0
    for before, record in zip([None, *records], records, strict=False):
        if before is None or before["kind"] != record["kind"]:
            y += 2.3 if narrow else 1.3
        elif before["notebook"] != record["notebook"]:
            y += 0.35
        heights.append(y)
        y += 2.1 if narrow else 1.0
    return [*heights, heights[-1] + 0.7]


def _set_scale(ax: Axes, unit: str, records: Sequence[Record], narrow: bool) -> None:
    """Choose a scale on which contrasts of 2 and of 60 are visible: by logarithm, for differences from 5 on."""
    shown = [x for r in records for x in (*ends(r), r["estimate"], r["paper"], r["margin"]) if x is not None]
    low, high = (end([0, *(x for x in shown if abs(x) < inf)]) for end in (min, max))
    pad, steps = 0.1 * (high - low or 1), np.array([1, 5, 20, 100] if narrow else [1, 2, 5, 10, 20, 50, 100, 200])
    ax.set(xlabel=unit, xlim=(low - pad, high + pad))
    if unit == "times" and min(shown) > 0:
        ax.set(xscale="log", xlim=(min(*shown, 1) / 1.3, 1.3 * high))
        _set_ticks(ax, [*1 / steps, *steps])
    elif high - low > 10:
        ax.set_xscale("symlog", linthresh=5)
        ax.set(xlabel=f"{unit} (beyond ±5 by logarithm)", xlim=(min(1.25 * low, -2), max(1.25 * high, 2)))
        _set_ticks(ax, [*-steps[1:], 0, *steps[1:]])


def _set_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    """Mark the given numbers that lie on an axis, and no others."""
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(FixedLocator(sorted({tick for tick in ticks if low <= tick <= high})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: number(tick)))


def _row(ax: Axes, y: float, record: Record) -> None:
    """Draw one claim at a height: the numbers that make it true, its interval and estimate, the paper's number."""
    edges, colour, (low, high) = ax.get_xlim(), COLOURS[record["verdict"]], ends(record)
    true = range_of(record["direction"], record["margin"])
    left, right = np.clip(true, *edges)
    ax.barh(y, right - left, left=left, height=0.8, color=TRUE, lw=0, zorder=0)
    ax.vlines([m for m in true if abs(m) < inf], y - 0.4, y + 0.4, color=MARGIN, lw=1.5, zorder=1)
    ax.plot(np.clip([low, high], *edges), [y, y], color=colour, lw=2, solid_capstyle="butt", zorder=2)
    for end, open_end in ((low, "<"), (high, ">")):
        marker = open_end if abs(end) == inf else "|"
        ax.plot(np.clip(end, *edges), y, marker, color=colour, ms=7, mew=1.5, clip_on=False)
    if record["paper"] is not None:
        ax.vlines(record["paper"], y - 0.4, y + 0.4, color=PAPER, lw=2.5, zorder=3)
    ax.plot(record["estimate"], y, MARKERS[record["verdict"]], color=colour, ms=7, mew=0, zorder=4)


def _rows(ax: Axes, records: Sequence[Record], heights: Sequence[float], narrow: bool) -> None:
    """Draw the claims of one unit from top to bottom, those of a kind under its name; if narrow, names above rows."""
    x, side, kind = (0, "left", "") if narrow else (-0.02, "right", "")
    place = {"transform": ax.get_yaxis_transform(), "ha": side, "va": "center"}
    for y, record in zip(heights, records, strict=False):
        if record["kind"] != kind:
            kind = record["kind"]
            ax.text(x, y - (2.1 if narrow else 1), KINDS[kind], weight="bold", **place)
        name, sign = f"{record['notebook'][:2]} {record['id']}", SIGNS[record["verdict"]]
        name = f"{sign} {name}" if narrow else f"{name} {sign}"
        ax.text(x, y - 0.9 * narrow, name, color=COLOURS[record["verdict"]], **place)
        _row(ax, y, record)
    ax.set(ylim=(heights[-1], -0.5), yticks=[])
    ax.spines["left"].set_visible(False)


def _legend() -> list[Line2D | Patch]:
    """Return what the marks mean."""
    verdicts = [
        Line2D([], [], color=COLOURS[verdict], marker=marker, ms=7, mew=0, label=f"{SIGNS[verdict]} {verdict}")
        for verdict, marker in MARKERS.items()
        if verdict
    ]
    paper = Line2D([], [], color=PAPER, marker="|", ms=11, mew=2.5, ls="", label="the paper's number")
    return [*verdicts, paper, Patch(facecolor=TRUE, edgecolor=MARGIN, label="the claim is true here")]


def forest(records: Sequence[Record], *, narrow: bool = False) -> Figure:
    """Draw a row per claim and a panel per unit: its interval, the paper's number, the numbers that make it true.

    Args:
        records: claims with what a run found, at least one; see `claims.claim_record`.
        narrow: 3.8 inches wide, for a telephone, instead of 10.5.
    """
    units = _by_unit(records)
    heights = {unit: _heights(own, narrow) for unit, own in units.items()}
    tall = [own[-1] + 0.5 for own in heights.values()]
    width, inch = (3.8, 0.17) if narrow else (10.5, 0.25)
    size = {"width": width, "height": inch * sum(tall) + 0.6 * len(units) + (1.2 if narrow else 0.3)}
    fig, axes = new_figure(len(units), 1, **size, height_ratios=tall, squeeze=False)
    for ax, (unit, own) in zip(axes[:, 0], units.items(), strict=True):
        _set_scale(ax, unit, own, narrow)
        _rows(ax, own, heights[unit], narrow)
    side = {"loc": "outside lower left"} if narrow else {"loc": "outside lower center", "ncols": 5}
    fig.legend(handles=_legend(), **side)
    return fig


def forest_alt(records: Sequence[Record]) -> str:
    """Return the figure in words: what it shows, and which claims have which verdict."""
    what = "The figure has a row per claim: the estimate with its interval, the paper's number, and the margin."
    verdicts = {verdict: ", ".join(r["id"] for r in records if r["verdict"] == verdict) for verdict in COLOURS}
    said = (f"{(verdict or 'not judged').capitalize()}: {ids}." for verdict, ids in verdicts.items() if ids)
    return " ".join([what, *said, "The tables under the figure have the numbers."])
