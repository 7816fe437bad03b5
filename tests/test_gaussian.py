"""The exact model is exact: against scipy, against plain quadrature in one dimension, against its own definition."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from diffclf.gaussian import GaussianMixtureModel, linear_alphas_cumprod, variational_weights
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import add_noise, predict_eps

COVARIANCE = [[[0.5, 0.2], [0.2, 0.3]], [[0.4, 0.0], [0.0, 0.9]], [[0.3, -0.1], [-0.1, 0.2]]]
MEANS = [[0.0, 0.5], [-1.5, 0.0], [2.0, -1.0]]


@pytest.fixture
def model():
    return GaussianMixtureModel(MEANS, COVARIANCE, classes=[0, 1, 1], labels=("one", "two"))


@pytest.fixture
def x0():
    return torch.tensor([[0.3, -0.4], [-1.0, 0.8], [2.5, 0.1]])


def test_it_is_a_diffusion_model(model):
    assert isinstance(model, DiffusionModel)
    assert model.latent_shape == (2, 1, 1) and model.image_size == 1


def test_schedule_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    expected = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    assert torch.allclose(linear_alphas_cumprod().float(), expected, rtol=1e-5)


def test_density_and_posterior_equal_scipys(model, x0):
    parts = [multivariate_normal(m, c).pdf(x0.numpy()) for m, c in zip(MEANS, COVARIANCE, strict=True)]
    density = np.stack([parts[0], (parts[1] + parts[2]) / 2], axis=1)
    assert np.allclose(model.log_density(x0), np.log(density))
    assert np.allclose(model.posterior(x0), density / density.sum(1, keepdims=True))


@pytest.mark.parametrize("t", [0, 5, 300, 999])
def test_prediction_is_the_mean_of_eps_given_x_t(t):
    """E[eps | x_t, c] by summing over a fine grid of x0 in one dimension, from which eps follows."""
    model = GaussianMixtureModel([[-1.0], [0.5], [2.0]], [0.3, 0.5, 0.1], classes=[0, 1, 1])
    alpha_bar = model.alphas_cumprod[t]
    x_t = torch.tensor([-0.7, 0.2, 1.9], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    eps = (x_t[:, None] - alpha_bar.sqrt() * grid) / (1 - alpha_bar).sqrt()
    for c in range(2):
        log_weight = model.log_density(grid[:, None])[:, c] - eps.square() / 2
        expected = (log_weight.softmax(1) * eps).sum(1)
        got = model.denoise(x_t.view(3, 1, 1, 1), torch.full((3,), t), torch.full((3,), c))
        assert torch.allclose(got.flatten(), expected, atol=1e-7)


def test_v_prediction_gives_the_same_eps(model, x0):
    other = GaussianMixtureModel(MEANS, COVARIANCE, classes=[0, 1, 1], prediction_type="v_prediction")
    x_t, t, c = x0.view(3, 2, 1, 1).double(), torch.tensor([10, 500, 990]), torch.tensor([0, 1, 1])
    from_v = predict_eps(other.denoise(x_t, t, c), x_t, other.alphas_cumprod[t], "v_prediction")
    assert torch.allclose(from_v, model.denoise(x_t, t, c))
    assert other.fingerprint != model.fingerprint


def test_expected_errors_of_single_gaussians_are_the_closed_form(x0):
    """sum_j (1 - g_j s)^2 + g_j^2 alpha_bar d_j^2 with s^2 = 1 - alpha_bar, g_j = s / (alpha_bar v_j + s^2)."""
    variances = torch.tensor([[0.5, 0.2], [1.0, 0.1]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.5], [-1.5, 0.0]], dtype=torch.float64)
    model = GaussianMixtureModel(means, torch.diag_embed(variances))
    for t in (3, 400, 999):
        alpha_bar = model.alphas_cumprod[t]
        s = (1 - alpha_bar).sqrt()
        gain = s / (alpha_bar * variances + s**2)
        d = x0.double()[:, None] - means
        expected = ((1 - gain * s) ** 2 + gain**2 * alpha_bar * d**2).mean(2)
        assert torch.allclose(model.expected_errors(x0, [t])[:, :, 0], expected, rtol=1e-10)


def test_expected_errors_are_the_mean_over_noises(model, x0):
    eps = torch.randn(200_000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(eps),), 250)
    x_t = add_noise(x0[1].view(1, 2, 1, 1).expand_as(eps), eps, model.alphas_cumprod[t])
    for c in range(2):
        squared = (eps - model.denoise(x_t, t, torch.full_like(t, c))).square().mean((1, 2, 3))
        error = squared.std() / len(eps) ** 0.5
        assert abs(squared.mean() - model.expected_errors(x0[1:2], [250])[0, c, 0]) < 4 * error


def test_weighted_errors_are_the_log_density(model, x0):
    """With the bound's weights the sum over t is -log p(x0 | c) plus one constant; with twice them it is not."""
    timesteps = np.arange(1000)
    squared = 2 * model.expected_errors(x0, timesteps, n_nodes=10)
    weights = variational_weights(model.alphas_cumprod)
    density = model.log_density(x0)
    constant = (squared * weights).sum(2) + density
    assert (constant - constant.mean()).abs().max() < 0.05
    doubled = (squared * 2 * weights).sum(2) + density
    assert (doubled - doubled.mean()).abs().max() > 0.2


def test_samples_have_the_means_and_covariances_of_their_classes():
    model = GaussianMixtureModel(MEANS, COVARIANCE)
    x0, classes = model.sample(60_000, torch.Generator().manual_seed(1))
    assert x0.shape == (60_000, 2, 1, 1) and x0.dtype == torch.float32
    for c in range(3):
        drawn = x0[classes == c].flatten(1).double().numpy()
        assert len(drawn) == pytest.approx(20_000, rel=0.03)
        assert np.allclose(drawn.mean(0), MEANS[c], atol=0.03)
        assert np.allclose(np.cov(drawn.T), COVARIANCE[c], atol=0.03)


def test_images_are_coordinates(model):
    pixels = torch.tensor([0.25, -0.5, 1.0]).view(1, 3, 1, 1)
    assert model.encode_images(pixels).flatten().tolist() == [0.25, -0.5]
    with pytest.raises(ValueError, match=r"pixels must have shape \(n, 3, 1, 1\), got \(1, 3, 2, 2\)"):
        model.encode_images(torch.zeros(1, 3, 2, 2))


def test_classes_go_by_name_or_index(model):
    assert model.encode_prompts(["two", "one"]).tolist() == [1, 0] == model.encode_prompts([1, 0]).tolist()
    with pytest.raises(ValueError, match="class must be one of"):
        model.encode_prompts(["three"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], [1.0, 1.0]), "means must have shape"),
        (([[0.0], [1.0]], [1.0]), r"variances must have shape \(2,\) or \(2, 1, 1\), got \(1,\)"),
        (([[0.0], [1.0]], [1.0, 0.0]), "variances must be positive"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureModel(*arguments)


def test_more_settings_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="classes must name one of"):
        GaussianMixtureModel([[0.0], [1.0]], [1.0, 1.0], classes=[0, 2])
    with pytest.raises(ValueError, match="labels and latent_shape must fit 2 classes in 1 dimensions"):
        GaussianMixtureModel([[0.0], [1.0]], [1.0, 1.0], labels=("a",))
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        GaussianMixtureModel([[0.0], [1.0]], [1.0, 1.0], prediction_type="sample")
    with pytest.raises(ValueError, match=r"n_nodes\^D must be at most a million, got 2000\^2"):
        model.expected_errors(torch.zeros(1, 2), [5], n_nodes=2000)
