"""The forward process against diffusers' own, the variational terms against torch.distributions."""

import math

import diffusers
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffclf.schedule import add_noise, predict_eps, variational_terms

DDPM = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = [DDPM | {"beta_schedule": "linear"}, STABLE_DIFFUSION, {"beta_schedule": "squaredcos_cap_v2"}]
TIMESTEPS = [0, 1, 2, 17, 250, 500, 998, 999]


def normal(n, seed, *, shape=(4, 8, 8), dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scheduler(config, **more):
    return diffusers.DDPMScheduler(**config, **more)


@pytest.mark.parametrize("config", SCHEDULES)
def test_add_noise_equals_diffusers(config):
    t = torch.tensor(TIMESTEPS)
    x0, eps = normal(len(t), 0), normal(len(t), 1)
    theirs = scheduler(config)
    table = theirs.alphas_cumprod.double()
    torch.testing.assert_close(add_noise(x0, eps, table[t]), theirs.add_noise(x0, eps, t), rtol=1e-5, atol=1e-6)


def test_noised_latents_have_the_variance_of_the_forward_process():
    alpha_bar_t = torch.tensor([0.99, 0.36, 0.01], dtype=torch.float64)
    x_t = add_noise(torch.full((3, 200_000), 2.0), normal(3, 3, shape=(200_000,)), alpha_bar_t)
    torch.testing.assert_close(x_t.mean(1).double(), 2 * alpha_bar_t.sqrt(), atol=0.01, rtol=0)
    torch.testing.assert_close(x_t.var(1).double(), 1 - alpha_bar_t, atol=0.01, rtol=0)


def test_noise_is_added_in_the_precision_of_the_latents_with_coefficients_of_the_tables():
    """1 - alpha_bar at t = 0 would be off by percents if it were taken in half precision."""
    alpha_bar_t = torch.tensor([1 - 1e-4], dtype=torch.float64)
    x_t = add_noise(torch.zeros(1, 2).half(), torch.ones(1, 2).half(), alpha_bar_t)
    assert x_t.dtype == torch.float16
    assert x_t[0, 0].item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("config", SCHEDULES)
def test_a_perfect_v_prediction_gives_back_the_noise(config):
    theirs = scheduler(config, prediction_type="v_prediction")
    t = torch.tensor(TIMESTEPS)
    x0, eps = normal(len(t), 0, dtype=torch.float64), normal(len(t), 1, dtype=torch.float64)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    v, alpha_bar_t = theirs.get_velocity(x0, eps, t), theirs.alphas_cumprod[t]
    x_t = add_noise(x0, eps, alpha_bar_t)
    torch.testing.assert_close(predict_eps(v, x_t, alpha_bar_t, "v_prediction"), eps)
    assert predict_eps(v, x_t, alpha_bar_t, "epsilon") is v


def test_an_error_in_v_becomes_sqrt_alpha_bar_of_it_in_eps():
    alpha_bar_t = torch.tensor([0.25], dtype=torch.float64)
    x_t, v = normal(1, 0), normal(1, 1)
    shift = predict_eps(v + 1, x_t, alpha_bar_t, "v_prediction") - predict_eps(v, x_t, alpha_bar_t, "v_prediction")
    torch.testing.assert_close(shift, torch.full_like(shift, 0.5))


def test_other_prediction_types_are_refused():
    with pytest.raises(ValueError, match="prediction_type must be one of .*, got 'sample'"):
        predict_eps(normal(1, 0), normal(1, 1), torch.tensor([0.5]), "sample")


# The variational bound, transcribed anew from DDPM Eq. 6 and 7 and Improved DDPM Eq. 15


def textbook_terms(x0, x_t, eps_hat, v, t, betas):
    """Each L_t in bits per dimension, one sample and one timestep at a time, from distributions of torch."""
    alphas = 1 - betas
    bars = torch.cumprod(alphas, 0)
    terms = []
    for k, step in enumerate(t.tolist()):
        bar, bar_before = bars[step], bars[step - 1] if step else torch.tensor(1.0, dtype=torch.float64)
        beta = betas[step]
        variance = beta * (1 - bar_before) / (1 - bar)
        clipped = variance if step else betas[1] * (1 - bars[0]) / (1 - bars[1])

        def mean(start, k=k, bar=bar, bar_before=bar_before, beta=beta, step=step):
            first = bar_before.sqrt() * beta / (1 - bar) * start
            return first + alphas[step].sqrt() * (1 - bar_before) / (1 - bar) * x_t[k]

        x0_hat = (x_t[k] - (1 - bar).sqrt() * eps_hat[k]) / bar.sqrt()
        share = (v[k] + 1) / 2
        predicted = Normal(mean(x0_hat), torch.exp(0.5 * (share * beta.log() + (1 - share) * clipped.log())))
        if step == 0:
            nats = -predicted.log_prob(x0[k])
        else:
            nats = kl_divergence(Normal(mean(x0[k]), variance.sqrt()), predicted)
        terms.append(nats.mean() / math.log(2))
    return torch.stack(terms)


@pytest.fixture
def betas():
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


def variational_case(betas, dtype=torch.float64):
    t = torch.tensor(TIMESTEPS)
    bars = torch.cumprod(1 - betas, 0)
    x0, eps = normal(len(t), 0, dtype=torch.float64), normal(len(t), 1, dtype=torch.float64)
    eps_hat = eps + 0.3 * normal(len(t), 2, dtype=torch.float64)
    v = normal(len(t), 3, dtype=torch.float64)
    x_t = add_noise(x0, eps, bars[t])
    case = (x0, x_t, eps_hat, v)
    return (*(part.to(dtype) for part in case), t), bars


def test_variational_terms_equal_the_textbook(betas):
    case, bars = variational_case(betas)
    torch.testing.assert_close(variational_terms(*case, bars), textbook_terms(*case, betas), rtol=1e-8, atol=1e-10)


def test_variational_terms_of_float32_latents_lose_little(betas):
    exact, bars = variational_case(betas)
    case, _ = variational_case(betas, torch.float32)
    terms = variational_terms(*case, bars)
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms.double(), textbook_terms(*exact, betas), rtol=2e-3, atol=1e-5)


def test_the_terms_of_a_perfect_prediction_vanish_except_the_first(betas):
    (x0, x_t, _, v, t), bars = variational_case(betas)
    eps = (x_t - bars[t].sqrt().view(-1, 1, 1, 1) * x0) / (1 - bars[t]).sqrt().view(-1, 1, 1, 1)
    terms = variational_terms(x0, x_t, eps, -torch.ones_like(v), t, bars)
    torch.testing.assert_close(terms[1:], torch.zeros_like(terms[1:]), rtol=0, atol=1e-10)
    clipped = betas[1] * (1 - bars[0]) / (1 - bars[1])
    assert terms[0].item() == pytest.approx(0.5 * math.log2(2 * math.pi * clipped), rel=1e-9)


def test_the_squared_error_enters_with_the_weight_of_the_simple_loss(betas):
    """At variance beta_t the term is beta_t / (2 alpha_t (1 - alpha_bar_t)) |eps - eps_hat|^2 (DDPM Eq. 12) + const."""
    (x0, x_t, _, v, t), bars = variational_case(betas)
    eps = (x_t - bars[t].sqrt().view(-1, 1, 1, 1) * x0) / (1 - bars[t]).sqrt().view(-1, 1, 1, 1)
    upper = torch.ones_like(v)
    change = variational_terms(x0, x_t, eps + 0.5, upper, t, bars) - variational_terms(x0, x_t, eps, upper, t, bars)
    weight = betas[t] / (2 * (1 - betas[t]) * (1 - bars[t])) / math.log(2)
    torch.testing.assert_close(change, 0.25 * weight, rtol=1e-6, atol=0)
