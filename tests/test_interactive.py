"""The slider: one frame per value, the middle one shown, nothing that needs a kernel or a network."""

import re

import matplotlib.pyplot as plt
import pytest
from browser import load, needs_chromium
from bs4 import BeautifulSoup

from diffclf.workbook.interactive import figure_slider


@pytest.fixture
def slider():
    def draw(value):
        fig, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, value])
        return fig

    return figure_slider(draw, [10, 500, 900], label="timestep t", alt=lambda t: f"best: <{t}>").data


def frames(html):
    """Return the alt texts of the frames, and those of the frames that are shown."""
    found = BeautifulSoup(html, "html.parser").select("[data-frame]")
    return [f.img["alt"] for f in found], [f.img["alt"] for f in found if not f["style"]]


def test_slider_has_a_frame_for_each_value_and_shows_the_middle_one(slider):
    assert frames(slider) == (["best: <10>", "best: <500>", "best: <900>"], ["best: <500>"])
    assert len(set(re.findall(r"base64,([^\"]+)", slider))) == 3
    assert "//" not in re.sub(r"base64,[^\"]+", "", slider) and not plt.get_fignums()
    page = BeautifulSoup(slider, "html.parser")
    assert page.label.get_text().strip() == "timestep t" and page.label.input["type"] == "range"
    with pytest.raises(ValueError, match="values of slider 't' must not be empty"):
        figure_slider(lambda value: None, [], label="t", alt=str)


@pytest.mark.browser
@needs_chromium
def test_moving_the_slider_shows_another_frame(slider, tmp_path):
    page = tmp_path / "page.html"
    script = "const s = document.querySelector('input'); s.stepUp(); s.dispatchEvent(new Event('input'))"
    page.write_text(f"<!doctype html><title>slider</title>{slider}<script>{script}</script>", encoding="utf-8")
    dom, faults = load(page.as_uri(), tmp_path / "profile")
    moved = BeautifulSoup(dom, "html.parser")
    assert faults == [] and frames(dom)[1] == ["best: <900>"]
    assert moved.output.get_text() == moved.input["aria-valuetext"] == "900"
