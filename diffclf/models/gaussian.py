"""A diffusion model that is known exactly: every class is a Gaussian, or a mixture of several.

    p(x0 | c) = mean over the components k of c of N(mean_k, C_k)
    x_t = alpha_t x0 + sigma_t eps

Given the component k, x_t is Gaussian with covariance V_k = alpha_t^2 C_k + sigma_t^2 I. The predictions of the noise
and of the clean point with the least squared error are, with r_k = V_k^-1 (x_t - alpha_t mean_k),

    E[eps | x_t, c] = sum_k p(k | x_t, c) sigma_t r_k
    E[x0 | x_t, c]  = sum_k p(k | x_t, c) (mean_k + alpha_t C_k r_k)

The variational bound of an exact model is tight: the sum over t of weight_t ||eps - eps_hat||^2, averaged over eps, is
-log p(x0 | c) up to a constant, where weight_t is half of what the log-SNR loses from one t to the next. Eq. 4 of
Li et al. has equal weights. Then the classifier decides as Bayes' rule does if the classes are round Gaussians of one
width, and often elsewhere.

Every statement about diffusion models can be tried here against the truth.

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
from typing_extensions import override

from diffclf.models.conditioning import Conditioning, class_conditioning
from diffclf.models.protocol import DiffusionModel, check_pixels
from diffclf.schedule import NoiseSchedule

__all__ = ["GaussianMixtureModel", "expected_errors", "variational_weights"]


def variational_weights(schedule: NoiseSchedule) -> Tensor:
    """Return the weight of each timestep's squared error in the variational bound, (T,), in nats.

    sum_t weight_t ||eps - eps_hat||^2 = -log p(x0 | c) + constant; the sum stands for an integral over log-SNR.
    """
    return -torch.gradient(schedule.log_snr)[0] / 2


class GaussianMixtureModel(DiffusionModel):
    """A class-conditional diffusion model of Gaussian components, every answer exact.

    Its images are tiny: x0 is the first D of the 3 x S x S pixel values, S the smallest side that has so many. For
    D = 2 an image is one pixel; its red and green, each from -1 to 1, are the coordinates.

    Args:
        means: (n_components, D) means.
        variances: (n_components,) variances of round components, or (n_components, D, D) covariances.
        classes: (n_components,) the class of each component, 0, 1, ...; None: one class per component. The components
            of a class weigh the same.
        labels: names of the classes; None: "0", "1", ...
        latent_shape: (C, H, W) with C H W = D; None: (D, 1, 1).
        schedule: the noise schedule, which also says what `denoise` returns; None: the linear schedule of DDPM.

    Raises:
        ValueError: shapes that do not fit together, or a covariance that is not positive definite.

    Attributes:
        covariances: (n_components, D, D) float64.
    """

    name = "gaussian-mixture"
    device = torch.device("cpu")
    dtype = torch.float64
    learns_variance = False
    calibration = None

    def __init__(
        self,
        means: ArrayLike,
        variances: ArrayLike,
        *,
        classes: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
        latent_shape: tuple[int, int, int] | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        self.means, given = (torch.as_tensor(values, dtype=torch.float64) for values in (means, variances))
        n, n_dims = self.means.shape if self.means.ndim == 2 else (0, 0)
        self.covariances = given[:, None, None] * torch.eye(n_dims).double() if given.ndim == 1 else given
        if n_dims == 0 or self.covariances.shape != (n, n_dims, n_dims):
            shapes = f"{tuple(self.means.shape)} and {tuple(given.shape)}"
            raise ValueError(f"means must have shape (n, D) and variances (n,) or (n, D, D), got {shapes}")
        # _axes[k] are the directions in which component k has a diagonal covariance, _variances[k].
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
        self.schedule = schedule or NoiseSchedule.linear()
        self.image_size = math.ceil(math.sqrt(n_dims / 3))

    @cached_property
    @override
    def fingerprint(self) -> str:
        parts = [self.means, self.covariances, self.classes, self.schedule.alpha, self.schedule.sigma]
        content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
        content += f"{self.schedule.prediction_type}{self.latent_shape}".encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    @override
    def encode_images(self, pixels: Tensor) -> Tensor:
        check_pixels(pixels, self.image_size)
        return pixels.float().flatten(1)[:, : self.means.shape[1]].reshape(-1, *self.latent_shape)

    @override
    def encode_prompts(self, prompts: Sequence[int] | Sequence[str]) -> Conditioning:
        return class_conditioning(prompts, self.labels)

    @override
    def denoise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        alpha, sigma = (table[t][:, None, None] for table in (self.schedule.alpha, self.schedule.sigma))
        variances = alpha**2 * self._variances + sigma**2  # of x_t given k, along the axes of k: (b, k, D)
        offset = x_t.double().flatten(1)[:, None] - alpha * self.means
        along = torch.einsum("kij,bki->bkj", self._axes, offset)
        log_joint = self._log_weights[cond.tensors["class_index"]] + _log_normal(along, variances)
        r = torch.einsum("kij,bkj->bki", self._axes, along / variances)
        x0_k = self.means + alpha * torch.einsum("kij,bkj->bki", self.covariances, r)
        eps_hat, x0_hat = (torch.einsum("bk,bki->bi", log_joint.softmax(1), part) for part in (sigma * r, x0_k))
        return self.schedule.target(x0_hat, eps_hat, t).reshape(x_t.shape)

    def log_density(self, x0: Tensor) -> Tensor:
        """Return log p(x0 | c) in nats, (n, n_classes), of x0 (n, C, H, W) or (n, D)."""
        along = torch.einsum("kij,nki->nkj", self._axes, x0.double().flatten(1)[:, None] - self.means)
        return (self._log_weights + _log_normal(along, self._variances)[:, None]).logsumexp(2)

    def posterior(self, x0: Tensor) -> Tensor:
        """Return Bayes' p(c | x0) under a uniform prior, (n, n_classes)."""
        return self.log_density(x0).softmax(1)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return n points x0 (n, C, H, W), float32, and their classes (n,), drawn with equal probability."""
        drawn = torch.randint(len(self.labels), (n,), generator=generator)
        component = torch.multinomial(self._log_weights.exp()[drawn], 1, generator=generator)[:, 0]
        standard = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        offset = torch.einsum("bij,bj->bi", self._axes[component], self._variances[component].sqrt() * standard)
        return (self.means[component] + offset).float().reshape(n, *self.latent_shape), drawn


def expected_errors(model: DiffusionModel, x0: Tensor, timesteps: ArrayLike, n_nodes: int = 16) -> Tensor:
    """Return the squared error averaged over all noises and over the D elements, by Gauss-Hermite quadrature.

    Exact for Gaussian classes of one component, where the error is a polynomial in eps; elsewhere to many digits.

    Args:
        model: a class-conditional model of few dimensions.
        x0: (n, C, H, W) or (n, D).
        timesteps: (n_t,) integers.
        n_nodes: nodes per dimension; n_nodes^D noises stand for all.

    Returns:
        (n, n_classes, n_t): the limit of the evaluator's "l2" for infinitely many noises.

    Raises:
        ValueError: more than a million noises.
    """
    n_dims = math.prod(model.latent_shape)
    if n_nodes**n_dims > 1_000_000:
        raise ValueError(f"n_nodes^D must be at most a million, got {n_nodes}^{n_dims}")
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(n_nodes))
    noises = torch.cartesian_prod(*[nodes] * n_dims).reshape(-1, *model.latent_shape)
    weights = torch.cartesian_prod(*[weights / weights.sum()] * n_dims).reshape(-1, n_dims).prod(1)
    points = x0.double().reshape(-1, *model.latent_shape)
    clean, eps = points.repeat_interleave(len(noises), dim=0), noises.repeat(len(points), 1, 1, 1)
    classes = model.encode_prompts(range(len(model.labels)))
    errors = torch.empty(len(points), len(classes), len(timesteps), dtype=torch.float64)
    for i, timestep in enumerate(timesteps):
        t = torch.full((len(eps),), int(timestep))
        x_t = model.schedule.add_noise(clean, eps, t)
        for c in range(len(classes)):
            output = model.denoise(x_t, t, classes[torch.full_like(t, c)])
            squared = (eps - model.schedule.predict_eps(output, x_t, t)).square().flatten(1).mean(1)
            errors[:, c, i] = squared.reshape(len(points), -1) @ weights
    return errors


def _log_normal(offset: Tensor, variances: Tensor) -> Tensor:
    """Return the log density of Gaussians of diagonal covariance at offset from their means; D is the last axis."""
    return -0.5 * (offset.square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
