"""A slider over figures, where somebody is there to move it.

A notebook that runs by itself (papermill, nbval, a report) must not leave a dead widget behind, whose page would need
the network. Front ends with a person behind them allow the kernel to ask for input, unattended runs do not: that
tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

__all__ = ["figure_slider", "somebody_is_there"]


def somebody_is_there() -> bool:
    """Return whether the running cell came from a front end that can answer questions."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def figure_slider(
    draw: Callable[[int], Figure], values: Sequence[int], *, label: str, alt: Callable[[int], str]
) -> VBox:
    """Return a slider that shows the figure of the chosen value; a figure is drawn when first asked for.

    Args:
        draw: makes the figure of one value.
        values: what the slider can choose, in order.
        label: its name.
        alt: the figure of one value in words.

    Raises:
        ValueError: nothing to choose from.
    """
    from ipywidgets import HTML, Image, SelectionSlider, VBox

    if not len(values):
        raise ValueError(f"values of slider {label!r} must not be empty, got none")
    drawn: dict[int, bytes] = {}
    slider = SelectionSlider(options=list(values), value=values[len(values) // 2], description=label)
    picture, words = Image(format="png"), HTML()

    def show(_: object = None) -> None:
        value = slider.value
        if value not in drawn:
            content = BytesIO()
            draw(value).savefig(content, format="png", dpi=100)
            drawn[value] = content.getvalue()
        picture.value, words.value = drawn[value], alt(value)

    slider.observe(show, names="value")
    show()
    return VBox([slider, picture, words])
