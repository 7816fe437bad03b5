"""Figures show the numbers that they are given."""

import numpy as np
import torch

from diffclf import Racing
from diffclf.experiments.e09_supervised import Member
from diffclf.experiments.robustness import Line, Robustness
from diffclf.stats import Estimate
from diffclf.workbook.plots import nb00, nb01, nb02, nb03, nb04, nb05, nb09, nb10, pieces
from diffclf.workbook.plots.style import PALETTE, PAPER, set_style

THREE = [Estimate(50, 40, 55), Estimate(60, 50, 70), Estimate(80, 75, 90)]
T = [100, 500, 900]
PICTURES = np.random.default_rng(0).random((3, 4, 4, 3))
TITLES = ["a", "b", "c"]
FIELD = [Member("dit", "DiT", 1000, 250, 5e9), Member("resnet-18", "ResNet", 300, 1, 2e6)]
SHARES = {"dit": np.array([[90.0, 10.0, 0.0], [25.0, 75.0, 0.0], [np.nan] * 3]), "networks": np.eye(3) * 100}


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
    accuracy = {"dit": THREE[2], "resnet-18": THREE[1]}
    yield nb09.accuracy_against_size(FIELD, accuracy, {"ResNet-18": THREE[0], "Diffusion Classifier 256": THREE[1]})
    yield nb09.accuracy_against_cost(FIELD, accuracy)
    yield nb09.confusion_panels(SHARES, TITLES)
    yield nb09.kappa_points({"DiT and ResNet": ([0.5], THREE[0])})


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


def test_a_classifier_stands_at_its_size_and_the_papers_are_sorted_by_accuracy():
    paper = {"ResNet-18": THREE[1], "Diffusion Classifier 256": THREE[0]}
    fig = nb09.accuracy_against_size(FIELD, {"dit": THREE[2], "resnet-18": THREE[1]}, paper)
    left, right = fig.axes
    points = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in left.containers}
    assert points == {"ResNet": [[300, 60]], "DiT": [[1000, 80]]}
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["Diffusion Classifier 256", "ResNet-18"]
    assert [text.get_text() for text in left.texts] == ["18", "dit"]


def test_confusions_leave_the_diagonal_out_in_the_picture_and_in_words():
    first, _ = nb09.confusion_panels(SHARES, TITLES).axes
    assert [text.get_text() for text in first.texts] == ["10", "25"]
    assert "dit: b taken for a 25%, a taken for b 10%" in nb09.confusion_panels_alt(SHARES, TITLES)


def test_losses_keep_their_colours_and_the_papers_points_are_black():
    set_style()
    run, paper = {"items": {"vlb": THREE[0], "l1": THREE[1]}}, {"A": {"vlb": -5, "l1": 1}, "B": {"vlb": -2, "l1": 0}}
    fig = nb05.difference_points(run, paper)
    (ax,) = fig.axes
    drawn = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    assert drawn["VLB, this run, 95%"][0].get_color() == PALETTE[3] and drawn["VLB, paper"].get_color() == PAPER
    assert drawn["VLB, paper"].get_xdata().tolist() == [-5, -2]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["items", "A (paper)", "B (paper)"]
    said = nb05.difference_points_alt(run, paper)
    assert "items: VLB 50.0 [40.0, 55.0], l1 60.0" in said and "below 0: VLB on 2 of 2, l1 on 0 of 2" in said
    panels = {"x": {"l2": ([1, 2, 4], THREE), "vlb": ([1, 2, 4], THREE)}, "y": {"l2": ([1, 2, 4], THREE)}}
    other = nb05.trial_panels(panels)
    drawn = dict(zip(*reversed(other.axes[0].get_legend_handles_labels()), strict=True))
    assert [drawn[loss][0].get_color() for loss in ("l2", "VLB")] == [PALETTE[0], PALETTE[3]]
    assert "x, 1 to 4 trials: l2 50 to 80, VLB 50 to 80" in nb05.trial_panels_alt(panels)
    by_t = T, {"vlb": THREE}, {"vlb": [70.0, 20.0, 10.0]}
    third = nb05.timestep_panels(*by_t)
    assert third.axes[1].lines[0].get_ydata().tolist() == [70, 20, 10]
    assert "VLB is best at t = 900 (80 points); its 1 smallest timesteps have 70%" in nb05.timestep_panels_alt(*by_t)
    for figure in (fig, other, third):
        figure.draw_without_rendering()


def test_effective_robustness_is_drawn_on_logit_axes_with_versions_light_and_the_paper_black():
    set_style()
    share = (Estimate(0.8, 0.7, 0.9), Estimate(0.3, 0.0, 0.5))
    places = {name: share for name in ("r", "r@1", "v", "dit")} | {"s": (Estimate(0.9, 0.8, 1.0), share[1])}
    families = {"r": "ResNet", "s": "ResNet", "r@1": "ResNet", "v": "ViT", "dit": "DiT"}
    shifts = {name: (places, Robustness(THREE[0], Line(-2.0, 1.0), 0.8, 0.3, False)) for name in ("V2", "A")}
    fig = nb10.robustness_panels(shifts, families, {"A": {"DiT 256": {"x": 92.0, "y": 20.3, "line": 4.5}}})
    fig.draw_without_rendering()
    plain, with_paper = fig.axes
    assert plain.get_xscale() == plain.get_yscale() == "logit"
    assert plain.get_ylim()[0] > 0.1 and with_paper.get_ylim()[0] < 0.045
    assert "the paper, above its line" in labels(with_paper) and "the paper, above its line" not in labels(plain)
    assert "ResNet, versions along the training" in labels(plain) and "ViT, versions along the training" not in labels(
        plain
    )
    (line,) = (line for line in plain.lines if line.get_label() == "line through the final networks")
    assert line.get_xdata()[[0, -1]].tolist() == [0.8, 0.9], "from the worst to the best final network"
    assert "A: the DiT 30% at 80% in distribution, where the line has 35%" in nb10.robustness_panels_alt(shifts, "dit")


def test_shortcut_corruptions_and_gallery():
    set_style()
    entry = {"kind": "generative", "accuracy": THREE[:2], "seeds": [[50, 60], [52, 58]]}
    lines = {"dit": entry, "vit-s": entry | {"kind": "discriminative", "seeds": [[50, 60]]}}
    fig = nb10.shortcut_lines(lines)
    fig.draw_without_rendering()
    assert labels(fig.axes[0]) == ["dit (generative)", "vit-s (discriminative)"]
    assert sum(line.get_marker() == "." for line in fig.axes[0].lines) == 2
    assert "dit: 50 [40, 55] and 60 [50, 70]; vit-s" in nb10.shortcut_lines_alt(lines)
    drawn = {"blur": {"ResNet": ([0, 3, 5], THREE), "DiT": ([0, 3, 5], THREE)}}
    nb10.corruption_panels(drawn, 10).draw_without_rendering()
    assert nb10.corruption_panels_alt(drawn).endswith("blur: ResNet 80, DiT 80.")
    rows = {
        "A": [(PICTURES[0], "boot", {"ViT": "boot", "DiT": "bag"})],
        "O": [(PICTURES[1], "bag", {"ViT": "bag"})] * 2,
    }
    fig = nb10.gallery(rows)
    fig.draw_without_rendering()
    colours = {text.get_text(): text.get_color() for ax in fig.axes for text in ax.texts}
    assert colours["DiT: bag"] == PALETTE[1] and colours["ViT: boot"] == "black"
    assert "A: a boot (ViT boot, DiT bag)." in nb10.gallery_alt(rows)
