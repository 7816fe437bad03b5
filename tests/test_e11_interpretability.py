"""Notebook 11: maps that add up, altered pictures, their decisions; against numbers by hand and an exact world."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffclf.datasets import ImageSet, load_dataset
from diffclf.experiments import e11_interpretability as e11
from diffclf.experiments import inversion
from diffclf.experiments.inversion import DESCRIBED, RIGHT, WRONG, RoundTrips
from diffclf.images import load_images
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, paired_difference
from diffclf.trials import TrialList, even, uniform
from diffclf.workbook.plots import nb11
from diffclf.workbook.plots.style import PALETTE, set_style

FRACTIONS = [0.25, 0.5]
SETTINGS = {"fractions": FRACTIONS, "fill": "black", "n_judge": 3}


@pytest.fixture
def data():
    return load_dataset("mini-items", n_images=3)


def test_the_map_adds_up_to_the_difference_of_the_scores(tiny_sd, data):
    rival = np.array([7, 0, 2])
    found = e11.gather_evidence(tiny_sd, data, rival, n_trials=70, seed=4)
    trials = TrialList(even(70, 1000))
    source = ErrorSource(tiny_sd, data.prompts_for(tiny_sd), trials, seed=5, losses=("l2",))
    errors = compute_errors(source, data.images, desc=None)
    expected = errors[range(3), rival] - errors[range(3), data.labels]
    assert found.values.shape == (3, 70, 8, 8) and np.array_equal(found.timesteps, trials.timesteps)
    np.testing.assert_allclose(found.values.sum(axis=(2, 3)), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2)), expected.mean(axis=1), rtol=1e-3, atol=1e-6)


def exact_world():
    """Two classes that differ at the first of four positions only, and images of the first class."""
    means = np.zeros((2, 3, 2, 2))
    means[0, :, 0, 0], means[1, :, 0, 0] = 0.8, -0.8
    model = GaussianMixtureModel(
        means=means.reshape(2, 12), variances=[0.1, 0.1], labels=["bright", "dark"], latent_shape=(3, 2, 2)
    )
    pixels = np.full((9, 2, 2, 3), 128, dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(220, 229)[:, None]  # each image has a key and noises of its own
    data = ImageSet("x", list(pixels), np.zeros(9, dtype=np.int64), ("bright", "dark"), {}, np.arange(9))
    return model, data


def test_in_an_exact_world_the_map_finds_the_position_and_its_deletion_turns_the_decision():
    model, data = exact_world()
    rival = np.ones(9, dtype=np.int64)
    found = e11.gather_evidence(model, data, rival, n_trials=40)
    assert (np.abs(found.values[:, :, [0, 1, 1], [1, 0, 1]]) < 1e-7).all() and (found.maps[:, 0, 0] > 0.01).all()
    assert found.marks[:, 0, 0].tolist() == [1] * 9
    judged = e11.judge(model, data, rival, found.maps, SETTINGS | {"n_judge": 40})
    assert (judged.intact > 0).all() and (judged.margins["deletion", "evidence"][:, 1:] < 0).all()
    assert (judged.margins["insertion", "evidence"][:, 0] < 0).all(), "black is a picture of the other class"
    assert (judged.margins["insertion", "evidence"][:, 1:] > 0).all()
    brightest, first = judged.margins["deletion", "unlike the fill"], judged.margins["deletion", "evidence"]
    np.testing.assert_allclose(brightest[:, 1], first[:, 1], err_msg="the brightest position is the marked one")
    assert judged.changed("evidence", 0.25).value == 100 and judged.changed_by_noise().value == 0
    orders = (e11.order_ranks(data.images[i], found.maps[i], "black", i) for i in range(9))
    spared = np.array([order["random"][0, 0] > 0 for order in orders])
    assert ((judged.margins["deletion", "random"][:, 1] > 0) == spared).all() and 0 < spared.sum() < 9


def test_marks_have_the_sign_of_the_evidence_and_few_false_ones():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 20, 4, 4))
    nothing = e11.Evidence(values, np.arange(20))
    assert 0.01 < (nothing.marks != 0).any(axis=(1, 2)).mean() < 0.09, "one map in twenty at most, but for luck"
    values[:, :, 0, 0] += 3
    values[:, :, 1, 2] -= 3
    marks = e11.Evidence(values, np.arange(20)).marks
    assert (marks[:, 0, 0] == 1).mean() > 0.99 and (marks[:, 1, 2] == -1).mean() > 0.99


def test_parts_of_the_timesteps_average_to_the_map():
    values = np.random.default_rng(0).normal(size=(2, 20, 2, 2))
    found = e11.Evidence(values, even(20, 1000))
    parts = found.by_timestep()
    assert list(parts) == [100, 300, 500, 700, 900]
    np.testing.assert_allclose(np.mean(list(parts.values()), axis=0), found.maps)
    np.testing.assert_allclose(parts[300], values[:, 4:8].mean(axis=1))
    few = e11.Evidence(values[:, :2], np.array([150, 950])).by_timestep()
    assert list(few) == [100, 900]
    rows = e11.timestep_rows(found, np.arange(2))
    assert rows["t around 300"]["evidence x 1000"].value == pytest.approx(1000 * parts[300].sum() / 2)


def test_the_rival_is_the_best_wrong_class():
    errors = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert e11.rivals(errors, np.array([0, 1, 0])).tolist() == [1, 0, 2]


def test_squares_are_what_the_model_sees(data):
    for square, image in zip(e11.squares(data, 32), load_images(data.images), strict=True):
        assert square.dtype == np.uint8 and np.array_equal(square, np.asarray(image))


def test_orders_by_hand():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, 2:], picture[2:, :2] = 200, 90  # positions (0, 1) and (1, 0) of 2 x 2
    ranks = e11.order_ranks(picture, np.array([[0.3, -0.1], [0.0, 0.5]]), "black", seed=0)
    assert ranks["evidence"].tolist() == [[1, 3], [2, 0]]
    assert ranks["unlike the fill"].tolist() == [[2, 0], [1, 3]], "equal ones in the order of the positions"
    assert sorted(ranks["random"].flatten()) == [0, 1, 2, 3]
    others = [e11.order_ranks(picture, np.zeros((2, 2)), "black", seed)["random"].tolist() for seed in range(9)]
    assert len({str(order) for order in others}) > 3
    by_mean = e11.order_ranks(picture, np.zeros((2, 2)), "mean", 0)["unlike the fill"]
    assert by_mean.tolist() == [[1, 0], [3, 2]]  # the mean is 72.5; the distances are 72, 128, 18, 72


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_what_is_deleted_is_what_is_not_inserted(fill):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    ranks = np.array([[2, 0], [3, 1]])
    colour = e11.fill_colour(picture, fill)
    assert colour.tolist() == ([0, 0, 0] if fill == "black" else picture.mean(axis=(0, 1)).round().tolist())
    gone, kept = (e11.altered(picture, ranks, 0.5, fill, mode) for mode in e11.MODES)
    assert (gone[:, 4:] == colour).all() and np.array_equal(gone[:, :4], picture[:, :4])
    assert (kept[:, :4] == colour).all() and np.array_equal(kept[:, 4:], picture[:, 4:])
    assert np.array_equal(e11.altered(picture, ranks, 0.0, fill), picture)
    assert (e11.altered(picture, ranks, 1.0, fill) == colour).all() and gone.dtype == np.uint8
    with pytest.raises(ValueError, match="fill must be black or mean, got 'red'"):
        e11.fill_colour(picture, "red")


def test_margins_are_those_of_the_altered_pictures(tiny_sd, data):
    rival, maps = np.array([7, 0, 2]), np.random.default_rng(0).normal(size=(3, 8, 8))
    judged = e11.judge(tiny_sd, data, rival, maps, SETTINGS, seed=1)
    prompts, pictures = data.prompts_for(tiny_sd), e11.squares(data, 32)

    def margin(place, picture, seed=3):
        pair = [prompts[data.labels[place]], prompts[rival[place]]]
        source = ErrorSource(tiny_sd, pair, TrialList(uniform(3)), seed=seed, losses=("l2",))
        true, other = compute_errors(source, [picture], desc=None)[0].mean(axis=1)
        return pytest.approx(float(other - true), rel=1e-3, abs=1e-6)

    black = np.zeros_like(pictures[0])
    for place, picture in enumerate(pictures):
        ranks = e11.order_ranks(picture, maps[place], "black", 1 + place)
        for mode, order in judged.margins:
            found = judged.margins[mode, order][place]
            assert found[0] == margin(place, picture if mode == "deletion" else black)
            for fraction, own in zip(FRACTIONS, found[1:], strict=True):
                assert own == margin(place, e11.altered(picture, ranks[order], fraction, "black", mode))
        assert judged.again[place] == margin(place, picture, seed=4)
    assert judged.groups is data.groups and judged.fractions == (0.25, 0.5)


def made_up(n=10, **changes):
    """Return judged pictures: all margins 2 when intact and 1 otherwise, but for the changes "mode_order"."""
    margins = {(mode, order): np.tile([2.0, 1.0, 1.0], (n, 1)) for mode in e11.MODES for order in e11.ORDERS}
    for name, own in changes.items():
        margins[tuple(name.split("_"))][:] = own
    return e11.Judged(margins, np.where(np.arange(n) < 3, -1.0, 1.0), (0.25, 0.5), np.arange(n))


def test_curves_and_areas_by_hand():
    judged = made_up(deletion_evidence=[2, -1, -1], insertion_evidence=[-1, 1, 1], insertion_random=[-1, -1, 1])
    assert (judged.areas("deletion", "evidence") == 25).all() and (judged.areas("deletion", "random") == 100).all()
    assert (judged.areas("insertion", "evidence") == 75).all() and (judged.areas("insertion", "random") == 25).all()
    assert judged.gap("deletion", "random").value == 75 and judged.gap("insertion", "random").value == 50
    assert judged.gap("insertion", "unlike the fill").value == -25
    assert judged.gap("deletion", "random", 0.9) == paired_difference([100] * 10, [25] * 10, range(10), level=0.9)
    x, shares = judged.shares("deletion")["evidence"]
    assert x == [0, 0.25, 0.5] and [e.value for e in shares] == [100, 0, 0]
    assert [e.value for e in judged.heights("deletion")["evidence"][1]] == [100, -50, -50]
    assert judged.changed("evidence", 0.25).value == 100 and judged.changed("random", 0.5).value == 0
    rows = e11.changed_rows(judged, 0.25)
    assert [row["decisions of 100 that change"].value for row in rows.values()] == [100, 0, 0, 30]
    uneven = replace(judged, fractions=(0.1, 0.5))
    assert (uneven.areas("deletion", "evidence") == 10).all(), "half of the first tenth of five"


def test_contrasts_and_reading_have_the_sign_of_their_claim():
    kinds = {RIGHT: np.full(40, 0.2), WRONG: np.linspace(0.3, 0.5, 40), DESCRIBED: np.linspace(0.1, 0.14, 40)}
    trips = RoundTrips(np.ones((40, 2)), kinds, {}, np.zeros(40, dtype=int), np.arange(40))
    judged = made_up(20, deletion_evidence=[2, -1, -1], insertion_random=[2, 1, -1])
    found = e11.contrasts(trips, judged, 0.99)
    assert {claim: e.value for claim, e in found.items()} == pytest.approx({
        "wrong-prompt-reconstructs-worse": 200, "description-reconstructs-better": 80,
        "deletion-by-map-beats-random": 75, "deletion-by-map-beats-unlike-fill": 75,
        "insertion-by-map-beats-random": 25,
    })  # fmt: skip
    assert {e.level for e in found.values()} == {0.99} and found["description-reconstructs-better"].low > 0
    said = e11.reading(judged)
    assert said[0].startswith("deletion, at 95%: the map's order has more effect than 'random': 75.0 [")
    assert "is not told apart from 'unlike the fill': 0.0 [" in said[3] and len(said) == 4
    opposite = e11.reading(made_up(20, deletion_random=[2, -1, -1]))
    assert opposite[0].startswith("deletion, at 95%: the map's order has less effect than 'random'")


def test_examples_are_of_different_classes_and_the_last_one_is_wrong(data):
    labels, chosen = np.array([1, 1, 0, 2, 1, 3]), np.array([1, 1, 0, 0, 1, 3])
    assert e11.examples(labels, chosen, 3) == [0, 2, 3] and e11.examples(labels, chosen, 6) == [0, 2, 5, 1, 4, 3]
    assert e11.examples(labels, labels, 3) == [0, 2, 3] and e11.examples(labels[:1], labels[1:2] + 1) == [0]
    chosen = np.array([data.labels[0], 5, 6])
    true, other = data.classnames[data.labels[0]], data.classnames[data.labels[1]]
    assert e11.titles([0, 1], data, chosen, np.array([3, 5, 5])) == [
        f"{true}\nrival dress",
        f"{other}\ntaken for sandal",
    ]


def test_rows_of_evidence_split_the_positions_by_their_look():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, :2], picture[:2, 2:] = 200, 5  # a level of 5 still looks black
    values = np.tile(np.array([[2.0, 3.0], [-5.0, 1e-9]]), (9, 20, 1, 1))
    values += np.random.default_rng(0).normal(size=values.shape) * [[0.1, 0.1], [0.1, 10]]
    rows = e11.evidence_rows(e11.Evidence(values, np.arange(20)), [picture] * 9, "black", np.arange(9))
    like, unlike = rows["like the fill"], rows["unlike the fill"]
    assert (like["positions"].value, unlike["positions"].value) == (75, 25)
    assert (like["for the true class"].value, like["for the rival"].value) == (25, 25)
    assert (unlike["for the true class"].value, unlike["for the rival"].value) == (25, 0)
    assert unlike["evidence x 1000"].value == pytest.approx(2000, rel=0.02)


def test_evaluations_are_what_is_computed(tiny_sd, data, monkeypatch):
    settings = SETTINGS | {"n_images": 3, "n_classes": 10, "n_trials": 5, "n_map": 7, "n_invert": 2, "n_steps": 2}
    counted, denoise = [0], tiny_sd.denoise

    def count(x_t, t, cond):
        counted[0] += len(x_t)
        return denoise(x_t, t, cond)

    monkeypatch.setattr(tiny_sd, "denoise", count)
    source = ErrorSource(tiny_sd, data.prompts_for(tiny_sd), TrialList(uniform(5)), losses=("l2",))
    rival = e11.rivals(compute_errors(source, data.images, desc=None).mean(axis=2), data.labels)
    evidence = e11.gather_evidence(tiny_sd, data, rival, 7)
    e11.judge(tiny_sd, data, rival, evidence.maps, settings)
    inversion.round_trips(tiny_sd, data.first(2), rival, ["a red coat", "a bag"], 2)
    assert e11.evaluations(settings) == counted[0]
    assert e11.evaluations(settings | {"n_invert": 9}) == counted[0] + 2 * 23, "no more images than there are"


PICTURES = np.random.default_rng(0).random((2, 4, 4, 3))
NAMES = ["coat\nrival shirt", "bag\ntaken for boot"]


def test_reconstructions_have_their_errors_above_them():
    set_style()
    errors = {RIGHT: [0.0012, 0.25], WRONG: [1.2345, 0.75]}
    drawn = PICTURES, dict.fromkeys(errors, torch.from_numpy(PICTURES)), errors, NAMES
    fig = nb11.reconstructions(*drawn)
    fig.draw_without_rendering()
    shown = [ax.get_title(loc="center") for ax in fig.axes]
    assert shown == ["image\n", "right class\n1.2", "wrong class\n1,230", "", "250", "750"]
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == NAMES
    assert nb11.reconstructions_alt(errors, NAMES).endswith(
        "coat: right class 1.2, wrong class 1,230; bag: right class 250, wrong class 750."
    )


def test_maps_share_a_scale_that_is_white_at_zero_and_marks_have_dots():
    maps, marks = np.array([[[0.001, -0.004], [0, 0]], [[0.002, 0], [0, 0]]]), np.zeros((2, 2, 2), dtype=int)
    marks[0, 0, 1], marks[1, 0, 0] = -1, 1
    fig = nb11.evidence_maps(PICTURES, maps, marks, NAMES)
    fig.draw_without_rendering()
    below = fig.axes[2:4]
    assert all(ax.images[0].get_clim() == (-0.004, 0.004) for ax in below)
    assert [ax.lines[0].get_xydata().tolist() for ax in below] == [[[1, 0]], [[0, 0]]]
    assert below[0].get_title(loc="center") == "sum -3.00"
    said = nb11.evidence_maps_alt(maps, marks, NAMES)
    assert "coat rival shirt: sum x 1000 -3.00, 0 positions marked for the true class and 1 for the rival" in said
    parts = {100: maps, 300: 10 * maps}
    for t in parts:
        fig = nb11.maps_at(PICTURES, parts, NAMES, t)
        assert fig.axes[2].images[0].get_clim() == (-0.04, 0.04) and not fig.axes[2].lines
    assert nb11.maps_at_alt(parts, NAMES, 300).startswith("Timesteps around 300. ") and "-30.00" in nb11.maps_at_alt(
        parts, NAMES, 300
    )


def test_altered_pictures_show_each_order_and_what_the_map_alone_leaves():
    picture = np.full((4, 4, 3), 200, dtype=np.uint8)
    ranks = {order: np.array([[0, 1], [2, 3]]) for order in e11.ORDERS}
    fig = nb11.altered_pictures(picture, ranks, FRACTIONS, "black")
    fig.draw_without_rendering()
    assert len(fig.axes) == 8
    means = [float(np.mean(ax.images[0].get_array())) for ax in fig.axes]
    assert means == [150, 100] * 3 + [50, 100]
    assert nb11.altered_pictures_alt(FRACTIONS, "bag").endswith("shares 0.25, 0.5.")


def test_curves_of_decisions_have_a_panel_per_mode_and_a_colour_per_order():
    set_style()
    estimates = [Estimate(90, 80, 95), Estimate(60, 50, 70), Estimate(55, 40, 70)]
    panels = {mode: {order: ([0.0, *FRACTIONS], estimates) for order in e11.ORDERS} for mode in e11.MODES}
    fig = nb11.altered_panels(panels, panels)
    fig.draw_without_rendering()
    assert [ax.get_xlabel() for ax in fig.axes[2:]] == ["share of positions deleted", "share of positions shown"]
    for ax in fig.axes:
        assert [bars.lines[0].get_color() for bars in ax.containers] == list(PALETTE[:3])
        assert len({bars.lines[0].get_xdata()[1] for bars in ax.containers}) == 3, "the intervals stand apart"
    assert "deletion, random: 90 at 0, 60 at 0.25, 55 at 0.5" in nb11.altered_panels_alt(panels)
