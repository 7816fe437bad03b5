"""The slider: what it shows, and that nobody sees it in a run without a reader."""

import pytest

from diffclf.workbook import plots
from diffclf.workbook.interactive import figure_slider, somebody_is_there


def test_slider_shows_the_figure_of_its_value_and_draws_each_once():
    drawn = []

    def draw(value):
        drawn.append(value)
        fig, ax = plots.new_figure(width=2, height=1)
        ax.plot([0, value])
        return fig

    slider, picture, words = figure_slider(draw, [10, 500, 900], label="t", alt=lambda t: f"at {t}").children
    assert slider.value == 500 and drawn == [500] and words.value == "at 500"
    middle = bytes(picture.value)
    assert middle.startswith(b"\x89PNG")
    slider.value = 900
    assert bytes(picture.value) != middle and words.value == "at 900"
    slider.value = 500
    assert bytes(picture.value) == middle and drawn == [500, 900]


def test_slider_needs_values():
    with pytest.raises(ValueError, match="values of slider 't' must not be empty"):
        figure_slider(lambda value: None, [], label="t", alt=str)


def test_nobody_is_there_outside_a_notebook():
    assert somebody_is_there() is False


@pytest.mark.parametrize("allowed", [True, False])
def test_a_front_end_that_can_be_asked_has_somebody_behind_it(monkeypatch, allowed):
    class Kernel:
        def get_parent(self, channel):
            assert channel == "shell"
            return {"content": {"allow_stdin": allowed}}

    class Shell:
        kernel = Kernel()

    monkeypatch.setattr("IPython.get_ipython", lambda: Shell())
    assert somebody_is_there() is allowed
