"""The slider: one frame per value, the middle one shown, nothing that needs a kernel or a network."""

import re

import matplotlib.pyplot as plt
import pytest

from diffclf.workbook.interactive import figure_slider


def test_slider_has_a_frame_for_each_value_and_shows_the_middle_one():
    def draw(value):
        fig, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, value])
        return fig

    html = figure_slider(draw, [10, 500, 900], label="t", alt=lambda t: f"best: <{t}>").data
    frames = re.findall(r'<div data-frame style="(.*?)"><img src="data:image/png;base64,(.*?)" alt="(.*?)"', html)
    styles, pictures, alts = zip(*frames, strict=True)
    assert styles == ("display:none", "", "display:none") and len(set(pictures)) == 3
    assert alts == tuple(f"t = {t}. best: &lt;{t}&gt;" for t in (10, 500, 900))
    assert 'type="range" min="0" max="2" value="1" aria-label="t"' in html
    assert "//" not in re.sub(r"base64,\S+", "", html) and not plt.get_fignums()
    with pytest.raises(ValueError, match="values of slider 't' must not be empty"):
        figure_slider(lambda value: None, [], label="t", alt=str)
