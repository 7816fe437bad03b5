"""The perfect denoiser of bumps on a line, against quadrature and its limits; one step of a model, likewise."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffclf.workbook.bumps import exact_eps, running_accuracy, single_trial_accuracy
from diffclf.workbook.onestep import one_step, pictures


@pytest.mark.parametrize("alpha_bar_t", [0.999, 0.5, 0.01])
def test_exact_eps_is_the_posterior_mean_by_quadrature(alpha_bar_t):
    bumps, width = [-1.0, 0.3, 2.0], 0.4
    grid = np.linspace(-6, 6, 60_001)
    prior = sum(norm.pdf(grid, m, width) for m in bumps)
    for x_t in (-1.2, 0.0, 0.7):
        density = prior * norm.pdf(x_t, np.sqrt(alpha_bar_t) * grid, np.sqrt(1 - alpha_bar_t))
        eps = (x_t - np.sqrt(alpha_bar_t) * grid) / np.sqrt(1 - alpha_bar_t)
        expected = (density * eps).sum() / density.sum()
        assert exact_eps(np.array([x_t]), alpha_bar_t, bumps, width)[0] == pytest.approx(expected, abs=1e-6)


def test_without_signal_it_is_the_nearest_mean_whatever_the_noise():
    classes = [[-3.0, -2.0, 1.0], [-1.0, 2.0, 3.0]]  # means -4/3 and 4/3: two bumps of three lie on the right side
    (far,) = single_trial_accuracy(classes, 0.01, [1e-8], n_points=3000)
    assert far.low < 2 / 3 < far.high
    rng = np.random.default_rng(0)
    x0, eps = rng.uniform(-3, 3, 500), rng.standard_normal(500)
    x_t = 1e-4 * x0 + np.sqrt(1 - 1e-8) * eps
    errors = np.array([(exact_eps(x_t, 1e-8, bumps, 0.01) - eps) ** 2 for bumps in classes])
    clear = np.abs(x0) > 0.01
    assert ((errors.argmin(axis=0) == (x0 > 0))[clear]).all()


def test_without_noise_it_is_a_coin_and_between_the_ends_it_is_sure():
    classes = [[-3.0, -2.0, 1.0], [-1.0, 2.0, 3.0]]
    near, middle = single_trial_accuracy(classes, 0.1, [1 - 1e-6, 0.8], n_points=3000)
    assert near.low < 0.5 < near.high
    assert middle.value > 0.9


def test_more_trials_average_the_noise_away_up_to_what_the_timestep_can_tell():
    # Two single bumps one apart: the optimum is Phi(0.5 / width); at a low noise level one trial is far from it.
    running = running_accuracy([[-0.5], [0.5]], 0.5, [0.9] * 200, n_points=3000)
    assert len(running) == 200
    assert running[0].high < running[-1].low
    assert running[-1].low < norm.cdf(1.0) < running[-1].high
    # Repeats at the end of the range stay at the nearest mean, a mixture of levels goes beyond it.
    classes = [[-3.0, -2.0, 1.0], [-1.0, 2.0, 3.0]]
    ends = running_accuracy(classes, 0.1, [1e-6] * 20)[-1]
    mixed = running_accuracy(classes, 0.1, [1e-6, 0.8] * 10)[-1]
    assert ends.low < 2 / 3 < ends.high < mixed.low


class Knows:
    """A stand-in whose network returns eps, or v, of an x0 that it takes from the conditioning."""

    device, dtype = torch.device("cpu"), torch.float32
    alphas_cumprod = torch.linspace(0.99, 0.05, 10, dtype=torch.float64)

    def __init__(self, prediction_type):
        self.prediction_type = prediction_type

    def denoise(self, x_t, t, cond):
        alpha_bar = self.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        eps = (x_t - alpha_bar.sqrt() * cond) / (1 - alpha_bar).sqrt()
        if self.prediction_type == "epsilon":
            return eps
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * cond


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_one_step_returns_the_x0_that_the_model_believes_in(prediction_type):
    generator = torch.Generator().manual_seed(0)
    x0, eps, other = torch.randn(3, 4, 2, 2, generator=generator).split(1)
    x_t, x0_hat = one_step(Knows(prediction_type), x0, eps, [0, 4, 9], torch.cat([x0, other]))
    assert x_t.shape == (3, 4, 2, 2) and x0_hat.shape == (2, 3, 4, 2, 2)
    assert torch.allclose(x_t[2], 0.05**0.5 * x0[0] + 0.95**0.5 * eps[0], atol=1e-6)
    assert torch.allclose(x0_hat[0], x0.expand(3, -1, -1, -1), atol=1e-4)
    assert torch.allclose(x0_hat[1], other.expand(3, -1, -1, -1), atol=1e-4)


def test_pictures():
    shown = pictures(torch.tensor([[-1.0, 0.0, 3.0]]).view(1, 3, 1, 1))
    assert shown.shape == (1, 1, 1, 3) and shown.flatten().tolist() == [0, 0.5, 1]
