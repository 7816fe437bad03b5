"""Figures of notebook 11: images made again from their noise, maps of evidence, altered pictures, their decisions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from diffclf.experiments.e11_interpretability import MODES, ORDERS, altered
from diffclf.workbook.plots.pieces import Curve, curves, image_row, picture_grid
from diffclf.workbook.plots.style import new_figure

__all__ = ["altered_panels", "altered_panels_alt", "altered_pictures", "altered_pictures_alt", "evidence_maps"]
__all__ += ["evidence_maps_alt", "maps_at", "maps_at_alt", "reconstructions", "reconstructions_alt"]

Errors = Mapping[str, Sequence[float]]
"""Kind of prompt -> squared error of each image."""


def _thousandths(error: float) -> str:
    """Return an error x 1000 with three significant digits and without an exponent."""
    return f"{float(f'{1000 * error:.3g}'):,g}"


def reconstructions(
    pictures: Sequence[ArrayLike], made: Mapping[str, Sequence[ArrayLike]], errors: Errors, names: Sequence[str]
) -> Figure:
    """Show a row per image: the image, and what a round trip under each kind of prompt makes of it (Figure 7).

    A title has the squared error of the latent x 1000. The name of an image stands beside its row.
    """
    size = {"width": 1.75 * (1 + len(made)) + 1.4, "height": 1.75 * len(names) + 0.3, "squeeze": False}
    fig, axes = new_figure(len(names), 1 + len(made), **size)
    for place, (row, name) in enumerate(zip(axes, names, strict=True)):
        titles = [f"{kind}\n{_thousandths(errors[kind][place])}" for kind in made]
        titles = ["image\n", *titles] if place == 0 else ["", *(title.split("\n")[1] for title in titles)]
        image_row(row, [pictures[place], *(own[place] for own in made.values())], titles)
        row[0].annotate(name, (-0.08, 0.5), xycoords="axes fraction", ha="right", va="center")
    return fig


def reconstructions_alt(errors: Errors, names: Sequence[str]) -> str:
    """Return the figure in words: the errors of each image."""
    rows = (
        f"{name.splitlines()[0]}: " + ", ".join(f"{kind} {_thousandths(own[place])}" for kind, own in errors.items())
        for place, name in enumerate(names)
    )
    return f"Images made again from their noise under several prompts, squared errors x 1000. {'; '.join(rows)}."


def _map(ax: Axes, own: NDArray, marks: NDArray | None, limit: float) -> None:
    """Draw a map of evidence (H, W), green for the true class; marked positions have a dot."""
    ax.imshow(own, cmap="PiYG", vmin=-limit, vmax=limit)
    if marks is not None:
        rows, columns = np.nonzero(marks)
        ax.plot(columns, rows, ".", color="#222222", markersize=40 / len(own))


def evidence_maps(
    pictures: Sequence[ArrayLike], maps: NDArray, marks: NDArray | None, names: Sequence[str], limit: float = 0.0
) -> Figure:
    """Show images above their maps of evidence (n, H, W), with a dot at each marked position (n, H, W).

    All maps share one colour scale, white at zero; `limit` is its end (0: the largest evidence). A title has the sum of
    the map x 1000.
    """
    n, limit = len(maps), limit or float(np.abs(maps).max())
    fig, axes = new_figure(2, n, width=2.1 * n + 1, height=4.3, squeeze=False)
    image_row(axes[0], pictures, names)
    for place, ax in enumerate(axes[1]):
        _map(ax, maps[place], None if marks is None else marks[place], limit)
        ax.set_title(f"sum {1000 * maps[place].sum():+.2f}", loc="center", fontweight="normal")
        ax.set_axis_off()
    fig.colorbar(axes[1, 0].images[0], ax=list(axes[1]), shrink=0.8, label="evidence")
    return fig


def evidence_maps_alt(maps: NDArray, marks: NDArray | None, names: Sequence[str]) -> str:
    """Return the figure in words: the sum of each map, and how many positions are marked for either class."""
    said = []
    for place, name in enumerate(names):
        words = f"{' '.join(name.split())}: sum x 1000 {1000 * maps[place].sum():+.2f}"
        if marks is not None:
            counts = [int((marks[place] == sign).sum()) for sign in (1, -1)]
            words += f", {counts[0]} positions marked for the true class and {counts[1]} for the rival"
        said.append(words)
    return f"Maps of the evidence for the true class against its rival. {'; '.join(said)}."


def maps_at(pictures: Sequence[ArrayLike], parts: Mapping[int, NDArray], names: Sequence[str], t: int) -> Figure:
    """Show images above their maps at the timesteps around t; parts are t -> (n, H, W), on one scale for all t."""
    limit = max(float(np.abs(own).max()) for own in parts.values())
    return evidence_maps(pictures, parts[t], None, names, limit)


def maps_at_alt(parts: Mapping[int, NDArray], names: Sequence[str], t: int) -> str:
    """Return the figure in words: the sum of each map at the timesteps around t."""
    return f"Timesteps around {t}. {evidence_maps_alt(parts[t], None, names)}"


def altered_pictures(picture: NDArray, ranks: Mapping[str, NDArray], fractions: Sequence[float], fill: str) -> Figure:
    """Show a picture with parts deleted in every order (`ranks`), and in the last row inserted by the evidence."""
    kinds = [*((MODES[0], order) for order in ORDERS), (MODES[1], ORDERS[0])]
    rows = {
        f"{mode},\n{order}": [altered(picture, ranks[order], fraction, fill, mode) for fraction in fractions]
        for mode, order in kinds
    }
    return picture_grid(rows, [f"{fraction:.3g}" for fraction in fractions])


def altered_pictures_alt(fractions: Sequence[float], name: str) -> str:
    """Return the figure in words: what is deleted."""
    shares = ", ".join(f"{fraction:.3g}" for fraction in fractions)
    return f"A picture of {name}: positions deleted in three orders, and shown alone in one; shares {shares}."


def _apart(drawn: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return curves a little to the left and to the right of their places, so that their intervals stand apart."""
    middle = (len(drawn) - 1) / 2
    return {
        name: (np.array(x) + 0.006 * (place - middle), estimates)
        for place, (name, (x, estimates)) in enumerate(drawn.items())
    }


def altered_panels(shares: Mapping[str, Mapping[str, Curve]], heights: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw, for deletion and for insertion, the share of decisions for the true class, and below it the mean margin.

    Both map mode -> order -> curve over the share of positions.
    """
    n = len(shares)
    fig, axes = new_figure(2, n, width=5.2 * n, height=6.2, sharex="col", sharey="row", squeeze=False)
    for column, mode in enumerate(shares):
        words = "deleted" if mode == "deletion" else "shown"
        top, bottom = axes[:, column]
        curves(top, _apart(shares[mode]), {"chance": 50}, alpha=0, title=f"{mode.capitalize()}, 95%")
        curves(bottom, _apart(heights[mode]), {"no margin": 0}, alpha=0, xlabel=f"share of positions {words}")
        for ax in (top, bottom):
            ax.get_legend().remove()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    axes[0, 0].set_ylabel("decisions for the true class, %")
    axes[1, 0].set_ylabel("mean margin, % of the intact one")
    return fig


def altered_panels_alt(shares: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return the figure in words: the share of decisions for the true class at every share of positions."""
    said = []
    for mode, own in shares.items():
        for order, (x, estimates) in own.items():
            values = ", ".join(f"{e.value:.0f} at {share:.3g}" for share, e in zip(x, estimates, strict=True))
            said.append(f"{mode}, {order}: {values}")
    return f"Decisions for the true class in per cent against the share of positions. {'; '.join(said)}."
