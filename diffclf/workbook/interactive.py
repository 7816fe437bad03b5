"""A slider over figures that works wherever HTML is shown: in JupyterLab and in the report, without a network."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from diffclf.workbook.display import html_text

__all__ = ["figure_slider"]

_CHOOSE = """
for (const frame of this.closest('figure').querySelectorAll('[data-frame]')) frame.style.display = 'none';
const chosen = this.closest('figure').querySelectorAll('[data-frame]')[this.value];
chosen.style.display = '';
this.closest('figure').querySelector('output').value = chosen.dataset.value;
this.setAttribute('aria-valuetext', chosen.dataset.value);
"""


def figure_slider(
    draw: Callable[[int], Figure], values: Sequence[int], *, label: str, alt: Callable[[int], str]
) -> HTML:
    """Return a slider over the values, which `label` names, that shows the figure `draw(value)` of the chosen one.

    All are drawn beforehand. `alt(value)` is the figure in words. Raises ValueError without values.
    """
    if not len(values):
        raise ValueError(f"values of slider {label!r} must not be empty, got none")
    chosen, frames = len(values) // 2, []
    for position, value in enumerate(values):
        fig, picture = draw(value), BytesIO()
        fig.savefig(picture, format="png", dpi=100)
        plt.close(fig)
        source = f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}"
        image = f'<img src="{source}" alt="{html_text(alt(value))}" style="max-width:100%">'
        style = "" if position == chosen else "display:none"
        frames.append(f'<div data-frame style="{style}" data-value="{html_text(value)}">{image}</div>')
    # Some browsers restore a slider when the page is loaded again, but not the frame: autocomplete is off.
    slider = f'<input type="range" min="0" max="{len(values) - 1}" value="{chosen}" autocomplete="off"'
    slider += f' aria-valuetext="{html_text(values[chosen])}" style="width:min(20em, 60vw)" oninput="{_CHOOSE}">'
    named = f"<label>{html_text(label)} {slider}</label> <output>{html_text(values[chosen])}</output>"
    return HTML(f"<figure>{named}{''.join(frames)}</figure>")
