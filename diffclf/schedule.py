"""The noise schedule of a diffusion model and what follows from it.

    x_t  = alpha_t x0 + sigma_t eps,    eps ~ N(0, I)                                      (forward process)
    v_t  = alpha_t eps - sigma_t x0                                                        (v-prediction)
    u_t  = eps - x0                                                                        (flow velocity)
    L_t  = KL(q(x_s | x_t, x0) || p(x_s | x_t)), s = t - 1, t > 0;   L_0 = -log p(x0 | x_0)  (variational bound)

Every formula is written in alpha_t and sigma_t. Variance-preserving schedules have alpha_t^2 + sigma_t^2 = 1, flow
matching has alpha_t = 1 - sigma_t. Timesteps are indices 0..T-1 of the schedule's tables. The tables are float64: a
decision of the classifier is a small difference of large numbers.

References:
    Ho, Jain, Abbeel 2020, "Denoising diffusion probabilistic models", arXiv 2006.11239.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672.
    Salimans, Ho 2022, "Progressive distillation", arXiv 2202.00512, appendix D.
    Lipman et al. 2023, "Flow matching for generative modeling", arXiv 2210.02747.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PREDICTION_TYPES", "NoiseSchedule", "variational_terms"]

PREDICTION_TYPES = ("epsilon", "v_prediction", "flow_prediction")


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Return values (n,) in the dtype of `like` (n, ...), shaped to multiply it."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_t and sigma_t of every timestep, and what the network predicts.

    Attributes:
        alpha, sigma: (T,) float64, the scales of x0 and of the noise in x_t.
        prediction_type: what the network predicts: "epsilon", "v_prediction" or "flow_prediction" (eps - x0).

    Raises:
        ValueError: unknown prediction type, or tables of different shapes.
    """

    alpha: Tensor
    sigma: Tensor
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {self.prediction_type!r}")
        if self.alpha.ndim != 1 or self.alpha.shape != self.sigma.shape:
            shapes = tuple(self.alpha.shape), tuple(self.sigma.shape)
            raise ValueError(f"alpha and sigma must have the same shape (T,), got {shapes[0]} and {shapes[1]}")

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Tensor, prediction_type: str = "epsilon") -> "NoiseSchedule":
        """Return the schedule alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t) of alpha_bar_t, (T,)."""
        alpha_bar = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64, copy=True)
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), prediction_type)

    @classmethod
    def linear(cls, n_timesteps: int = 1000, prediction_type: str = "epsilon") -> "NoiseSchedule":
        """Return the linear schedule of DDPM: beta from 1e-4 to 0.02 in T steps."""
        betas = torch.linspace(1e-4, 0.02, n_timesteps, dtype=torch.float64)
        return cls.variance_preserving((1 - betas).cumprod(0), prediction_type)

    @classmethod
    def flow(cls, sigma: Tensor) -> "NoiseSchedule":
        """Return the schedule of flow matching: sigma_t (T,) increasing in (0, 1], alpha_t = 1 - sigma_t."""
        sigma = torch.as_tensor(sigma).detach().to("cpu", torch.float64, copy=True)
        return cls(1 - sigma, sigma, "flow_prediction")

    def __len__(self) -> int:
        """Return T."""
        return len(self.alpha)

    @property
    def log_snr(self) -> Tensor:
        """(T,) natural logarithm of the signal-to-noise ratio alpha_t^2 / sigma_t^2."""
        return 2 * (self.alpha / self.sigma).log()

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Return the schedule with its tables on a device (in float32 on "mps", which has no float64)."""
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        return NoiseSchedule(self.alpha.to(device, dtype), self.sigma.to(device, dtype), self.prediction_type)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t (n, ...), in the dtype of x0 (n, ...), for noise eps (n, ...) and int64 timesteps t (n,)."""
        return _per_sample(self.alpha[t], x0) * x0 + _per_sample(self.sigma[t], x0) * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return what a perfect network returns for the x_t of `add_noise`: eps, v_t or u_t."""
        of_eps, of_x0, _ = self._target_weights(t)
        return _per_sample(of_eps, x0) * eps + _per_sample(of_x0, x0) * x0

    def predict_eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise (n, ...) that a network's output (n, ...), without variance channels, predicts.

        v-prediction      eps_hat = (alpha_t v_hat + sigma_t x_t) / (alpha_t^2 + sigma_t^2)
        flow prediction   eps_hat = (alpha_t u_hat + x_t) / (alpha_t + sigma_t)

        The denominators are 1 for variance-preserving schedules and for flow matching.
        """
        if self.prediction_type == "epsilon":
            return output
        _, of_x0, whole = self._target_weights(t)
        return _per_sample(self.alpha[t] / whole, x_t) * output - _per_sample(of_x0 / whole, x_t) * x_t

    def predict_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clean latent (n, ...) that a network's output predicts.

        epsilon           x0_hat = (x_t - sigma_t eps_hat) / alpha_t
        v-prediction      x0_hat = (alpha_t x_t - sigma_t v_hat) / (alpha_t^2 + sigma_t^2)
        flow prediction   x0_hat = (x_t - sigma_t u_hat) / (alpha_t + sigma_t)
        """
        of_eps, _, whole = self._target_weights(t)
        difference = _per_sample(of_eps, x_t) * x_t - _per_sample(self.sigma[t], x_t) * output
        return difference / _per_sample(whole, x_t)

    def _target_weights(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights (n,) of eps and of x0 in what the network predicts, and the common denominator."""
        of_eps, of_x0 = torch.ones_like(self.alpha[t]), torch.zeros_like(self.alpha[t])
        if self.prediction_type == "v_prediction":
            of_eps, of_x0 = self.alpha[t], -self.sigma[t]
        elif self.prediction_type == "flow_prediction":
            of_x0 = -of_eps
        return of_eps, of_x0, of_eps * self.alpha[t] - of_x0 * self.sigma[t]


def variational_terms(
    x0: Tensor, x_t: Tensor, eps_hat: Tensor, variance_output: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Return the single term L_t of the variational bound, in bits per dimension, of a variance-preserving schedule.

    The learned variance interpolates between its two bounds, log Sigma = f log beta_t + (1 - f) log beta_tilde_t with
    f = (output + 1) / 2 (Nichol and Dhariwal, Eq. 15). At t = 0 the term is the Gaussian negative log-likelihood of x0,
    since latents are continuous and have no discretised decoder.

    Latents, noise and variance channels (nominally in [-1, 1]) are (n, ...), timesteps (n,) int64; the schedule is on
    their device and has two timesteps or more. The result (n,) is the mean over the latent's elements of L_t / log 2.
    """
    bars = schedule.alpha.square()
    bars_prev = torch.cat([bars.new_ones(1), bars[:-1]])
    betas = 1 - bars / bars_prev
    betas_tilde = betas * (1 - bars_prev) / (1 - bars)
    betas_tilde[0] = betas_tilde[1]  # 0 at t = 0; its logarithm is clipped to the value at t = 1, as in improved DDPM
    log_beta, log_beta_tilde = _per_sample(betas[t].log(), x0), _per_sample(betas_tilde[t].log(), x0)
    fraction = (variance_output + 1) / 2
    log_variance = fraction * log_beta + (1 - fraction) * log_beta_tilde

    x0_hat = (x_t - _per_sample(schedule.sigma[t], x0) * eps_hat) / _per_sample(schedule.alpha[t], x0)
    weight_x0 = _per_sample((bars_prev.sqrt() * betas / (1 - bars))[t], x0)
    # The true and the predicted posterior mean share the x_t term, so their difference is weight_x0 (x0 - x0_hat).
    squared = (weight_x0 * (x0 - x0_hat)).square() * (-log_variance).exp()
    kl = 0.5 * (log_variance - log_beta_tilde + (log_beta_tilde - log_variance).exp() - 1 + squared)
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + squared)
    return torch.where(_per_sample(t, x0) == 0, nll, kl).flatten(1).mean(1) / math.log(2)
