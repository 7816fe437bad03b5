"""The forward process against diffusers' own, the variational terms against torch.distributions."""

import math

import diffusers
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffclf.schedule import PREDICTION_TYPES, NoiseSchedule, variational_terms

DDPM = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = [DDPM | {"beta_schedule": "linear"}, STABLE_DIFFUSION, {"beta_schedule": "squaredcos_cap_v2"}]
T = torch.tensor([0, 1, 2, 17, 250, 500, 998, 999])
SIGMA = torch.linspace(0.001, 1, 1000, dtype=torch.float64)


def normal(n, seed, *, shape=(4, 8, 8), dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def doubles(*seeds):
    return (normal(len(T), seed, dtype=torch.float64) for seed in seeds)


# The forward process


@pytest.mark.parametrize("config", CONFIGS)
def test_add_noise_equals_diffusers(config):
    theirs = diffusers.DDPMScheduler(**config)
    ours = NoiseSchedule.variance_preserving(theirs.alphas_cumprod)
    x0, eps = normal(len(T), 0), normal(len(T), 1)
    torch.testing.assert_close(ours.add_noise(x0, eps, T), theirs.add_noise(x0, eps, T), rtol=1e-5, atol=1e-6)


def test_flow_matching_equals_diffusers():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    ours = NoiseSchedule.flow(theirs.sigmas[:1000].flip(0))
    x0, eps = doubles(0, 1)
    expected = theirs.scale_noise(x0, theirs.timesteps[999 - T], eps)
    torch.testing.assert_close(ours.add_noise(x0, eps, T), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.target(x0, eps, T), eps - x0)


def test_linear_schedule_is_that_of_ddpm():
    expected = diffusers.DDPMScheduler(**CONFIGS[0]).alphas_cumprod
    schedule = NoiseSchedule.linear()
    torch.testing.assert_close(schedule.alpha.square().float(), expected, rtol=2e-5, atol=0)
    assert len(schedule) == 1000 and schedule.alpha.dtype == torch.float64
    torch.testing.assert_close(schedule.log_snr.float(), (expected / (1 - expected)).log(), rtol=1e-4, atol=1e-4)


def test_noise_is_added_in_the_precision_of_the_latents_with_coefficients_of_the_tables():
    """1 - alpha_bar at t = 0 would be off by percents if it were taken in half precision."""
    x_t = NoiseSchedule.linear().add_noise(torch.zeros(1, 2).half(), torch.ones(1, 2).half(), torch.tensor([0]))
    assert x_t.dtype == torch.float16
    assert x_t[0, 0].item() == pytest.approx(0.01, rel=1e-3)


# What networks predict


@pytest.mark.parametrize("config", CONFIGS)
def test_v_is_the_velocity_of_diffusers(config):
    theirs = diffusers.DDPMScheduler(**config, prediction_type="v_prediction")
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    x0, eps = doubles(0, 1)
    ours = NoiseSchedule.variance_preserving(theirs.alphas_cumprod, "v_prediction")
    torch.testing.assert_close(ours.target(x0, eps, T), theirs.get_velocity(x0, eps, T))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("kind", ["variance preserving", "flow", "other"])
def test_a_perfect_output_gives_back_the_noise_and_the_clean_latent(kind, prediction_type):
    tables = {
        "variance preserving": (NoiseSchedule.linear().alpha, NoiseSchedule.linear().sigma),
        "flow": (1.001 - SIGMA, SIGMA - 0.0005),
        "other": (1.5 - SIGMA, 0.2 + 3 * SIGMA),
    }
    schedule = NoiseSchedule(*tables[kind], prediction_type)
    x0, eps = doubles(0, 1)
    x_t, output = schedule.add_noise(x0, eps, T), schedule.target(x0, eps, T)
    torch.testing.assert_close(schedule.predict_eps(output, x_t, T), eps)
    torch.testing.assert_close(schedule.predict_x0(output, x_t, T), x0)
    if prediction_type == "epsilon":
        assert schedule.predict_eps(output, x_t, T) is output


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction"])
def test_x0_is_found_where_x_t_is_all_noise(prediction_type):
    """At zero terminal SNR."""
    schedule = NoiseSchedule(torch.tensor([0.0]), torch.tensor([1.0]), prediction_type)
    x0, eps, t = normal(1, 0), normal(1, 1), torch.tensor([0])
    output = schedule.target(x0, eps, t)
    torch.testing.assert_close(schedule.predict_x0(output, eps, t), x0)
    torch.testing.assert_close(schedule.predict_eps(output, eps, t), eps)


def test_tables_are_copies_and_move_with_the_schedule():
    table = torch.tensor([0.9, 0.5])
    schedule = NoiseSchedule.variance_preserving(table, "v_prediction")
    table.zero_()
    moved = schedule.to("cpu")
    assert torch.equal(moved.alpha, schedule.alpha) and (schedule.alpha > 0).all()
    assert moved.prediction_type == "v_prediction" and moved.sigma.dtype == torch.float64


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="prediction_type must be one of .*, got 'sample'"):
        NoiseSchedule(torch.ones(2), torch.ones(2), "sample")
    with pytest.raises(ValueError, match=r"alpha and sigma must have the same shape \(T,\), got \(2,\) and \(3,\)"):
        NoiseSchedule(torch.ones(2), torch.ones(3))


# The variational bound, transcribed anew from DDPM Eq. 6 and 7 and Improved DDPM Eq. 15


def textbook_terms(x0, x_t, eps_hat, v, betas):
    """Each L_t in bits per dimension, one sample and one timestep at a time, from distributions of torch."""
    alphas = 1 - betas
    bars = torch.cumprod(alphas, 0)
    terms = []
    for k, step in enumerate(T.tolist()):
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


@pytest.fixture
def case():
    """x0, x_t, eps, variance output and schedule."""
    schedule = NoiseSchedule.linear()
    x0, eps, v = doubles(0, 1, 3)
    return x0, schedule.add_noise(x0, eps, T), eps, v, schedule


def test_variational_terms_equal_the_textbook(betas, case):
    x0, x_t, eps, v, schedule = case
    eps_hat = eps + 0.3 * normal(len(T), 2, dtype=torch.float64)
    expected = textbook_terms(x0, x_t, eps_hat, v, betas)
    found = variational_terms(x0, x_t, eps_hat, v, T, schedule)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    in_single = variational_terms(x0.float(), x_t.float(), eps_hat.float(), v.float(), T, schedule)
    assert in_single.dtype == torch.float32
    torch.testing.assert_close(in_single.double(), expected, rtol=2e-3, atol=1e-5)


def test_the_terms_of_a_perfect_prediction_vanish_except_the_first(betas, case):
    x0, x_t, eps, v, schedule = case
    terms = variational_terms(x0, x_t, eps, -torch.ones_like(v), T, schedule)
    torch.testing.assert_close(terms[1:], torch.zeros_like(terms[1:]), rtol=0, atol=1e-10)
    bars = torch.cumprod(1 - betas, 0)
    clipped = betas[1] * (1 - bars[0]) / (1 - bars[1])
    assert terms[0].item() == pytest.approx(0.5 * math.log2(2 * math.pi * clipped), rel=1e-9)


def test_the_squared_error_enters_with_the_weight_of_the_simple_loss(betas, case):
    """At variance beta_t the term is beta_t / (2 alpha_t (1 - alpha_bar_t)) |eps - eps_hat|^2 (DDPM Eq. 12) + const."""
    x0, x_t, eps, v, schedule = case
    with_error, without = (
        variational_terms(x0, x_t, eps + shift, torch.ones_like(v), T, schedule) for shift in (0.5, 0.0)
    )
    bars = torch.cumprod(1 - betas, 0)
    weight = betas[T] / (2 * (1 - betas[T]) * (1 - bars[T])) / math.log(2)
    torch.testing.assert_close(with_error - without, 0.25 * weight, rtol=1e-6, atol=0)
