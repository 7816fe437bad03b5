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


def doubles(*seeds):
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return (torch.randn(len(T), 4, 8, 8, generator=generator, dtype=torch.float64) for generator in generators)


# The forward process


@pytest.mark.parametrize("config", CONFIGS)
def test_x_t_and_v_equal_those_of_diffusers(config):
    theirs = diffusers.DDPMScheduler(**config)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    ours = NoiseSchedule.variance_preserving(theirs.alphas_cumprod, "v_prediction")
    x0, eps = doubles(0, 1)
    torch.testing.assert_close(ours.add_noise(x0, eps, T), theirs.add_noise(x0, eps, T))
    torch.testing.assert_close(ours.target(x0, eps, T), theirs.get_velocity(x0, eps, T))


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


TABLES = {
    "variance preserving": (NoiseSchedule.linear().alpha, NoiseSchedule.linear().sigma),
    "flow": (1.001 - SIGMA, SIGMA - 0.0005),
    "other": (1.5 - SIGMA, 0.2 + 3 * SIGMA),
    "all noise": (0 * SIGMA, 0 * SIGMA + 1),  # x0 is then in the output alone, of v and of u
}


CASES = [(kind, predicted) for kind in TABLES for predicted in PREDICTION_TYPES]


@pytest.mark.parametrize(("kind", "prediction_type"), [case for case in CASES if case != ("all noise", "epsilon")])
def test_a_perfect_output_gives_back_the_noise_and_the_clean_latent(kind, prediction_type):
    schedule = NoiseSchedule(*TABLES[kind], prediction_type)
    x0, eps = doubles(0, 1)
    x_t, output = schedule.add_noise(x0, eps, T), schedule.target(x0, eps, T)
    torch.testing.assert_close(schedule.predict_eps(output, x_t, T), eps)
    torch.testing.assert_close(schedule.predict_x0(output, x_t, T), x0)
    if prediction_type == "epsilon":
        assert schedule.predict_eps(output, x_t, T) is output


def test_tables_are_copies_and_move_with_the_schedule_and_bad_ones_are_refused():
    table = torch.tensor([0.9, 0.5])
    schedule = NoiseSchedule.variance_preserving(table, "v_prediction")
    table.zero_()
    moved = schedule.to("cpu")
    assert torch.equal(moved.alpha, schedule.alpha) and (schedule.alpha > 0).all()
    assert moved.prediction_type == "v_prediction" and moved.sigma.dtype == torch.float64
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


@pytest.mark.parametrize("shift", [0.3, 0.0])
def test_variational_terms_equal_the_textbook(shift):
    betas, schedule = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), NoiseSchedule.linear()
    x0, eps, other, v = doubles(0, 1, 2, 3)
    x_t, eps_hat = schedule.add_noise(x0, eps, T), eps + shift * other
    expected = textbook_terms(x0, x_t, eps_hat, v, betas)
    found = variational_terms(x0, x_t, eps_hat, v, T, schedule)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    in_single = variational_terms(x0.float(), x_t.float(), eps_hat.float(), v.float(), T, schedule)
    assert in_single.dtype == torch.float32
    torch.testing.assert_close(in_single.double(), expected, rtol=2e-3, atol=1e-5)
    at_lower_bound = variational_terms(x0, x_t, eps, -torch.ones_like(v), T, schedule)
    torch.testing.assert_close(at_lower_bound[1:], torch.zeros(len(T) - 1).double(), rtol=0, atol=1e-10)
