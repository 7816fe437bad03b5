"""Figures show the numbers that they are given."""

import numpy as np
import torch

from diffclf import Racing
from diffclf.stats import Estimate
from diffclf.workbook.plots import nb00, nb01, nb02, nb03, nb04, pieces
from diffclf.workbook.plots.style import PALETTE, set_style

THREE = [Estimate(50, 40, 55), Estimate(60, 50, 70), Estimate(80, 75, 90)]
T = [100, 500, 900]
PICTURES = np.random.default_rng(0).random((3, 4, 4, 3))
TITLES = ["a", "b", "c"]


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def figures():
    plane = np.random.default_rng(0).normal(size=(2, 12))
    gaps = {"boot": THREE[0], "bag": THREE[1]}
    yield nb00.rules(
        np.arange(4),
        np.arange(3),
        {"Bayes": torch.from_numpy(plane[0]), "equal": plane[1]},
        np.ones((2, 2)),
        np.arange(2),
    )
    yield nb00.errors_over_t(T, plane[:, :3], T, plane[:, :3], ["middle", "sides"])
    yield nb00.agreement([1, 2, 4], THREE, 90)
    yield nb00.error_map_row(PICTURES[0], PICTURES[..., 0], TITLES)
    yield nb00.class_gaps(PICTURES, TITLES, [gaps] * 3, "bag", "error")
    yield nb01.noise_panels(T, np.random.default_rng(0).normal(size=(2, 3, 4)), ["boot", "bag"])
    yield nb01.variance_panels(T, {"own": THREE, "shared": THREE}, THREE)
    yield nb01.accuracy_by_sharing(np.array([1, 2, 4]), {"t": THREE, "nothing": THREE}, 10)
    yield nb02.timestep_panels((T, T), (T, THREE, THREE), (T, T, T), (10, 3))
    yield nb02.snr_panels({"this": T, "paper": T})
    yield nb02.snr_panels({"this": T, "paper": T}, (T, THREE), (T, T))
    yield pieces.picture_grid({"noised": PICTURES, "guess": PICTURES}, TITLES)
    yield nb02.accuracy_on_the_line(T, THREE, 66)
    yield nb02.margin_panels(T, THREE, THREE)
    yield nb03.accuracy_on_the_line({"b": THREE}, TITLES)
    yield nb03.design_panels({"a": ([1, 2, 4], THREE)}, {"a": [[1, 10], [2, 20]]}, (10, 3))
    yield nb04.stage_panels({"nested": [([1, 5], []), ([3], [1, 5])], "official": [([2], []), ([4], [2])]}, ["2", "4"])
    yield nb04.accuracy_against_cost(([1, 3, 10], THREE), {"race": (2, THREE[0])}, [[1, 10], [3, 30]], 10)
    yield nb04.bars(gaps, title="fates", xlabel="share")


def test_every_figure_can_be_drawn():
    set_style()
    for fig in figures():
        fig.draw_without_rendering()


def test_a_curve_has_its_estimates_and_a_band_between_their_ends():
    (ax,) = nb02.accuracy_on_the_line(T, THREE, 66).axes
    assert ax.lines[0].get_ydata().tolist() == [50, 60, 80]
    corners = ax.collections[0].get_paths()[0].vertices
    assert {(100, 40), (100, 55), (900, 90)} <= {tuple(corner) for corner in corners}
    assert labels(ax) == ["perfect denoiser, 95%", "nearest class mean", "chance"]


def test_a_strategy_has_the_same_colour_in_every_panel():
    panels = {"ten": ([1, 2, 4], THREE), "sixty": ([6, 12, 24], THREE)}
    points = [{"staged": (9, THREE[0]), "race": (5, THREE[1])}, {"race": (30, THREE[2])}]
    fig = nb04.study_panels({name: (panels[name], own) for name, own in zip(panels, points, strict=True)})
    colours = [dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) for ax in fig.axes]
    assert colours[0]["race"][0].get_color() == colours[1]["race"][0].get_color() == PALETTE[2]
    assert [ax.get_ylim() for ax in fig.axes] == [(40, 100)] * 2
    assert len(fig.legends[0].get_texts()) == 3


def test_a_race_marks_who_was_dropped_and_who_won():
    errors = np.random.default_rng(0).normal(0, 0.1, (3, 32)) + np.array([[0.0], [0.1], [5.0]])
    looks = list(Racing(trials=32, threshold=2.0).rounds(errors))
    (ax,) = nb04.race_lines(looks, ["boot", "bag", "shirt"]).axes
    names = ["boot", "bag", "shirt"]
    names[looks[-1].best] += " (the winner)"
    assert sorted(labels(ax)) == sorted(names)
    assert sum(line.get_marker() == "x" for line in ax.lines) == 3 - len(looks[-1].survivors)


def test_pictures_are_clipped_to_what_can_be_drawn():
    shown = pieces.pictures(torch.tensor([[-1.0, 0.0, 3.0]]).view(1, 3, 1, 1))
    assert shown.shape == (1, 1, 1, 3) and shown.flatten().tolist() == [0, 0.5, 1]
