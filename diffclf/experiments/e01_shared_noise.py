"""Shared trials: classes compared on the same (t, eps), on the same t only, or on trials of their own.

The errors e_1, e_2 of two prompts on one image at one timestep vary with the noise. The variance of their difference is

    on noises of their own   var(e_1 - e_2) = var e_1 + var e_2
    on shared noise          var(e_1 - e_2) = var e_1 + var e_2 - 2 cov(e_1, e_2)

The ratio of the two is how many times more trials the same precision takes without sharing.

Source: Li et al. 2023, arXiv 2303.16203, section 3.3 and Figure 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Strategy
from diffclf.search import ErrorSource, search
from diffclf.trials import TrialList, Trials

__all__ = ["SHARED", "SharingSource", "difference_variances", "evaluations", "sharing_errors", "variance_ratio"]

SHARED = ("t and noise", "t only", "nothing")
"""What the classes share."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: Figure 2, the variances of many images, and three classifiers."""
    curves = 2 * settings["n_curve"] * settings["n_noises"]
    pooled = 2 * min(settings["n_pairs"], settings["n_images"]) * settings["n_pooled"] * settings["n_noises"]
    return curves + pooled + len(SHARED) * settings["n_classes"] * settings["n_images"] * settings["n_trials"]


def difference_variances(errors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variance over noises of the difference of two prompts' errors, on shared noise and on own noises.

    Args:
        errors: (..., 2, n_t, n_noises) errors of the two prompts on the same noises.

    Returns:
        Two arrays (..., n_t) of unbiased sample variances; on own noises it is the sum of the prompts' variances.
    """
    errors = np.asarray(errors, dtype=np.float64)
    shared = (errors[..., 0, :, :] - errors[..., 1, :, :]).var(axis=-1, ddof=1)
    return shared, errors.var(axis=-1, ddof=1).sum(axis=-2)


def variance_ratio(shared: NDArray, own: NDArray) -> float:
    """Return the median over timesteps of var(own noises) / var(shared noise), the variances averaged over images.

    The variances are averaged first, so that a few images with a tiny variance do not decide the result.

    Args:
        shared: (n_images, n_t) variances of the difference on shared noise.
        own: (n_images, n_t) on noises of their own.
    """
    return float(np.median(own.mean(axis=0) / shared.mean(axis=0)))


class SharingSource(ErrorSource):
    """Errors on trials that the prompts share in whole, in part or not at all.

    Timesteps are drawn uniformly and independently, as in Algorithm 1, in all three cases, so that only the sharing
    differs. The first trials of a prompt are the same for every larger n_trials.

    Args:
        model: the diffusion model.
        prompts: what `model.encode_prompts` takes.
        n_trials: trials of each prompt.
        shared: one of `SHARED`.
        seed: seed of timesteps and noise.

    Attributes:
        own: (n_prompts, n_all) bool, the trials of each prompt: all, or n_trials of n_prompts x n_trials.

    Raises:
        ValueError: `shared` is none of the three.
    """

    def __init__(self, model: DiffusionModel, prompts: Sequence, n_trials: int, shared: str, *, seed: int = 0) -> None:
        if shared not in SHARED:
            raise ValueError(f"shared must be one of {SHARED}, got {shared!r}")
        n_prompts = len(prompts)
        self.shared = shared
        self.own = np.tile(np.eye(n_prompts, dtype=bool), n_trials)
        if shared == "t and noise":
            self.own = np.ones((n_prompts, n_trials), dtype=bool)
        # The timesteps are drawn for each image in trials_of; here only their number counts.
        super().__init__(model, prompts, TrialList(np.zeros(self.own.shape[1])), seed=seed, losses=("l2",))

    def trials_of(self, key: int) -> Trials:
        """Return the trials of the image with this key."""
        n_prompts, n_all = self.own.shape
        n_drawn = n_prompts * n_all if self.shared == "t and noise" else n_all
        drawn = np.random.default_rng([self.seed, key]).integers(len(self.model.schedule), size=n_drawn)
        common = drawn[::n_prompts]  # the first prompt's timesteps
        timesteps = {"t and noise": common, "t only": np.repeat(common, n_prompts), "nothing": drawn}[self.shared]
        return Trials(timesteps, self.seed, key, self.model.latent_shape)


@dataclass(frozen=True, eq=False)
class _Fixed(Strategy):
    """The strategy that asks for given entries of the table."""

    trials: TrialList
    wanted: NDArray[np.bool_]

    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        return self.trials

    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        missing = self.wanted & np.isnan(errors)
        return missing if missing.any() else None

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        return int(self.wanted.sum())


def sharing_errors(source: SharingSource, images: object) -> NDArray[np.float32]:
    """Return the squared errors (l2) of every prompt on its own trials: (n_images, n_prompts, n_trials)."""
    strategy = _Fixed(source.trials, source.own)
    tables = search(source, images, strategy, desc=f"shared: {source.shared}")
    n_prompts = len(source.own)
    return np.stack([table.errors[source.own].reshape(n_prompts, -1) for table in tables])
