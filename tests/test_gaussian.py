"""The exact model is exact: against scipy, against plain quadrature in one dimension, and against Bayes' rule.

Everything holds for any noise schedule and any target of the network.
"""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from diffclf.models.gaussian import GaussianMixtureModel, expected_errors, variational_weights
from diffclf.schedule import NoiseSchedule

COVARIANCE = [[[0.5, 0.2], [0.2, 0.3]], [[0.4, 0.0], [0.0, 0.9]], [[0.3, -0.1], [-0.1, 0.2]]]
MEANS = [[0.0, 0.5], [-1.5, 0.0], [2.0, -1.0]]
SIGMA = torch.sigmoid(torch.linspace(-5, 5, 1000, dtype=torch.float64))  # evenly spaced in log-SNR
SCHEDULES = {
    "epsilon": NoiseSchedule.linear(),
    "v": NoiseSchedule.linear(prediction_type="v_prediction"),
    "flow": NoiseSchedule.flow(SIGMA),
    "exploding": NoiseSchedule(torch.ones(1000).double(), SIGMA / (1 - SIGMA), "v_prediction"),
}
VARIANCE_PRESERVING_AND_FLOW = [SCHEDULES["epsilon"], SCHEDULES["flow"]]


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def schedule(request):
    return request.param


@pytest.fixture
def model(schedule):
    return GaussianMixtureModel(MEANS, COVARIANCE, classes=[0, 1, 1], labels=("one", "two"), schedule=schedule)


@pytest.fixture
def x0():
    return torch.tensor([[0.3, -0.4], [-1.0, 0.8], [2.5, 0.1]])


def test_density_and_posterior_equal_scipys(x0):
    model = GaussianMixtureModel(MEANS, COVARIANCE, classes=[0, 1, 1])
    parts = [multivariate_normal(m, c).pdf(x0.numpy()) for m, c in zip(MEANS, COVARIANCE, strict=True)]
    density = np.stack([parts[0], (parts[1] + parts[2]) / 2], axis=1)
    assert np.allclose(model.log_density(x0), np.log(density))
    assert np.allclose(model.posterior(x0), density / density.sum(1, keepdims=True))


@pytest.mark.parametrize("t", [0, 5, 300, 999])
def test_prediction_is_the_mean_of_eps_given_x_t(schedule, t):
    """E[eps | x_t, c] by summing over a fine grid of x0 in one dimension; eps follows from x0 and x_t."""
    model = GaussianMixtureModel([[-1.0], [0.5], [2.0]], [0.3, 0.5, 0.1], classes=[0, 1, 1], schedule=schedule)
    x_t = torch.tensor([-0.7, 0.2, 1.9], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    eps = (x_t[:, None] - schedule.alpha[t] * grid) / schedule.sigma[t]
    for c in range(2):
        log_weight = model.log_density(grid[:, None])[:, c] - eps.square() / 2
        expected = (log_weight.softmax(1) * eps).sum(1)
        points, every_t = x_t.view(3, 1, 1, 1), torch.full((3,), t)
        output = model.denoise(points, every_t, model.encode_prompts([c] * 3))
        assert torch.allclose(schedule.predict_eps(output, points, every_t).flatten(), expected, atol=1e-6)


def test_expected_errors_of_single_gaussians_are_the_closed_form(schedule, x0):
    """sum_j (1 - g_j sigma)^2 + g_j^2 alpha^2 d_j^2 with g_j = sigma / (alpha^2 v_j + sigma^2)."""
    variances = torch.tensor([[0.5, 0.2], [1.0, 0.1]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.5], [-1.5, 0.0]], dtype=torch.float64)
    model = GaussianMixtureModel(means, torch.diag_embed(variances), schedule=schedule)
    for t in (3, 400, 999):
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        gain = sigma / (alpha**2 * variances + sigma**2)
        d = x0.double()[:, None] - means
        expected = ((1 - gain * sigma) ** 2 + (gain * alpha * d) ** 2).mean(2)
        assert torch.allclose(expected_errors(model, x0, [t])[:, :, 0], expected, rtol=1e-9)


def test_weighted_errors_are_the_log_density(model, x0):
    """With the bound's weights the sum over t is -log p(x0 | c) plus one constant; with twice them it is not."""
    squared = 2 * expected_errors(model, x0, np.arange(1000), n_nodes=10)
    weights = variational_weights(model.schedule)
    density = model.log_density(x0)
    constant = (squared * weights).sum(2) + density
    assert (constant - constant.mean()).abs().max() < 0.05
    doubled = (squared * 2 * weights).sum(2) + density
    assert (doubled - doubled.mean()).abs().max() > 0.2


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING_AND_FLOW, ids=["linear", "flow"])
def test_equal_weights_decide_as_bayes_between_round_classes_of_one_width(schedule):
    """Eq. 4: the mean expected error over evenly spaced timesteps is least for the most probable class."""
    model = GaussianMixtureModel(MEANS, [0.4] * 3, schedule=schedule)
    x0, _ = model.sample(300, torch.Generator().manual_seed(2))
    errors = expected_errors(model, x0, np.arange(5, 1000, 50), n_nodes=3).mean(2)
    assert torch.equal(errors.argmin(1), model.posterior(x0).argmax(1))


def test_samples_have_the_means_and_covariances_of_their_classes():
    model = GaussianMixtureModel(MEANS, COVARIANCE)
    x0, classes = model.sample(60_000, torch.Generator().manual_seed(1))
    assert x0.shape == (60_000, 2, 1, 1) and x0.dtype == torch.float32
    for c in range(3):
        drawn = x0[classes == c].flatten(1).double().numpy()
        assert len(drawn) == pytest.approx(20_000, rel=0.03)
        assert np.allclose(drawn.mean(0), MEANS[c], atol=0.03)
        assert np.allclose(np.cov(drawn.T), COVARIANCE[c], atol=0.03)


def test_images_are_coordinates(gaussian):
    pixels = torch.tensor([0.25, -0.5, 1.0]).view(1, 3, 1, 1)
    assert gaussian.encode_images(pixels).flatten().tolist() == [0.25, -0.5]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.0, 1.0], [1.0, 1.0]), {}, "means must have shape"),
        (([[0.0], [1.0]], [1.0]), {}, r"and variances \(n,\) or \(n, D, D\), got \(2, 1\) and \(1,\)"),
        (([[0.0], [1.0]], [1.0, 0.0]), {}, "variances must be positive"),
        (([[0.0], [1.0]], [1.0, 1.0]), {"classes": [0, 2]}, "classes must name one of"),
        (([[0.0], [1.0]], [1.0, 1.0]), {"labels": ("a",)}, "must fit 2 classes in 1 dimensions"),
        (([[0.0], [1.0]], [1.0, 1.0]), {"latent_shape": (2, 1, 1)}, "must fit 2 classes in 1 dimensions"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureModel(*arguments, **options)


def test_too_many_noises_are_refused(gaussian):
    with pytest.raises(ValueError, match=r"n_nodes\^D must be at most a million, got 2000\^2"):
        expected_errors(gaussian, torch.zeros(1, 2), [5], n_nodes=2000)
