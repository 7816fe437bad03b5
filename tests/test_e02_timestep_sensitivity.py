"""The line with its perfect denoiser, against what is known of its limits; one step of a model, likewise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from scipy.stats import norm
from torch.nn.functional import avg_pool2d

from diffclf.datasets import ImageSet
from diffclf.experiments.accuracy import accuracies, correct_by_budget, correct_by_trial
from diffclf.experiments.e02_timestep_sensitivity import (
    SingleTrials,
    class_means,
    evaluations,
    figure3_curves,
    figure3_rows,
    guesses,
    half_errors,
    half_gaps,
    half_panels,
    latents,
    line_errors,
    line_world,
    log_snr,
    nearest_mean,
    paper_schedule,
    predict_clean,
)
from diffclf.images import to_pixels
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.schedule import NoiseSchedule
from diffclf.trials import Trials, image_key

# Class means -4/3 and 4/3: two bumps of three lie on the right side.
CLASSES = [[-3.0, -2.0, 1.0], [-1.0, 2.0, 3.0]]


def schedule(*alpha_bars):
    return NoiseSchedule.variance_preserving(torch.tensor(alpha_bars, dtype=torch.float64))


def test_errors_are_those_of_the_posterior_mean_by_quadrature():
    world, t = line_world(schedule(0.999, 0.5, 0.01), [[-1.0, 0.3, 2.0], [0.0, 1.0, 5.0]], 0.4), [0, 1, 2]
    errors, label = line_errors(world, t, n_points=5, one_noise=True, seed=3)
    rng = np.random.default_rng(3)
    assert (rng.integers(2, size=5) == label).all()
    bump = rng.integers(3, size=5)
    x0, eps = rng.normal(world.means.numpy().reshape(2, 3)[label, bump], 0.4), rng.standard_normal(5)
    grid = np.linspace(-8, 12, 100_001)
    for c, bumps in enumerate(world.means.numpy().reshape(2, 3)):
        prior = sum(norm.pdf(grid, m, 0.4) for m in bumps)
        for i in t:
            alpha, sigma = float(world.schedule.alpha[i]), float(world.schedule.sigma[i])
            for point in range(5):
                x_t = alpha * x0[point] + sigma * eps[point]
                density = prior * norm.pdf(x_t, alpha * grid, sigma)
                eps_hat = (density * (x_t - alpha * grid) / sigma).sum() / density.sum()
                assert errors[point, c, i] == pytest.approx((eps_hat - eps[point]) ** 2, abs=1e-6)


def test_a_guess_without_noise_sure_in_between_and_the_nearest_mean_without_signal():
    world = line_world(schedule(1 - 1e-6, 0.8, 1e-8), CLASSES, 0.1)
    near, middle, far = accuracies(correct_by_trial(*line_errors(world, range(3), n_points=3000, one_noise=True)))
    assert near.low < 0.5 < near.high
    assert middle.value > 0.9
    assert far.low < 2 / 3 < far.high


def test_more_trials_average_the_noise_away_up_to_what_the_timestep_can_tell():
    # Two single bumps one apart: the optimum is Phi(0.5 / width); at a low noise level one trial is far from it.
    world = line_world(schedule(0.9), [[-0.5], [0.5]], 0.5)
    errors = line_errors(world, [0] * 200, n_points=3000, one_noise=False)
    first, last = accuracies(correct_by_budget(*errors, [1, 200]))
    assert first.high < last.low < norm.cdf(1.0) < last.high


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_one_step_returns_the_x0_that_the_model_believes_in(prediction_type):
    """A class of no width is a certain x0; whatever is asked for, the model believes in it."""
    alpha_bars = torch.linspace(0.99, 0.05, 10, dtype=torch.float64)
    x0, eps, other = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).split(1)
    means, known = torch.cat([x0, other]), NoiseSchedule.variance_preserving(alpha_bars, prediction_type)
    model = GaussianMixtureModel(means.flatten(1), [1e-12] * 2, latent_shape=(4, 2, 2), schedule=known)
    x_t, x0_hat = predict_clean(model, x0, eps, [0, 4, 9], model.encode_prompts([0, 1]))
    assert x_t.shape == (3, 4, 2, 2) and x0_hat.shape == (2, 3, 4, 2, 2)
    assert torch.allclose(x_t[2], 0.05**0.5 * x0[0] + 0.95**0.5 * eps[0], atol=1e-6)
    assert torch.allclose(x0_hat, means[:, None].expand(-1, 3, -1, -1, -1), atol=1e-4)


def test_the_papers_schedule_is_that_of_diffusers():
    theirs = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs = theirs.alphas_cumprod.numpy()
    assert np.allclose(log_snr(paper_schedule()), np.log10(theirs / (1 - theirs)), atol=1e-4)


# Two images of class 0, one of class 1; two prompts; trials at t = 10, 40 (both in the first twentieth), 500 and 990.
RIGHT = np.array([[1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 1]], dtype=bool)
LABELS = np.array([0, 0, 1])


def run(right=RIGHT, t=(10, 40, 500, 990)):
    """A trial has the error 0.2 for the prompt that it chooses and 0.4 for the other one."""
    chosen = np.where(right, LABELS[:, None], 1 - LABELS[:, None])
    errors = np.where(np.arange(2)[None, :, None] == chosen[:, None], 0.2, 0.4)
    return SingleTrials(errors, LABELS, np.arange(3), np.array(t))


def test_trials_of_a_twentieth_of_the_range_are_averaged():
    assert (run().correct == RIGHT).all() and run().centres.tolist() == [25, 500, 990]
    assert run().shares(RIGHT).tolist() == [[0.5, 1, 0], [1, 1, 0], [0, 1, 1]]
    assert [e.value for e in run().accuracy()] == pytest.approx([50, 100, 100 / 3])
    assert run().peak().value == 500 and run().peak(~RIGHT).value == 990
    assert run().window(0, 0.1).tolist() == [0.5, 1, 0] and run().window(0.9, 1).tolist() == [0, 0, 1]


def test_choices_agree_by_the_shares_of_the_classes_if_the_image_does_not_matter():
    (name, first), (other, _) = run().choices(n=2).items()
    assert (name, other) == ("t = 10 to 40", "t = 40 to 500")
    # They choose 0 and 1, 0 and 0, 0 and 0; in a tie the first prompt wins.
    assert first["one trial"].value == 50 and first["mean of 2 trials"].value == pytest.approx(200 / 3)
    assert first["two trials alike"].value == pytest.approx(200 / 3)
    assert first["alike, without the image"] == pytest.approx(100 * (25 + 1) / 36)
    assert first["noise recognised"].value == pytest.approx(70)
    biased = replace(run(np.ones((3, 4), dtype=bool)), errors=run(np.ones((3, 4), dtype=bool)).errors - [[[1], [0]]])
    found = biased.choices(n=2)["t = 10 to 40"]
    assert found["one trial"].value == pytest.approx(200 / 3) and found["one trial, no biases"].value == 100


def test_the_right_prompt_meets_the_nearest_and_the_farthest_class():
    errors, means = np.array([[[0.2], [0.1], [0.3]], [[0.5], [0.1], [0.4]]]), np.array([[0.0], [1.0], [5.0]])
    pairs = SingleTrials(errors, np.array([0, 2]), np.arange(2), np.array([0])).pairs(means)
    assert {name: ahead.tolist() for name, ahead in pairs.items()} == {
        "nearest class": [[False], [False]],
        "farthest class": [[True], [True]],
    }
    ahead = {"nearest": np.array([[1, 1, 1, 0]] * 3), "farthest": np.ones((3, 4))}
    assert run().earlier(ahead, [4, 0, -3]).value == 3


def test_figure_3_scales_both_curves_to_their_peaks():
    paper, snr = [[0, 7.6], [500, 46.5], [999, 13.2]], np.linspace(4, -4, 1000)
    dots, curve, _, (x, above), theirs, levels = figure3_curves(run(), paper, [3, 0, -3], snr)
    assert dots[1] == pytest.approx([200 / 3, 100 / 3, 100, 100 / 3]) and curve[1] == run().accuracy()
    assert x == [3, 0, -3] and [e.value for e in above] == pytest.approx([0, 1, -1 / 3])
    chance = levels["chance, Pets"]
    assert np.allclose(theirs[:, 1], [(7.6 - chance) / (46.5 - chance), 1, (13.2 - chance) / (46.5 - chance)])
    rows, places = figure3_rows(run(), paper, snr, snr / 2)
    assert rows["peak at t"]["this run"].value == rows["peak at t"]["paper, Pets"] == 500
    assert places == pytest.approx([snr[500], snr[500] / 2])
    assert rows["right end, points"]["this run"].value == pytest.approx(100 / 3)


def test_halves_are_judged_alone_and_compared():
    halves, x = np.stack([run().errors, run(~RIGHT).errors]), [3, 2, 1, 0]
    decided, known = half_panels(halves, LABELS, np.arange(3), x).values()
    assert [e.value for e in decided["flat half"][1]] == pytest.approx([200 / 3, 100 / 3, 100, 100 / 3])
    assert [e.value for e in known["flat half"][1]] == pytest.approx([220 / 3, 200 / 3, 80, 200 / 3])
    gaps = half_gaps(halves, LABELS, np.arange(3))
    assert [e.value for e in gaps] == pytest.approx([100 / 3, -100 / 3, 100, -100 / 3])


class Blind(GaussianMixtureModel):
    """Predicts no noise at all; a latent is the mean colour of a quarter of a picture of 4 x 4 pixels."""

    def encode_images(self, pixels):
        return avg_pool2d(pixels, 2).double()

    def denoise(self, x_t, t, cond):
        return torch.zeros_like(x_t)


def test_who_predicts_no_noise_has_the_noises_own_error_in_both_halves():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, :2] = [[[255] * 3, [0] * 3]] * 2  # one quarter is detailed, three are flat
    images = SimpleNamespace(images=[Image.fromarray(picture)], prompts_for=lambda model: [0, 1])
    model = Blind(np.zeros((2, 12)), [1, 1], latent_shape=(3, 2, 2))
    model.image_size = 4
    flat, detailed = half_errors(model, images, [0, 500], seed=1)
    key = image_key(to_pixels(images.images[0], 4))
    eps = Trials([0], 1, key, (3, 2, 2)).noise([0])[0].square().mean(0).flatten()
    assert np.allclose(flat, float(eps[1:].mean()), rtol=1e-4) and flat.shape == (1, 2, 2)
    assert np.allclose(detailed, float(eps[0]), rtol=1e-4)


def test_a_model_that_is_sure_of_a_class_guesses_its_picture_and_its_colour_from_any_noise():
    red, blue = (np.full((2, 2, 3), colour, dtype=np.uint8) for colour in ([255, 0, 0], [0, 0, 255]))
    pictures = [Image.fromarray(picture) for picture in (red, blue)]
    means = np.stack([to_pixels(picture, 2).flatten().numpy() for picture in pictures])
    prompts = {"0": 0, "1": 1}
    images = ImageSet("two", pictures, np.array([0, 1]), ("0", "1"), prompts, np.arange(2))
    model = GaussianMixtureModel(means, [1e-12] * 2, latent_shape=(3, 2, 2))
    model.decode_latents = lambda pixels: pixels
    rows, table = guesses(model, images, [0, 999])
    assert list(rows) == ["noised", 'guess,\n"0"', 'guess,\n"1"'] and rows["noised"].shape == (2, 3, 2, 2)
    assert np.allclose(table["gap"], 8 / 3, atol=1e-4) and np.allclose(table["miss, right"], 0, atol=1e-6)
    assert np.allclose(table["colour alike"], 1) and (table["other colour, noises"] == 0).all()
    assert np.allclose(class_means(model, images), means) and np.allclose(latents(model, images), means)
    assert nearest_mean(means, means[::-1], np.array([1, 0]), np.arange(2)).value == 100


def test_evaluations_by_hand():
    assert evaluations({"n_classes": 10, "n_trials": 100, "n_images": 140}) == 10 * 106 * 140 + 9 * 21
