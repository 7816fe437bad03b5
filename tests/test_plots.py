"""Figures show the numbers that they are given."""

import numpy as np
import torch

from diffclf import Racing
from diffclf.experiments.e03_timestep_strategies import DESIGNS
from diffclf.experiments.e09_supervised import Member
from diffclf.experiments.robustness import Line, Robustness
from diffclf.experiments.sweep import Outcome
from diffclf.stats import Estimate
from diffclf.workbook.plots import nb00, nb01, nb02, nb03, nb04, nb05, nb09, nb10, nb14, pieces
from diffclf.workbook.plots.style import PALETTE, PAPER, set_style

THREE = [Estimate(50, 40, 55), Estimate(60, 50, 70), Estimate(80, 75, 90)]
T = [100, 500, 900]
PICTURES = np.random.default_rng(0).random((3, 4, 4, 3))
TITLES = ["a", "b", "c"]
MARGINS = {"Bayes' rule": np.outer(np.linspace(-1, 1, 26), np.ones(46)), "equal weights": np.ones((26, 46))}
FIELD = [Member("dit", "DiT", 1000, 250, 5e9), Member("resnet-18", "ResNet", 300, 1, 2e6)]
SHARES = {"dit": np.array([[90.0, 10.0, 0.0], [25.0, 75.0, 0.0], [np.nan] * 3]), "networks": np.eye(3) * 100}
STAGES = ([5, 20, 50], THREE), {"5/50": (9, THREE[0]), "2/50": (10, THREE[1])}, [[25, 78.2], [400, 83.4]], 37
ROWS = {"boot": {"all": THREE[0], "eq": THREE[1]}, "bag": {"all": THREE[2], "eq": THREE[0]}}, "gap", {"paper": 2.4}


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def figures():
    plane = np.random.default_rng(0).normal(size=(2, 12))
    gaps = {"boot": THREE[0], "bag": THREE[1]}
    for n_rules in (1, 2):
        yield nb00.rules(MARGINS, torch.ones(2, 2, 1, 1), torch.arange(2), n_rules)
    yield nb00.errors_over_t(T, plane[:, :3], T, plane[:, :3], ["middle", "sides"])
    yield nb00.agreement(([1, 2, 4], THREE), THREE[2])
    yield nb00.error_map_row(PICTURES[0], PICTURES[..., 0], TITLES)
    yield nb00.class_gaps(dict(zip(T, PICTURES, strict=True)), dict.fromkeys(T, gaps), "bag", *T)
    yield nb00.four_steps([*PICTURES, PICTURES[0]], gaps, "bag")
    yield nb01.noise_panels(T, np.random.default_rng(0).normal(size=(2, 3, 4)), ["boot", "bag"])
    yield nb01.rank_points(THREE, THREE[0], 2, 48)
    yield nb02.figure3((T, T), (T, THREE), [[0, 7], [500, 46]], ([1, 0, -1], THREE), [[2, 0.2], [0, 1]], {"chance": 10})
    yield nb02.guesses(
        {"noised": torch.zeros(3, 3, 4, 4), 'guess,\n"bag"': torch.ones(3, 3, 4, 4)}, [0, 1, 2], [4, 3, 2]
    )
    yield pieces.picture_grid({"noised": PICTURES, "guess": PICTURES}, TITLES)
    yield nb04.accuracy_against_cost(*STAGES)
    yield nb04.row_points(*ROWS)
    accuracy = {"dit": THREE[2], "resnet-18": THREE[1]}
    yield nb09.accuracy_against_size(FIELD, accuracy, {"ResNet-18": THREE[0], "Diffusion Classifier 256": THREE[1]})
    yield nb09.accuracy_against_cost(FIELD, accuracy)
    yield nb09.confusion_panels(SHARES, TITLES)
    yield nb09.kappa_points({"DiT and ResNet": ([0.5], THREE[0])})


def test_every_figure_can_be_drawn():
    set_style()
    for fig in figures():
        fig.draw_without_rendering()


def test_figure_1_says_who_wins_and_that_its_scales_differ():
    right = {"boot": Estimate(3, 1, 4), "bag": Estimate(0, 0, 0)}
    gaps = {100: right, 500: right | {"boot": Estimate(-3, -4, -1)}}
    fig = nb00.class_gaps(dict.fromkeys(gaps, PICTURES[0]), gaps, "bag", *gaps)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["t = 100\nbag wins: right", "t = 500\nboot wins: WRONG"]
    assert "own scale" in fig.get_supxlabel()
    assert "At t = 500 boot has the smallest error, by 3 before bag." in nb00.class_gaps_alt(gaps, "bag", *gaps)
    assert "own scale" not in nb00.class_gaps({500: PICTURES[0]}, gaps, "bag", 500).get_supxlabel()
    fig = nb00.four_steps([*PICTURES, PICTURES[0]], gaps[500], "bag")
    (errors,) = [ax for ax in fig.axes if ax.texts]
    assert [text.get_text() for text in errors.texts] == ["boot: smallest", "bag"]
    assert nb00.four_steps_alt(500, gaps[500], "bag").endswith("that of boot, but the image shows a bag.")


def test_the_exact_world_in_words():
    assert "equal weights decides alike on 50% of the plane" in nb00.rules_alt(MARGINS, 2)
    assert nb00.errors_over_t_alt(T, np.array([[3, 2, 1], [1, 2, 1]]), "ab").count("t = 100: 2.00") == 1
    assert "from 50.0 points with 1 to 80.0 with 4" in nb00.agreement_alt(([1, 2, 4], THREE), THREE[2])
    maps = np.array([np.full((2, 2), 0.002), np.full((2, 2), 0.005)])
    assert nb00.error_map_row_alt(maps, ["bag", "boot"]).endswith("is 2.0; its rivals differ by: boot +3.0.")


def test_variances_stand_beside_the_papers_and_curves_of_accuracy_side_by_side():
    by_t = {"own noises": THREE, "shared noise": THREE[::-1], "ratio": THREE}
    paper = {"median": 48, "quartiles": [21, 100]}
    left, right = nb01.variance_panels(T, by_t, paper).axes
    assert labels(left) == ["own noises", "shared noise"]
    assert list(right.lines[0].get_ydata()) == [48, 48] and right.lines[0].get_color() == PAPER
    said = nb01.variance_panels_alt(T, by_t, paper)
    assert "own noises 50 and 80; shared noise 80 and 50. The median of their ratio over t is 60;" in said
    assert said.endswith("that of the paper's is 48.")
    found = {"t": (np.array([1, 2, 4]), THREE), "nothing": (np.array([1, 2, 4]), THREE)}
    (ax,) = nb01.accuracy_by_sharing(found, 10).axes
    assert ax.containers[0].lines[0].get_xdata()[0] < 1 == ax.containers[1].lines[0].get_xdata()[0]
    assert "with 1 and with 4 trials per class is, by what is shared: t 50 and 80;" in nb01.accuracy_by_sharing_alt(
        found, 10
    )
    assert "nearest rival 50 [40, 55], farthest 80 [75, 90], random 60" in nb01.rank_points_alt(THREE, THREE[1], 2, 48)
    errors = np.array([[[1.0, 3.0]], [[2.0, 6.0]]])  # the mean over the curves is 3
    assert nb01.noise_panels_alt([7], errors, TITLES[:2]).endswith("ranges of the panels are -2 to -1, 0 to 3.")


def test_curves_over_snr_stand_apart_with_much_noise_on_the_right():
    panels = {
        "line": {"wide": ([2, 0, -1], THREE), "narrow": ([2, 0, -1], THREE[::-1])},
        "known": {"a": ([0], THREE[:1])},
    }
    line, known = nb02.snr_panels(panels, ["points", "%"], {"chance": 50}).axes
    wide, narrow = line.containers
    assert wide.lines[0].get_xydata().tolist() == [[2, 50], [0, 60], [-1, 80]]
    np.testing.assert_allclose(narrow.lines[0].get_xdata(), [2.03, 0.03, -0.97])
    assert line.xaxis_inverted() and known.get_ylabel() == "%" and labels(line) == ["chance", "wide", "narrow"]
    assert "line, wide: 50.0 at 2, 80.0 at -1, 80.0 at -1; line, narrow: 80.0 at 2" in nb02.snr_panels_alt(panels)


def test_figure_3_in_words_has_both_ends_and_the_peak_of_both_curves():
    said = nb02.figure3_alt((), (T, THREE[::-1]), [[0, 7.6], [500, 46.5], [1000, 13.2]])
    assert "This run has 80.0 at 100, 80.0 at 100, 50.0 at 900; the paper's has 7.6 at 0, 46.5 at 500" in said
    rows = {"noised": None, 'guess,\n"bag"': None, 'guess,\n"boot"': None}
    assert nb02.guesses_alt(rows, T).endswith('guesses at the clean picture, for "bag" and for "boot".')


def test_a_family_has_the_same_colour_in_every_panel():
    ten = {"staged": ([1, 2, 4], THREE), "race": ([5], THREE[1:2])}
    panels = {"ten": ten, "sixty": {"race": ([6, 12, 24], THREE)}}
    marked = {"ten": {"chosen": [("staged", 2.0, 20.0)], "equal cost": [("race", 5.0, 60.0)]}}
    fig = nb14.cost_panels(panels, marked, gigaflops=0.5)
    colours = [dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) for ax in fig.axes]
    assert colours[0]["race"].get_color() == colours[1]["race"].get_color() == PALETTE[1]
    upper = fig.axes[0].child_axes[0]
    fig.draw_without_rendering()
    assert upper.get_xlim() == tuple(0.5 * end for end in fig.axes[0].get_xlim())
    rings = [line for line in fig.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [(line.get_marker(), *line.get_xydata()[0]) for line in rings] == [("o", 2, 20), ("D", 5, 60)]
    assert (
        rings[0].get_markeredgecolor() == PALETTE[0] and fig.axes[0].get_ylim()[0] < 20 < 50 < fig.axes[1].get_ylim()[0]
    )
    assert [text.get_text() for text in fig.legends[0].texts][2:] == [label for _, label in nb14.RINGS.values()]
    said = nb14.cost_panels_alt(panels, marked)
    assert (
        "ten: staged 80.0 with 4, race 60.0 with 5; marked, chosen on tune images: staged 20.0 with 2; marked" in said
    )
    assert said.endswith("its cost: race 60.0 with 5. sixty: race 80.0 with 24.")


def test_growth_shows_costs_per_image_and_per_class():
    ten, sixty = (Outcome(np.zeros(2), np.ones(2), np.array([n, n])) for n in (100, 300))
    found, fits = {"race": {10: ten, 60: sixty}}, {"race": THREE[0]}
    fig = nb14.growth_panels(found, 128, fits)
    lines = [ax.lines[1].get_ydata().tolist() for ax in fig.axes]
    assert lines == [[100, 300], [10, 5]] and list(fig.axes[0].lines[0].get_ydata()) == [1280, 7680]
    said = nb14.growth_panels_alt(found, 128, fits)
    assert "race from 100 with 10 classes to 300 with 60" in said and said.endswith("Exponents: 50.00 (race).")


def test_a_race_marks_who_was_dropped_and_who_won():
    errors = np.random.default_rng(0).normal(0, 0.1, (3, 32)) + np.array([[0.0], [0.1], [5.0]])
    looks = list(Racing(trials=32, threshold=2.0).rounds(errors))
    (ax,) = nb14.race_lines(looks, ["boot", "bag", "shirt"]).axes
    names = ["boot", "bag", "shirt"]
    names[looks[-1].best] += " (wins)"
    assert sorted(labels(ax)) == sorted(names)
    assert sum(line.get_marker() == "x" for line in ax.lines) == 3 - len(looks[-1].survivors)


def test_designs_keep_their_colours_and_those_of_the_other_row_are_grey():
    set_style()
    run, paper = dict.fromkeys(DESIGNS, ([1, 2, 4], THREE)), dict.fromkeys(DESIGNS, [[1, 10], [2, 20]])
    fig = nb03.design_panels(run, paper, (10, 3))
    fig.draw_without_rendering()
    for ax, n in zip(fig.axes[::2], (4, 5), strict=True):
        bars = {bar.get_label(): bar.lines[0].get_color() for bar in ax.containers}
        assert len(bars) == n and all(PALETTE[list(DESIGNS).index(name)] == colour for name, colour in bars.items())
        assert sum(line.get_color() == nb03.GREY for line in ax.lines) == 8 - n
    assert "; 500 50 with 1 and 80 with 4;" in nb03.design_panels_alt(run, paper, (10, 3))
    single = {"500": ([1, 2, 4], THREE), "500, other": ([1, 2, 4], THREE)}
    drawn = single, {"Even 5": ([5, 10, 25], THREE)}, {"Even 5": [[25, 2], [80, 3]]}
    left, right = nb03.difference_panels(*drawn).axes
    assert left.containers[0].lines[0].get_color() == PALETTE[3] and len(left.containers) == 2
    (theirs,) = (line for line in right.lines if line.get_label() == "Even 5, paper")
    assert theirs.get_ydata().tolist() == [2, 3] and theirs.get_color() == PALETTE[6]
    assert "500, other 50 [40, 55] with 1 and 80 [75, 90] with 4;" in nb03.difference_panels_alt(*drawn)
    gains = {"500": (12, 24, THREE[0]), "0": (10, 20, THREE[1])}, {"0": (8, 16, 1.0), "500": (8, 16, 2.0)}
    (ax,) = nb03.gain_points(*gains).axes
    (points,) = (line for line in ax.lines if line.get_label() == "paper")
    assert points.get_xdata().tolist() == [2, 1] and points.get_color() == PAPER
    assert ax.get_yticklabels()[0].get_text() == "500: 12 to 24 (paper 8 to 16)"
    said = nb03.gain_points_alt(*gains)
    assert "500 gains 50 [40, 55] from 12 to 24 trials" in said and said.endswith("500 2, 0 1.")


def test_points_of_strategies_stand_apart_beside_the_curve_and_the_papers():
    (ax,) = nb04.accuracy_against_cost(*STAGES).axes
    points = {bars.get_label(): bars.lines[0].get_xydata()[0] for bars in ax.containers}
    np.testing.assert_allclose(points["5/50"], [9 / 1.03**0.5, 50])
    np.testing.assert_allclose(points["2/50"], [10 * 1.03**0.5, 60])
    assert "chance: 2.7%" in ax.get_ylabel() and ax.get_ylim()[0] > 30
    said = nb04.accuracy_against_cost_alt(*STAGES)
    assert "has 50.0% with 5 and 80.0% with 50" in said and "2/50 60.0% with 10" in said
    assert said.endswith("from 78.2% to 83.4%.")


def test_rows_have_a_point_per_series_one_above_the_other():
    (ax,) = nb04.row_points(*ROWS).axes
    drawn = [bars.lines[0].get_xydata().tolist() for bars in ax.containers]
    assert drawn == [[[50, -0.125], [80, 0.875]], [[60, 0.125], [50, 1.125]]]
    assert ax.get_ylim() == (1.5, -0.5) and sorted(labels(ax)) == ["all, 95%", "eq, 95%", "paper"]
    said = nb04.row_points_alt(*ROWS)
    assert "boot has 50 [40, 55] (all), 60 [50, 70] (eq); bag" in said and said.endswith("marks 2.4 (paper).")


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
