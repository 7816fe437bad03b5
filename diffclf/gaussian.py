"""A diffusion model that is known exactly: every class is a Gaussian, or a mixture of several.

    p(x0 | c) = mean over the components k of c of N(mean_k, covariance_k)
    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps

so that x_t given k is Gaussian with covariance V_k = alpha_bar_t covariance_k + (1 - alpha_bar_t) I, and the prediction
of the noise with the least squared error is

    E[eps | x_t, c] = sum_k p(k | x_t, c) sqrt(1 - alpha_bar_t) V_k^-1 (x_t - sqrt(alpha_bar_t) mean_k)

With half of what the log-SNR, log(alpha_bar_t / (1 - alpha_bar_t)), loses from one t to the next as weights, the sum
over t of ||eps - eps_hat||^2, averaged over eps, is -log p(x0 | c) up to a constant: the variational bound of an exact
model is tight. With equal weights, as in Eq. 4 of Li et al., it decides as Bayes' rule does where the classes are round
Gaussians of one width, and often elsewhere.

Whatever is said of every diffusion model can be tried here against the truth.

References:
    Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv 2303.16203, Eqs. 3 to 6.
    Kingma et al. 2021, "Variational diffusion models", arXiv 2107.00630 (the bound as an integral over log-SNR).
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from diffclf.schedule import PREDICTION_TYPES, predict_eps

__all__ = ["GaussianMixtureModel", "linear_alphas_cumprod", "variational_weights"]


def linear_alphas_cumprod(n_timesteps: int = 1000) -> Tensor:
    """Return alpha_bar_t of the linear schedule of DDPM, beta from 1e-4 to 0.02: (T,) float64."""
    return (1 - torch.linspace(1e-4, 0.02, n_timesteps, dtype=torch.float64)).cumprod(0)


def variational_weights(alphas_cumprod: Tensor) -> Tensor:
    """Return the weight of each timestep's squared error in the variational bound, (T,), in nats.

    sum_t weight_t ||eps - eps_hat||^2 = -log p(x0 | c) + constant, the sum standing for an integral over log-SNR.
    """
    log_snr = (alphas_cumprod / (1 - alphas_cumprod)).log()
    return -torch.gradient(log_snr)[0] / 2


class GaussianMixtureModel:
    """A class-conditional diffusion model of Gaussian components, every answer exact.

    Its pictures are tiny: x0 is the first D of the 3 x S x S pixel values, S the smallest side that has so many. For
    D = 2 an image is one pixel, and its red and green, each from -1 to 1, are the coordinates.

    Args:
        means: (n_components, D) means.
        variances: (n_components,) variances of round components, or (n_components, D, D) covariances.
        classes: (n_components,) the class each component belongs to, 0, 1, ...; None: a class each. The components of
            a class weigh the same.
        labels: names of the classes; None: "0", "1", ...
        latent_shape: (C, H, W) with C H W = D; None: (D, 1, 1).
        alphas_cumprod: (T,) table; None: the linear schedule of DDPM.
        prediction_type: what `denoise` returns, one of `PREDICTION_TYPES`.

    Raises:
        ValueError: shapes that do not fit together, or a covariance that is not positive definite.

    Attributes:
        means: (n_components, D) float64.
        covariances: (n_components, D, D) float64.
        classes: (n_components,) int64.
    """

    name = "gaussian-mixture"
    device = torch.device("cpu")
    dtype = torch.float64
    learns_variance = False

    def __init__(
        self,
        means: ArrayLike,
        variances: ArrayLike,
        *,
        classes: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
        latent_shape: tuple[int, int, int] | None = None,
        alphas_cumprod: Tensor | None = None,
        prediction_type: str = "epsilon",
    ) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2:
            raise ValueError(f"means must have shape (n_components, D), got {tuple(self.means.shape)}")
        n, n_dims = self.means.shape
        self.covariances = torch.as_tensor(variances, dtype=torch.float64)
        if self.covariances.shape == (n,):
            self.covariances = self.covariances[:, None, None] * torch.eye(n_dims, dtype=torch.float64)
        if self.covariances.shape != (n, n_dims, n_dims):
            shape = tuple(self.covariances.shape)
            raise ValueError(f"variances must have shape ({n},) or ({n}, {n_dims}, {n_dims}), got {shape}")
        # axes[k] turns coordinates into those along the axes of component k, where its covariance is diagonal.
        self._variances, self._axes = torch.linalg.eigh(self.covariances)
        if not (self._variances > 0).all():
            raise ValueError(f"variances must be positive (definite), got an eigenvalue of {self._variances.min():g}")
        self.classes = torch.arange(n) if classes is None else torch.as_tensor(classes, dtype=torch.int64)
        counts = self.classes.bincount()
        if self.classes.shape != (n,) or not counts.all():
            raise ValueError(f"classes must name one of 0, 1, ... for each of {n} components, got {classes}")
        # log p(k | c): -inf for components of other classes.
        member = self.classes == torch.arange(len(counts))[:, None]
        self._log_weights = (member / counts[:, None]).double().log()
        self.labels = tuple(map(str, range(len(counts)))) if labels is None else tuple(labels)
        self.latent_shape = latent_shape or (n_dims, 1, 1)
        if len(self.labels) != len(counts) or math.prod(self.latent_shape) != n_dims:
            raise ValueError(
                f"labels and latent_shape must fit {len(counts)} classes in {n_dims} dimensions, "
                f"got {self.labels} and {self.latent_shape}"
            )
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {prediction_type!r}")
        self.prediction_type = prediction_type
        self.alphas_cumprod = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod.double()
        self.image_size = math.ceil(math.sqrt(n_dims / 3))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that determines the numbers."""
        parts = [self.means, self.covariances, self.classes, self.alphas_cumprod]
        content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
        content += f"{self.prediction_type}{self.latent_shape}".encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the first D values of pixels (n, 3, S, S) as x0, (n, C, H, W) float32."""
        expected = (3, self.image_size, self.image_size)
        if tuple(pixels.shape[1:]) != expected:
            raise ValueError(f"pixels must have shape (n, {', '.join(map(str, expected))}), got {tuple(pixels.shape)}")
        return pixels.float().flatten(1)[:, : self.means.shape[1]].reshape(-1, *self.latent_shape)

    def encode_prompts(self, prompts: Sequence[int] | Sequence[str]) -> Tensor:
        """Return the indices of classes given by index or label, (n,) int64.

        Raises:
            ValueError: there is no such class.
        """
        for prompt in prompts:
            if prompt not in self.labels and prompt not in range(len(self.labels)):
                raise ValueError(f"class must be one of {self.labels} or an index of them, got {prompt!r}")
        return torch.tensor([self.labels.index(p) if isinstance(p, str) else int(p) for p in prompts])

    def denoise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return the best prediction of the noise, or of v, given the class: (b, C, H, W) float64.

        Args:
            x_t: (b, C, H, W) noised latents.
            t: (b,) int64 timesteps.
            cond: (b,) int64 classes.
        """
        alpha_bar, flat = self.alphas_cumprod[t][:, None], x_t.double().flatten(1)
        scale, noise_scale = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        along = torch.einsum("kij,bki->bkj", self._axes, flat[:, None] - scale[..., None] * self.means)
        variances = alpha_bar[..., None] * self._variances + (1 - alpha_bar)[..., None]  # of x_t given k, (b, k, D)
        log_joint = self._log_weights[cond] + _log_normal(along, variances)
        predicted = torch.einsum("kij,bkj->bki", self._axes, along / variances)
        eps_hat = noise_scale * torch.einsum("bk,bki->bi", log_joint.softmax(1), predicted)
        if self.prediction_type == "v_prediction":
            # v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, in which x0 follows from x_t and eps
            eps_hat = (eps_hat - noise_scale * flat) / scale
        return eps_hat.reshape(x_t.shape)

    def log_density(self, x0: Tensor) -> Tensor:
        """Return log p(x0 | c) in nats, (n, n_classes), of x0 (n, C, H, W) or (n, D)."""
        along = torch.einsum("kij,nki->nkj", self._axes, x0.double().flatten(1)[:, None] - self.means)
        return (self._log_weights + _log_normal(along, self._variances)[:, None]).logsumexp(2)

    def posterior(self, x0: Tensor) -> Tensor:
        """Return Bayes' p(c | x0) under a uniform prior, (n, n_classes)."""
        return self.log_density(x0).softmax(1)

    def expected_errors(self, x0: Tensor, timesteps: ArrayLike, n_nodes: int = 16) -> Tensor:
        """Return the squared error averaged over all noises and over the D elements, by Gauss-Hermite quadrature.

        Exact for classes of one component, where the error is a polynomial in eps; elsewhere to many digits.

        Args:
            x0: (n, C, H, W) or (n, D).
            timesteps: (n_t,) integers.
            n_nodes: nodes per dimension; n_nodes^D noises stand for all.

        Returns:
            (n, n_classes, n_t): the limit of the evaluator's "l2" for infinitely many noises.

        Raises:
            ValueError: more than a million noises.
        """
        n_dims = self.means.shape[1]
        if n_nodes**n_dims > 1_000_000:
            raise ValueError(f"n_nodes^D must be at most a million, got {n_nodes}^{n_dims}")
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(n_nodes))
        eps = torch.cartesian_prod(*[nodes] * n_dims).reshape(-1, n_dims)
        weights = torch.cartesian_prod(*[weights / weights.sum()] * n_dims).reshape(-1, n_dims).prod(1)
        flat = x0.double().flatten(1)
        every = [torch.full((len(flat) * len(eps),), c) for c in range(len(self.labels))]
        errors = torch.empty(len(flat), len(every), len(timesteps), dtype=torch.float64)
        for i, t in enumerate(torch.as_tensor(timesteps, dtype=torch.int64)):
            alpha_bar = self.alphas_cumprod[t]
            x_t = (alpha_bar.sqrt() * flat[:, None] + (1 - alpha_bar).sqrt() * eps).reshape(-1, n_dims)
            for c, cond in enumerate(every):
                output = self.denoise(x_t, t.expand(len(x_t)), cond)
                eps_hat = predict_eps(output, x_t, alpha_bar.expand(len(x_t)), self.prediction_type)
                squared = (eps - eps_hat.reshape(len(flat), len(eps), n_dims)).square().mean(2)
                errors[:, c, i] = squared @ weights
        return errors

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw points of all classes with equal probability.

        Returns:
            x0 (n, C, H, W) float32 and their classes (n,) int64.
        """
        drawn = torch.randint(len(self.labels), (n,), generator=generator)
        component = torch.multinomial(self._log_weights.exp()[drawn], 1, generator=generator)[:, 0]
        standard = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        offset = torch.einsum("bij,bj->bi", self._axes[component], self._variances[component].sqrt() * standard)
        return (self.means[component] + offset).float().reshape(n, *self.latent_shape), drawn


def _log_normal(offset: Tensor, variances: Tensor) -> Tensor:
    """Return the log density of Gaussians of diagonal covariance at offset from their means; D is the last axis."""
    return -0.5 * (offset.square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
