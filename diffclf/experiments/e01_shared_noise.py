"""Shared trials: classes compared on the same (t, eps), on the same t only, or on trials of their own.

The errors e_1, e_2 of two prompts on one image at one timestep vary with the noise. The variance of their difference is

    on noises of their own   var(e_1 - e_2) = var e_1 + var e_2
    on shared noise          var(e_1 - e_2) = var e_1 + var e_2 - 2 cov(e_1, e_2)

At one timestep the ratio of the two is the ratio of the trials that give the same precision. A score is a mean over
timesteps, whose variance is the mean of the variances: the timesteps with the largest variances decide it.

Source: Li et al. 2023, arXiv 2303.16203, section 3.3 and Figure 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from diffclf.datasets import ImageSet
from diffclf.experiments.accuracy import accuracies, correct_by_budget, correct_by_trial
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Fixed
from diffclf.search import ErrorSource, compute_errors, search
from diffclf.stats import Estimate, bootstrap, paired_difference
from diffclf.trials import TrialList, Trials

__all__ = ["SHARED", "Rivals", "Sharing", "SharingSource", "band_rows", "difference_variances", "evaluations"]
__all__ += ["fixed_noise_errors", "measure_rivals", "measure_sharing", "pair_errors", "variance_ratio"]

SHARED = ("t and noise", "t only", "nothing")
"""What the classes share."""
BANDS = (0, 0.1, 0.25, 0.5, 0.75, 1)
"""Ends of the bands of `band_rows`, as parts of all timesteps."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: Figure 2, the variances of many images, and three classifiers."""
    n_classes, n_images = settings["n_classes"], settings["n_images"]
    curves = 2 * settings["n_curve"] * settings["n_noises"]
    pooled = min(settings["n_pairs"], n_images) * n_classes * settings["n_pooled"] * settings["n_noises"]
    return curves + pooled + len(SHARED) * n_classes * n_images * settings["n_trials"]


def fixed_noise_errors(
    model: DiffusionModel,
    images: object,
    prompts: Sequence,
    timesteps: ArrayLike,
    n_noises: int,
    *,
    first: int = 0,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return the squared errors (l2) of images at every timestep, with each of the same few noises (Figure 2).

    Images, prompts and seed are as for `ErrorSource` and `search`; the noises of an image are number `first` and the
    next ones. The errors are (n_images, n_prompts, n_t, n_noises).
    """
    trials = TrialList.every_noise_at(timesteps, n_noises)
    trials.noises += first
    errors = compute_errors(ErrorSource(model, prompts, trials, seed=seed, losses=("l2",)), images, desc=None)
    return errors.reshape(*errors.shape[:2], -1, n_noises)


def difference_variances(errors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances over noises of the first prompt's error minus each other prompt's: on shared noise, on own.

    The errors are (..., n_prompts, n_t, n_noises), the variances (..., n_prompts - 1, n_t) and unbiased.
    """
    errors = np.asarray(errors, dtype=np.float64)
    first, others = errors[..., :1, :, :], errors[..., 1:, :, :]
    return (first - others).var(axis=-1, ddof=1), first.var(axis=-1, ddof=1) + others.var(axis=-1, ddof=1)


def variance_ratio(shared: NDArray, own: NDArray) -> float:
    """Return the median over timesteps of var(own noises) / var(shared noise), both (n_images, n_t).

    The variances are averaged over images first, so that a few images with a tiny variance do not decide the result.
    """
    return float(np.median(own.mean(axis=0) / shared.mean(axis=0)))


def pair_errors(
    model: DiffusionModel, images: ImageSet, pair: Sequence[str], n_curve: int, n_noises: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Return Figure 2: n_curve timesteps, errors summed over the latent (2, n_curve, n_noises), and the two classes.

    The image is the first of the pair's first class, or the first of all. A pair that the images lack is replaced by
    their first two classes.
    """
    names = [name for name in pair if name in images.classnames]
    names = names if len(names) == 2 else list(images.classnames[:2])
    classes = [images.classnames.index(name) for name in names]
    shown, prompts = int((images.labels == classes[0]).argmax()), images.prompts_for(model)
    t = np.unique(np.linspace(0, len(model.schedule) - 1, n_curve).round().astype(int))
    asked = [prompts[index] for index in classes]
    errors = fixed_noise_errors(model, images.images[shown], asked, t, n_noises, seed=seed)[0]
    return t, errors * np.prod(model.latent_shape, dtype=np.float64), names


@dataclass(frozen=True)
class Rivals:
    """Variances over noises of the right class's error minus each rival's, the nearest rival first.

    The errors are summed over the latent and the variances divided by its number of elements, so that latents of
    different sizes can be compared.

    Attributes:
        t: (n_t,) timesteps.
        shared: (n_images, n_rivals, n_t) variances on shared noise; `own`: on noises of their own.
        groups: (n_images,) photographs.
    """

    t: NDArray[np.int64]
    shared: NDArray[np.float64]
    own: NDArray[np.float64]
    groups: NDArray[np.int64]

    def pair(self, rank: int | ArrayLike = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return shared and own, (n_images, n_t), of the rival at a place from 0, the same or one for each image."""
        chosen = np.arange(len(self.own)), rank
        return self.shared[chosen], self.own[chosen]

    def ratio(self, rank: int | ArrayLike = 0, level: float = 0.95) -> Estimate:
        """Return `variance_ratio` with the rival at a place, with an interval over photographs."""
        return bootstrap(variance_ratio, *self.pair(rank), groups=self.groups, level=level)

    def mean_ratio(self) -> Estimate:
        """Return the ratio of the variances averaged over images and timesteps, with the nearest rival."""
        return bootstrap(lambda shared, own: float(own.mean() / shared.mean()), *self.pair(), groups=self.groups)

    def by_t(self) -> dict[str, list[Estimate]]:
        """Return the two variances and their ratio at every timestep, with the nearest rival."""
        shared, own = self.pair()
        options, found = {"groups": self.groups, "n_resamples": 500}, {}
        for name, values in (("own noises", own), ("shared noise", shared)):
            # Means of resampled variances stay above 0, so that a logarithmic axis can show their interval.
            found[name] = [bootstrap(np.mean, column, **options) for column in values.T]
        columns = zip(shared.T[..., None], own.T[..., None], strict=True)
        return found | {"ratio": [bootstrap(variance_ratio, *pair, **options) for pair in columns]}


def measure_rivals(
    model: DiffusionModel, images: ImageSet, ranking: NDArray, timesteps: NDArray, n_noises: int, seed: int = 0
) -> Rivals:
    """Return the variances of images over n_noises noises, their rivals ranked by mean errors on other trials.

    `ranking`: (n_images or more, n_classes, n_trials) errors on the noises 0 .. n_trials - 1 of the seed. The variances
    are taken over the next noises.
    """
    means, rows = ranking[: len(images)].mean(axis=2, dtype=np.float64), np.arange(len(images))
    means[rows, images.labels] = -np.inf  # the right class stands first
    order = means.argsort(axis=1, kind="stable")[:, :, None, None]
    options = {"first": ranking.shape[2], "seed": seed}
    errors = fixed_noise_errors(model, images.images, images.prompts_for(model), timesteps, n_noises, **options)
    shared, own = difference_variances(np.take_along_axis(errors, order, axis=1))
    elements = np.prod(model.latent_shape)
    return Rivals(timesteps, shared * elements, own * elements, images.groups)


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


@dataclass(frozen=True)
class Sharing:
    """Classifiers with equally many trials, by what their classes share.

    Attributes:
        errors: what is shared -> (n_images, n_prompts, n_trials) squared errors (l2) on each prompt's own trials.
        timesteps: (n_images, n_trials), shared by the classes or, where nothing is shared, of the first class.
        labels: (n_images,) right prompts; `groups`: (n_images,) photographs.
    """

    errors: dict[str, NDArray[np.float32]]
    timesteps: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def right(self, what: str) -> NDArray[np.bool_]:
        """Return (n_images, n_trials): whether the first 1, 2, ... trials classify an image correctly."""
        return correct_by_budget(self.errors[what], self.labels, np.arange(self.timesteps.shape[1]) + 1)

    def compare(self, first: tuple[str, int], second: tuple[str, int], level: float = 0.95) -> Estimate:
        """Return the accuracy of one (what is shared, trials) minus that of another, in points."""
        right = [self.right(what)[:, n - 1] for what, n in (first, second)]
        return 100 * paired_difference(*right, self.groups, level=level)

    def curves(self) -> dict[str, tuple[NDArray[np.int64], list[Estimate]]]:
        """Return what is shared -> at most eight numbers of trials, and the accuracies with them in points."""
        n = np.unique(np.geomspace(1, self.timesteps.shape[1], 8).round().astype(int))
        return {what: (n, [100 * e for e in accuracies(self.right(what)[:, n - 1], self.groups)]) for what in SHARED}

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return a row per way of sharing: accuracy with one and with all trials, and trials for equal accuracy."""
        rows, goal = {}, self.right(SHARED[0])[:, 0].mean()
        for what, (n, estimates) in self.curves().items():
            enough = np.flatnonzero(self.right(what).mean(axis=0) >= goal)
            rows[f"shared: {what}"] = {
                "1 trial": estimates[0],
                f"{n[-1]} trials": estimates[-1],
                "gained": self.compare((what, n[-1]), (what, 1)),
                "trials for one shared trial's accuracy": int(enough[0]) + 1 if len(enough) else f"over {n[-1]}",
            }
        return rows


def measure_sharing(model: DiffusionModel, images: ImageSet, n_trials: int, seed: int = 0) -> Sharing:
    """Return the errors of the three classifiers on images."""
    errors, prompts = {}, images.prompts_for(model)
    for what in reversed(SHARED):  # the last tables are those of shared trials
        source = SharingSource(model, prompts, n_trials, what, seed=seed)
        tables = list(search(source, images.images, Fixed(source.trials, source.own), desc=f"shared: {what}"))
        errors[what] = np.stack([table.errors[source.own].reshape(len(prompts), -1) for table in tables])
    return Sharing(errors, np.stack([table.timesteps for table in tables]), images.labels, images.groups)


def band_rows(rivals: Rivals, sharing: Sharing, n_timesteps: int) -> dict[str, dict[str, Any]]:
    """Return a row per band of timesteps: its part of the variance of a score, and the accuracy of one trial in it.

    The part is that of a mean over all timesteps of the difference to the nearest rival, in per cent. The accuracy, in
    points, is NaN where no trial fell into the band.
    """
    rows, ends = {}, np.array(BANDS) * n_timesteps
    groups = np.broadcast_to(sharing.groups[:, None], sharing.timesteps.shape)
    right = {what: correct_by_trial(sharing.errors[what], sharing.labels) for what in SHARED[:2]}
    widths = [high - low for low, high in pairwise(ends)]
    measured = [(low <= rivals.t) & (rivals.t < high) for low, high in pairwise(ends)]
    parts = [[w * values[:, at].mean() for w, at in zip(widths, measured, strict=True)] for values in rivals.pair()]
    for k, (low, high) in enumerate(pairwise(ends)):
        at = (low <= sharing.timesteps) & (sharing.timesteps < high)
        own, shared = (100 * part[k] / sum(part) for part in reversed(parts))
        alone = [100 * accuracies(right[w][at][:, None], groups[at])[0] if at.any() else np.nan for w in SHARED[:2]]
        rows[f"{low:.0f} to {high - 1:.0f}"] = {
            "variance, own": own,
            "variance, shared": shared,
            "one trial, own": alone[1],
            "one trial, shared": alone[0],
        }
    return rows
