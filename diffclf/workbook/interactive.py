"""A slider over figures that works wherever HTML is shown: in JupyterLab and in the report, without a network."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from diffclf.workbook.display import html_text

__all__ = ["figure_slider"]

_CHOOSE = (
    "[...this.closest('figure').querySelectorAll('[data-frame]')]"
    ".forEach((frame, i) => frame.style.display = i == this.value ? '' : 'none')"
)


def figure_slider(
    draw: Callable[[int], Figure], values: Sequence[int], *, label: str, alt: Callable[[int], str]
) -> HTML:
    """Return a slider over the values, which `label` names, that shows the figure `draw(value)` of the chosen one.

    All are drawn beforehand. `alt(value)` is the figure in words, shown under it. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError(f"values of slider {label!r} must not be empty, got none")
    chosen, frames = len(values) // 2, []
    for position, value in enumerate(values):
        fig, picture = draw(value), BytesIO()
        fig.savefig(picture, format="png", dpi=100)
        plt.close(fig)
        source = f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}"
        words, style = html_text(f"{label} = {value}. {alt(value)}"), "" if position == chosen else "display:none"
        image = f'<img src="{source}" alt="{words}" style="max-width:100%">'
        frames.append(f'<div data-frame style="{style}">{image}<figcaption>{words}</figcaption></div>')
    slider = f'<input type="range" min="0" max="{len(values) - 1}" value="{chosen}" aria-label="{html_text(label)}"'
    return HTML(f'<figure>{slider} style="width:min(30em, 100%)" oninput="{_CHOOSE}">{"".join(frames)}</figure>')
