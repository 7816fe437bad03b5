"""The forward process of diffusion models and what follows from it.

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps,                       eps ~ N(0, I)      (DDPM Eq. 4)
    v_t = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x0                                           (v-prediction)
    L_t = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)),  t > 0;   L_0 = -log p(x0 | x_1)             (DDPM Eq. 5)

Timesteps are diffusers' indices 0..T-1. Everything here is computed in the precision of the table `alphas_cumprod`
handed in (float64 or float32), never in the network's: a decision is a small difference of large numbers.

References:
    Ho, Jain, Abbeel 2020, "Denoising diffusion probabilistic models", arXiv 2006.11239.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672.
    Salimans, Ho 2022, "Progressive distillation", arXiv 2202.00512, appendix D.
"""

import math

import torch
from torch import Tensor

__all__ = ["PREDICTION_TYPES", "add_noise", "predict_eps", "variational_terms"]

PREDICTION_TYPES = ("epsilon", "v_prediction")


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, eps: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """Return x_t, in the dtype of x0.

    Args:
        x0: (n, ...) clean latents.
        eps: (n, ...) noise.
        alpha_bar_t: (n,) cumulative alphas at each sample's timestep, float32 or better.
    """
    return _per_sample(alpha_bar_t.sqrt(), x0) * x0 + _per_sample((1 - alpha_bar_t).sqrt(), x0) * eps


def predict_eps(output: Tensor, x_t: Tensor, alpha_bar_t: Tensor, prediction_type: str) -> Tensor:
    """Turn a network's output into its prediction of the noise.

    For v-prediction eps_hat = sqrt(alpha_bar_t) v_hat + sqrt(1 - alpha_bar_t) x_t (Salimans and Ho, appendix D).

    Args:
        output: (n, ...) what the network returned, without any variance channels.
        x_t: (n, ...) noised latents.
        alpha_bar_t: (n,) cumulative alphas.
        prediction_type: one of `PREDICTION_TYPES`.

    Raises:
        ValueError: unknown prediction type.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return _per_sample(alpha_bar_t.sqrt(), x_t) * output + _per_sample((1 - alpha_bar_t).sqrt(), x_t) * x_t
    raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {prediction_type!r}")


def variational_terms(
    x0: Tensor, x_t: Tensor, eps_hat: Tensor, variance_output: Tensor, t: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Return the single term L_t of the variational bound, in bits per dimension.

    The learned variance interpolates between its two bounds, log sigma^2 = v log beta_t + (1 - v) log beta_tilde_t
    with v = (output + 1) / 2 (Nichol and Dhariwal, Eq. 15). At t = 0 the term is the Gaussian negative log-likelihood
    of x0, since latents are continuous and have no discretised decoder.

    Args:
        x0: (n, ...) clean latents.
        x_t: (n, ...) noised latents.
        eps_hat: (n, ...) predicted noise.
        variance_output: (n, ...) the network's variance channels, nominally in [-1, 1].
        t: (n,) int64 timesteps.
        alphas_cumprod: (T,) table, float32 or better.

    Returns:
        (n,) mean over the latent's elements of L_t / log 2.
    """
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    alpha_bar, alpha_bar_prev = alphas_cumprod[t], previous[t]
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    beta_tilde = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    # beta_tilde is 0 at t = 0; its logarithm is clipped to the value at t = 1, as in improved DDPM.
    next_bar = alphas_cumprod[1] if len(alphas_cumprod) > 1 else alphas_cumprod[0]
    first = (1 - next_bar / alphas_cumprod[0]) * (1 - alphas_cumprod[0]) / (1 - next_bar)
    log_beta_tilde = torch.where(t > 0, beta_tilde, first.expand_as(beta_tilde)).log()
    fraction = (variance_output + 1) / 2
    log_variance = fraction * _per_sample(beta.log(), x0) + (1 - fraction) * _per_sample(log_beta_tilde, x0)

    x0_hat = (x_t - _per_sample((1 - alpha_bar).sqrt(), x0) * eps_hat) / _per_sample(alpha_bar.sqrt(), x0)
    weight_x0 = _per_sample(alpha_bar_prev.sqrt() * beta / (1 - alpha_bar), x0)
    # The true and the predicted posterior mean share the x_t term, so their difference is weight_x0 (x0 - x0_hat).
    squared = (weight_x0 * (x0 - x0_hat)).square()
    true_log_variance = _per_sample(log_beta_tilde, x0)
    kl = 0.5 * (
        log_variance
        - true_log_variance
        + (true_log_variance - log_variance).exp()
        - 1
        + squared * (-log_variance).exp()
    )
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + squared * (-log_variance).exp())
    terms = torch.where(_per_sample(t, x0) == 0, nll, kl)
    return terms.flatten(1).mean(1) / math.log(2)
