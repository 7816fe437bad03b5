"""Guidance, crops and noises: products against direct computations, distributions of noises, answers, contrasts."""

import json
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm
from tiny import save_tiny_dit

from diffclf.datasets import load_dataset
from diffclf.experiments import e13_what_did_not_help as e13
from diffclf.experiments.field import Field
from diffclf.images import load_images, to_pixels
from diffclf.models import load_model
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.paths import data_dir
from diffclf.schedule import NoiseSchedule
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, paired_difference
from diffclf.trials import TrialList, Trials, image_key, uniform
from diffclf.workbook.plots import nb13
from diffclf.workbook.plots.style import PALETTE, PAPER

TIMESTEPS = uniform(5)
GRID = [-2.0, -1.0, -0.5, 0.0, 0.25, 1.0]


@pytest.fixture(scope="module")
def data():
    return load_dataset("mini-items", "tune", 3)


def predictions(model, data, place, seed=0):
    """Return the noises, the noised latents' predictions under each prompt, and under the empty one, trial by trial."""
    pixels = to_pixels(load_images(data.images)[place], model.image_size)
    trials, x0 = Trials(TIMESTEPS, seed, image_key(pixels), model.latent_shape), model.encode_images(pixels[None])
    eps, cond = trials.noise(np.arange(5)), model.encode_prompts([*data.prompts_for(model), ""])
    made = torch.empty(len(cond), *eps.shape)
    with torch.inference_mode():
        for row in range(len(cond)):
            for trial, t in enumerate(torch.tensor(TIMESTEPS)[:, None]):
                x_t = model.schedule.add_noise(x0, eps[[trial]], t)
                output = model.denoise(x_t, t, cond[[row]])
                made[row, trial] = model.schedule.predict_eps(output, x_t, t)[0]
    return eps, made[:-1], made[-1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_products_give_the_error_of_every_w_and_of_every_crop(prediction_type, data, tiny_sd, monkeypatch):
    model = tiny_sd
    monkeypatch.setattr(model, "schedule", replace(model.schedule, prediction_type=prediction_type))
    found = e13.measure(model, data, TIMESTEPS, batch_size=23, desc=None)  # two trials a pass, the last one alone
    for place in range(3):
        eps, own, empty = predictions(model, data, place)
        for w in (-2.0, -1.0, -0.3, 0.0, 0.5, 7.0):
            direct = (own + w * (own - empty) - eps).square().mean(dim=(1, 2, 3, 4))
            np.testing.assert_allclose(found.guided(w)[place], direct, rtol=1e-4)
        for crop in range(4):
            centre = slice(crop, 8 - crop)
            direct = (own - eps).square()[..., centre, centre].mean(dim=(1, 2, 3, 4))
            np.testing.assert_allclose(found.cropped(crop)[place], direct, rtol=1e-4)


def test_errors_are_those_of_the_evaluator_for_any_batch(tiny_sd, data):
    source = ErrorSource(tiny_sd, data.prompts_for(tiny_sd), TrialList(TIMESTEPS), seed=3, losses=("l2",))
    errors = compute_errors(source, data.images, desc=None)
    for batch_size in (1, 40, None):
        found = e13.measure(tiny_sd, data, TIMESTEPS, seed=3, batch_size=batch_size, desc=None)
        np.testing.assert_allclose(found.errors, errors, rtol=1e-5)
        assert found.labels is data.labels and found.rings.shape == (3, 10, 4)


def test_a_model_without_an_empty_prompt_is_refused(data, tmp_path):
    model = load_model(save_tiny_dit(tmp_path / "dit", labels=data.classnames), device="cpu")
    with pytest.raises(ValueError, match="class must be one of .*, got ''"):
        e13.measure(model, data, TIMESTEPS, desc=None)


def test_rings_are_counted_from_the_border():
    numbers = e13.ring_numbers(8, 8)
    assert np.bincount(numbers.ravel()).tolist() == [28, 20, 12, 4] and numbers[3, 4] == 3 and numbers[2, 7] == 0
    assert np.bincount(e13.ring_numbers(3, 5).ravel()).tolist() == [12, 3]


def test_noises_have_the_distributions_of_their_names():
    eps = torch.randn(400, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = {name: shape(eps) for name, shape in e13.NOISES.items()}
    assert list(made) == list(json.loads((data_dir() / "paper" / "tables.json").read_text())["table12_noise"]["rows"])
    assert made["eps = 0"].abs().max() == 0 and torch.equal(made["N(0, I)"], eps)
    for name, bound in (("TruncatedNormal [-1, 1]", 1.0), ("TruncatedNormal [-2.5, 2.5]", 2.5)):
        own = made[name].flatten().numpy()
        assert np.abs(own).max() <= bound and kstest(own[:20_000], truncnorm(-bound, bound).cdf).pvalue > 0.01
        assert (np.argsort(own[:99]) == np.argsort(eps.flatten()[:99].numpy())).all(), "the same quantiles"
    norms = made["expected norm"].flatten(1).norm(dim=1)
    assert norms.std() < 1e-4 and norms.mean() == pytest.approx(float(eps.flatten(1).norm(dim=1).mean()), rel=2e-3)
    two = e13.NOISES["expected norm"](torch.randn(1, 1, 1, 2))
    assert float(two.norm()) == pytest.approx(sqrt(np.pi / 2)), "mean of Rayleigh's distribution"


def test_noise_is_added_and_compared_with_and_shared_by_all_prompts(tiny_sd, data):
    found = e13.measure(tiny_sd, data, TIMESTEPS, seed=1, desc=None)
    field = e13.noise_field(tiny_sd, data, found, 2, 5, seed=1)
    assert list(field.chosen) == list(e13.NOISES) and len(field.labels) == 2
    plain = found.errors[:2].mean(axis=2).argmin(axis=1)
    assert (field.chosen["N(0, I)"] == plain).all()
    cond, schedule, chosen = tiny_sd.encode_prompts(data.prompts_for(tiny_sd)), tiny_sd.schedule, []
    for image in load_images(data.images)[:2]:  # eps = 0: the network sees alpha_t x0, and its error is its output
        x0, total = tiny_sd.encode_images(to_pixels(image, 32)[None]), 0
        for t in torch.tensor(TIMESTEPS):
            x_t = (schedule.alpha[t].float() * x0).expand(10, -1, -1, -1)
            total = total + tiny_sd.denoise(x_t, t.expand(10), cond).square().mean(dim=(1, 2, 3))
        chosen.append(int(total.argmin()))
    assert field.chosen["eps = 0"].tolist() == chosen


@pytest.mark.parametrize(("variance", "noise"), [(0.3, 1.0), (2.0, 1.0), (0.3, 0.0), (2.0, 0.25)])
def test_the_error_of_one_gaussian_is_that_of_the_exact_model(variance, noise):
    model = GaussianMixtureModel(means=[[1.0], [-2.0]], variances=[variance, 1.0])
    x0, cond = 0.4, model.encode_prompts([0])
    eps = sqrt(noise) * torch.tensor([-1.0, 1.0])  # has the mean 0 and the variance of the noise
    for t in (50, 300, 700):
        step = torch.tensor([t, t])
        x_t = model.schedule.add_noise(torch.full((2, 1, 1, 1), x0), eps.view(2, 1, 1, 1), step)
        x_t = x_t.view(2, *model.latent_shape)
        eps_hat = model.schedule.predict_eps(model.denoise(x_t, step, cond[[0, 0]]), x_t, step)
        direct = float((eps_hat.flatten() - eps).square().mean())
        alpha2 = float(model.schedule.alpha[t] ** 2)
        assert e13.gaussian_errors(alpha2, x0 - 1.0, variance, noise) == pytest.approx(direct, rel=1e-4)


def products(errors, labels=None):
    """Return products with given errors, no differences to the empty prompt, and two rings of equal error."""
    n, k, _ = errors.shape
    rings = errors.mean(axis=2)[..., None] * np.array([12, 4])
    labels = np.zeros(n, dtype=int) if labels is None else labels
    none = np.zeros_like(errors)
    return e13.Products(errors, none[:, 0], none, none, rings, np.array([12, 4]), labels, np.arange(n))


def test_answers_by_hand():
    #                   trial 0    1    2
    errors = np.array([[[1.0, 1.0, 9.0], [2.0, 2.0, 1.0], [3.0, 3.0, 2.0]]])
    found = products(errors)
    field = e13.answers(found, {"first": np.array([1, 0, 0]), "last": np.array([0, 0, 1])}, GRID)
    chosen = {name: int(own[0]) for name, own in field.chosen.items()}
    assert chosen[e13.PLAIN] == 1 and chosen["majority vote"] == 0 and chosen["centred median"] == 0
    assert (chosen["first"], chosen["last"]) == (0, 1)
    assert chosen["mean rank"] == 1, "the mean rank of both is 5/3: the mean error decides"
    assert chosen["crop by 0"] == chosen["crop by 1"] == 1 and e13.guidance_name(-1) not in chosen
    tie = e13.answers(products(np.array([[[1.0, 8.0], [2.0, 2.0]]])), {}, [])
    assert tie.chosen["majority vote"] == 1, "one vote each: the mean error decides"


def test_weights_by_hand():
    schedule = NoiseSchedule.linear()
    snr = (schedule.alpha / schedule.sigma).square()
    weights = e13.clark_jaini(schedule, [100, 900])
    assert weights == pytest.approx([np.exp(-0.7) / float(snr[100]), np.exp(-6.3) / float(snr[900])])
    errors = np.array([[[0.0, 5.0], [2.0, 5.0 + 4.0]], [[1.0, 0.0], [1.0 + 4.0, 2.0]]])  # variances 1, 4; 4, 1
    assert e13.variance_weights(errors) == pytest.approx([1 / 2.5, 1 / 2.5])


def test_the_vertex_is_that_of_the_right_class():
    along, size = np.zeros((9, 2, 1)), np.ones((9, 2, 1))
    along[:, 1] = -1.5  # 2 s (-1.5) + s^2 is smallest at s = 1.5, w = 0.5
    made = products(np.ones((9, 2, 1)), np.ones(9, dtype=int))
    found = e13.Products(**vars(made) | {"along": along, "size": size})
    assert tuple(e13.vertex(found)) == pytest.approx((0.5, 0.5, 0.5))
    assert e13.vertex(found, right=False).value == -1
    curves = e13.parabolas(found, [-1.0, 0.5])
    assert [e.value for e in curves["right class"][1]] == pytest.approx([0, 1.5 * (1.5 - 3)])
    assert tuple(curves["right class"][1][0]) == (0, 0, 0)
    assert [e.value for e in curves["wrong classes"][1]] == pytest.approx([0, 1.5**2])


def test_the_share_of_wrong_answers_that_are_nearer_to_the_empty_prompt():
    size = np.array([3.0, 1.0, 5.0])[None, :, None].repeat(4, axis=0)
    found = e13.Products(**vars(products(np.ones((4, 3, 1)))) | {"size": size})
    field = Field(found.labels, found.groups, {"a": np.array([0, 1, 1, 2]), "b": np.zeros(4, dtype=int)})
    assert e13.nearer_share(found, field, "a") == (2, 3) and e13.nearer_share(found, field, "b") == (0, 0)


def answered(rights, n=20):
    """Return answers; rights: name -> number of the first images that are classified correctly."""
    chosen = {name: (np.arange(n) >= number).astype(int) for name, number in rights.items()}
    return Field(np.zeros(n, dtype=int), np.arange(n), chosen)


def test_w_is_chosen_on_tune_images_and_the_nearest_to_0_in_a_tie():
    names = {e13.guidance_name(w): n for w, n in {-2.0: 3, -0.5: 9, 0.0: 8, 0.25: 9, 1.0: 2}.items()}
    assert e13.chosen_on_tune(answered(names), GRID) == 0.25


def test_contrasts_and_tries_have_the_sign_of_their_method():
    rights = {e13.PLAIN: 100, "guidance, w = -0.5": 90, "guidance, w = 0.25": 80, "guidance, w = 1": 20}
    rights |= {"guidance, w = 0": 100, "crop by 1": 90, "crop by 2": 80, "crop by 3": 50, e13.CLARK_JAINI: 140}
    noises = dict(zip(e13.NOISES, (1, 2, 3, 4, 4), strict=True))
    test, noises = answered(rights, 200), answered(noises, 8)
    found = e13.contrasts(test, noises, 0.25, 8, 0.99)
    assert {claim: e.value for claim, e in found.items()} == pytest.approx({
        "guidance-hurts": -40, "little-guidance-hurts": -10, "less-than-conditional-hurts": -5,
        "tuned-guidance-gains-nothing": -10, "crop-hurts": -25, "no-noise-hurts": -37.5, "narrow-noise-hurts": -25,
        "cut-noise-hurts": -12.5, "norm-changes-nothing": 0, "weights-hurt": 20,
    })  # fmt: skip
    assert {e.level for e in found.values()} == {0.99}
    rows = e13.tried(test, noises, 0.25, 8)
    assert list(rows.values()) == sorted(rows.values(), key=lambda e: e.value) and len(rows) == 12
    level = 1 - 0.05 / 12
    expected = 100 * paired_difference(test.right("crop by 3"), test.right(e13.PLAIN), test.groups, level=level)
    assert rows["crop by 3"] == expected and rows["guidance, w = 0.25, chosen on tune"].value == -10
    better, worse, apart = e13.reading(rows)
    assert better == f"More accurate than the plain classifier (1 of 12): {e13.CLARK_JAINI}."
    assert worse.startswith("Less accurate (") and "guidance, w = 1;" in worse and "norm" in apart


def test_rows_of_noises_name_the_most_frequent_answer():
    noises = answered(dict(zip(e13.NOISES, (2, 4, 8, 8, 8), strict=True)), 8)
    paper = dict(zip(e13.NOISES, (41.3, 49.9, 81.5, 86.9, 87.5), strict=True))
    rows = e13.noise_rows(noises, paper, ["bag", "boot"])
    first = rows["eps = 0"]
    assert first["most frequent answer"] == "boot, 75%" and first["true share, %"] == 0
    assert first["paper, minus N(0, I)"] == -46.2 and first["minus N(0, I)"].value == -75
    assert rows["N(0, I)"]["minus N(0, I)"] is None


def test_rows_of_classes_begin_with_the_widest():
    errors = np.array([[1.0, 9.0, 9.0], [3.0, 9.0, 9.0], [9.0, 4.0, 9.0], [9.0, 9.0, 9.0]])[:, :, None]
    found = products(errors, np.array([0, 0, 1, 1]))
    chosen = {name: np.array([0, 1, 1]) for name in e13.NOISES} | {"eps = 0": np.array([1, 1, 1])}
    rows = e13.width_rows(found, Field(np.array([0, 0, 1]), np.arange(3), chosen), ["bag", "boot", "coat"])
    assert list(rows) == ["boot", "bag", "coat"] and np.isnan(rows["coat"].pop("its error"))
    assert list(rows["boot"].values()) == [4, 1, 2, 3] and list(rows["bag"].values()) == [2, 2, 1, 0]
    assert list(rows["coat"].values()) == [0, 0, 0]


def test_curves_leave_out_what_was_not_measured():
    test = answered({e13.guidance_name(w): 5 for w in GRID if w != -1} | {e13.crop_name(0): 5, e13.crop_name(1): 10})
    assert e13.guidance_curve(test, GRID)[0] == [-2.0, -0.5, 0.0, 0.25, 1.0]
    shares, estimates = e13.crop_curve(test, 8)
    assert shares == [0, 1 / 8] and [e.value for e in estimates] == [25, 50]


def test_evaluations_are_what_an_empty_bank_computes(tiny_sd, data, monkeypatch):
    settings = {"n_images": 3, "n_classes": 10, "n_tune": 2, "n_trials": 5, "n_noise": 9}
    counted, denoise = [0], tiny_sd.denoise

    def count(x_t, t, cond):
        counted[0] += len(x_t)
        return denoise(x_t, t, cond)

    monkeypatch.setattr(tiny_sd, "denoise", count)
    e13.measure(tiny_sd, load_dataset("mini-items", "tune", 2), TIMESTEPS, desc=None)
    found = e13.measure(tiny_sd, data, TIMESTEPS, desc=None)
    e13.noise_field(tiny_sd, data, found, 9, 5)
    assert e13.evaluations(settings) == counted[0] == 5 * (11 * 5 + 4 * 10 * 3)


THREE = [Estimate(50, 40, 55), Estimate(60, 50, 70), Estimate(80, 75, 90)]


def test_guidance_has_a_gap_at_minus_1_and_the_papers_points():
    ws = [-2.0, -0.5, 0.0, 0.5, 1.0, 2.0]
    accuracy, paper = (ws, THREE * 2), [[w, 40 - w] for w in ws]
    errors = {"right class": ([-1.0, 0.0, 3.0], THREE), "wrong classes": ([-1.0, 0.0, 3.0], THREE)}
    drawn = accuracy, paper, errors, Estimate(0.1, 0.0, 0.2), 10.0
    fig = nb13.guidance_panels(*drawn)
    left, right = fig.axes
    theirs, ours = left.lines[:2]
    assert theirs.get_color() == PAPER and theirs.get_ydata().tolist() == [y for _, y in paper]
    assert np.isnan(ours.get_ydata()[list(ours.get_xdata()).index(-1.0)]) and len(ours.get_xdata()) == 7
    assert right.lines[0].get_xdata().tolist() == [-1, 0] and right.lines[3].get_xdata()[0] == 0.1
    said = nb13.guidance_panels_alt(*drawn)
    assert "80.0 at w = 0 (paper 40.0)" in said and "highest at w = 0, in the paper at -2" in said
    assert "smallest at w = 0.10 [0.00, 0.20]" in said
    fig.draw_without_rendering()


def test_crops_are_drawn_by_the_share_of_the_side():
    run, paper = ([0, 0.125, 0.25], THREE), [[0, 85.6], [8, 83.7], [9, 82.8]]
    (ax,) = nb13.crop_lines(run, paper, 8).axes
    assert ax.lines[0].get_xdata().tolist() == [0, 8 / 64, 9 / 64] and ax.lines[0].get_color() == PAPER
    assert "0.125: 60.0 [50.0, 70.0] (paper 83.7); 0.25: 80.0 [75.0, 90.0]." in nb13.crop_lines_alt(run, paper, 8)


def test_noises_and_tries_have_a_row_each():
    run, paper = dict(zip("abc", THREE, strict=True)), {"a": 41.3, "b": 1, "c": 2, "d": 3}
    (ax,) = nb13.noise_points(run, paper).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    points = {line.get_color(): line.get_xdata().tolist() for line in ax.lines if line.get_marker() in "os"}
    assert points == {PALETTE[0]: [50, 60, 80], PAPER: [41.3, 1, 2]}
    assert "a: 50.0 [40.0, 55.0] (paper 41.3)" in nb13.noise_points_alt(run, paper)
    rows = {"worse": Estimate(-5, -9, -1, 0.99), "even": Estimate(0, -2, 2, 0.99), "better": Estimate(3, 1, 5, 0.99)}
    (ax,) = nb13.tried_points(rows).axes
    assert [line.get_color() for line in ax.lines if line.get_marker() == "o"] == [PALETTE[1], PALETTE[7], PALETTE[2]]
    assert "99.00%" in ax.get_xlabel() and nb13.tried_points_alt(rows).endswith("better 3.0 [1.0, 5.0].")
