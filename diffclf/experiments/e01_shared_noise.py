"""Shared trials: classes compared on the same (t, eps), on the same t only, or on trials of their own.

The errors e_1, e_2 of two prompts on one image at one timestep vary with the noise. The variance of their difference is

    on noises of their own   var(e_1 - e_2) = var e_1 + var e_2
    on shared noise          var(e_1 - e_2) = var e_1 + var e_2 - 2 cov(e_1, e_2)

The ratio of the two is how many times more trials the same precision takes without sharing.

Source: Li et al. 2023, arXiv 2303.16203, section 3.3 and Figure 2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Fixed
from diffclf.search import ErrorSource, compute_errors, search
from diffclf.trials import TrialList, Trials

__all__ = [
    "SHARED",
    "SharingSource",
    "difference_variances",
    "evaluations",
    "fixed_noise_errors",
    "sharing_errors",
    "variance_ratio",
]

SHARED = ("t and noise", "t only", "nothing")
"""What the classes share."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: Figure 2, the variances of many images, and three classifiers."""
    curves = 2 * settings["n_curve"] * settings["n_noises"]
    pooled = 2 * min(settings["n_pairs"], settings["n_images"]) * settings["n_pooled"] * settings["n_noises"]
    return curves + pooled + len(SHARED) * settings["n_classes"] * settings["n_images"] * settings["n_trials"]


def fixed_noise_errors(
    model: DiffusionModel, images: object, prompts: Sequence, timesteps: ArrayLike, n_noises: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """Return the squared errors (l2) of images at every timestep, with each of the same few noises (Figure 2).

    Images, prompts and seed are as for `ErrorSource` and `search`; the errors are (n_images, n_prompts, n_t, n_noises).
    """
    source = ErrorSource(model, prompts, TrialList.every_noise_at(timesteps, n_noises), seed=seed, losses=("l2",))
    errors = compute_errors(source, images, desc=None)
    return errors.reshape(*errors.shape[:2], -1, n_noises)


def difference_variances(errors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variance over noises of the difference of two prompts' errors, on shared noise and on own noises.

    The errors are (..., 2, n_t, n_noises), the variances (..., n_t) and unbiased.
    """
    errors = np.asarray(errors, dtype=np.float64)
    shared = (errors[..., 0, :, :] - errors[..., 1, :, :]).var(axis=-1, ddof=1)
    return shared, errors.var(axis=-1, ddof=1).sum(axis=-2)


def variance_ratio(shared: NDArray, own: NDArray) -> float:
    """Return the median over timesteps of var(own noises) / var(shared noise), both (n_images, n_t).

    The variances are averaged over images first, so that a few images with a tiny variance do not decide the result.
    """
    return float(np.median(own.mean(axis=0) / shared.mean(axis=0)))


class SharingSource(ErrorSource):
    """Errors (l2) on n_trials trials of each prompt, which the prompts share in whole, in part or not at all.

    Timesteps are drawn uniformly and independently, as in Algorithm 1, in all three cases, so that only the sharing
    differs. The first trials of a prompt are the same for every larger n_trials.

    Attributes:
        shared: one of `SHARED`; anything else raises ValueError.
        own: (n_prompts, n_all) bool, the trials of each prompt: all, or n_trials of n_prompts x n_trials.
    """

    def __init__(self, model: DiffusionModel, prompts: Sequence, n_trials: int, shared: str, *, seed: int = 0) -> None:
        if shared not in SHARED:
            raise ValueError(f"shared must be one of {SHARED}, got {shared!r}")
        self.shared = shared
        self.own = np.tile(np.eye(len(prompts), dtype=bool), n_trials)
        if shared == "t and noise":
            self.own = np.ones((len(prompts), n_trials), dtype=bool)
        # The timesteps are drawn for each image in trials_of; here only their number counts.
        super().__init__(model, prompts, TrialList(np.zeros(self.own.shape[1])), seed=seed, losses=("l2",))

    @override
    def trials_of(self, key: int) -> Trials:
        drawn = np.random.default_rng([self.seed, key]).integers(len(self.model.schedule), size=self.own.sum())
        common = drawn[:: len(self.own)]  # the first prompt's timesteps
        timesteps = {"t and noise": common, "t only": np.repeat(common, len(self.own)), "nothing": drawn}[self.shared]
        return Trials(timesteps, self.seed, key, self.model.latent_shape)


def sharing_errors(source: SharingSource, images: object) -> NDArray[np.float32]:
    """Return the squared errors (l2) of every prompt on its own trials: (n_images, n_prompts, n_trials)."""
    tables = search(source, images, Fixed(source.trials, source.own), desc=f"shared: {source.shared}")
    return np.stack([table.errors[source.own].reshape(len(source.own), -1) for table in tables])
