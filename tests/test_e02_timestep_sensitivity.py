"""The line with its perfect denoiser, against what is known of its limits; one step of a model, likewise."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffclf.experiments.accuracy import accuracies, correct_by_budget, correct_by_trial
from diffclf.experiments.e02_timestep_sensitivity import evaluations, line_errors, line_world, predict_clean
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.schedule import NoiseSchedule

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


def test_a_coin_without_noise_sure_in_between_and_the_nearest_mean_without_signal():
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


def test_evaluations_by_hand():
    assert evaluations({"n_classes": 10, "n_trials": 100, "n_images": 140}) == 140_000
