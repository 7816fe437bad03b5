"""Where a single timestep tells classes apart: on a line with the best denoiser, at both ends, in halves of a picture.

The line has two classes of three narrow bumps each (`line_world`), which is long beside the noise. A network trained to
predict eps tends to the best denoiser, so that the results on the line hold without any error of the network.

Source: Li et al. 2023, arXiv 2303.16203, section 4.1 and Figure 3; Ho et al. 2020, arXiv 2006.11239, Eq. 15.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.accuracy import (
    accuracies,
    correct_by_budget,
    correct_by_trial,
    plateau,
    repeat_agreement,
    share_above_chance,
)
from diffclf.images import load_images, to_pixels
from diffclf.models.conditioning import Conditioning
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import NoiseSchedule
from diffclf.stats import Estimate, bootstrap, mean, paired_difference
from diffclf.trials import Trials, image_key

__all__ = ["HALVES", "SHOWN", "SingleTrials", "class_means", "evaluations", "figure3_curves", "figure3_rows", "guesses"]
__all__ += [
    "half_errors",
    "half_gaps",
    "half_panels",
    "latents",
    "line_errors",
    "line_world",
    "log_snr",
    "nearest_mean",
]
__all__ += ["paper_schedule", "predict_clean"]

HALVES = (0, 0.005, 0.025, 0.1, 0.3, 0.5)
"""Timesteps of `half_errors`, as shares of the range."""
SHOWN, N_NOISES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1), 20
"""Timesteps and noises of `guesses`."""
PAPER_CHANCE = 100 / 37
"""Accuracy of guessing one of the breeds of Pets, in points."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the evaluations of `Uniform`, which notebooks 03 and 04 share, of `half_errors` and of `guesses`."""
    n_trials = settings["n_trials"] + len(HALVES)
    return settings["n_classes"] * n_trials * settings["n_images"] + len(SHOWN) * (N_NOISES + 1)


def log_snr(schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Return the base-ten logarithm of the signal-to-noise ratio, (T,)."""
    return schedule.log_snr.numpy() / np.log(10)


def paper_schedule() -> NoiseSchedule:
    """Return the schedule of Stable Diffusion: betas linear in their square roots, from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return NoiseSchedule.variance_preserving((1 - betas).cumprod(0))


def line_world(
    schedule: NoiseSchedule, classes: Sequence[Sequence[float]] = ((-12, -8, 4), (-4, 8, 12)), width: float = 1.0
) -> GaussianMixtureModel:
    """Return the exact model of classes on a line: centres of equally likely bumps, all of one standard deviation."""
    centres = [[float(centre)] for bumps in classes for centre in bumps]
    owners = [c for c, bumps in enumerate(classes) for _ in bumps]
    return GaussianMixtureModel(centres, [width**2] * len(centres), classes=owners, schedule=schedule)


def line_errors(
    world: GaussianMixtureModel, timesteps: Sequence[int], *, n_points: int, one_noise: bool, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the squared errors of random points on the line under every class, and the points' own classes.

    The world has as many bumps in each class. The timesteps are those of n_trials trials, each with a noise of its own
    unless all trials of a point have one noise. The results are (n_points, n_classes, n_trials) and (n_points,).
    """
    rng, n_classes = np.random.default_rng(seed), len(world.labels)
    centres, width = world.means.numpy().reshape(n_classes, -1), float(world.covariances[0, 0, 0]) ** 0.5
    label = rng.integers(n_classes, size=n_points)
    x0 = rng.normal(centres[label, rng.integers(centres.shape[1], size=n_points)], width)
    noises = rng.standard_normal((1 if one_noise else len(timesteps), n_points))
    errors = np.empty((n_points, n_classes, len(timesteps)))
    clean, every = torch.from_numpy(x0).view(-1, 1, 1, 1), world.encode_prompts(range(n_classes))
    for trial, t in enumerate(timesteps):
        eps = torch.from_numpy(noises[trial % len(noises)]).view_as(clean)
        steps = torch.full((n_points,), int(t))
        x_t = world.schedule.add_noise(clean, eps, steps)
        for c in range(n_classes):
            output = world.denoise(x_t, steps, every[[c] * n_points])
            errors[:, c, trial] = (world.schedule.predict_eps(output, x_t, steps) - eps).square().flatten()
    return errors, label


@torch.inference_mode()
def predict_clean(
    model: DiffusionModel, x0: Tensor, eps: Tensor, timesteps: Sequence[int], cond: Conditioning
) -> tuple[Tensor, Tensor]:
    """Noise one latent to several timesteps and predict the clean latent from each, in one step.

    The latent, on the model's device, and the noise are (1, C, H, W). At every timestep alpha_t must be above 0.
    Returns x_t, (n_t, C, H, W), and x0_hat, (n_prompts, n_t, C, H, W), float32, for each row of cond.
    """
    schedule, t = model.schedule.to(model.device), torch.tensor(list(timesteps), device=model.device)
    clean = x0.float().expand(len(t), -1, -1, -1)
    x_t = schedule.add_noise(clean, eps.to(clean).expand_as(clean), t)
    outputs = [model.denoise(x_t, t, cond[[prompt] * len(t)]).float()[:, : x_t.shape[1]] for prompt in range(len(cond))]
    return x_t, torch.stack([schedule.predict_x0(output, x_t, t) for output in outputs])


def _colours(pixels: Tensor) -> Tensor:
    """Return the directions of the mean colours of (n, 3, H, W) pixels, weighted by brightness, (n, 3)."""
    values = ((pixels + 1) / 2).clamp(0, 1)
    return normalize((values * values.sum(1, keepdim=True)).mean((2, 3)))


def guesses(
    model: DiffusionModel, images: ImageSet, timesteps: Sequence[int], seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, ArrayLike]]:
    """Guess the first image from its noised latent, for its own prompt and for that of the next class.

    Returns rows of pixels, row -> (n_t, 3, H, W) in [-1, 1], and columns of a table over the timesteps: the mean
    squared difference of the two guesses, that of each guess and the latent, the likeness of the colours of the image
    and its own guess (cosine of their mean colours), and how many noises give a likeness under 0.95.
    """
    right = int(images.labels[0])
    names = [images.classnames[c] for c in (right, (right + 1) % len(images.classnames))]
    pixels = to_pixels(load_images(images.images[0])[0], model.image_size)
    x0, cond = model.encode_images(pixels[None]), model.encode_prompts([images.prompts[name] for name in names])
    noises = Trials([0] * N_NOISES, seed, image_key(pixels), model.latent_shape).noise(range(N_NOISES)).split(1)
    x_t, x0_hat = predict_clean(model, x0, noises[0], timesteps, cond)
    own = [predict_clean(model, x0, eps, timesteps, cond[[0]])[1][0] for eps in noises[1:]]
    shown = [model.decode_latents(latents).float().cpu() for latents in (x_t, *x0_hat, *own)]
    truth = _colours(pixels[None])[0]
    likeness = torch.stack([_colours(own) @ truth for own in (shown[1], *shown[3:])])
    miss = (x0_hat - x0).square().flatten(2).mean(2).cpu()
    table = {"gap": (x0_hat[0] - x0_hat[1]).square().flatten(1).mean(1).cpu(), "miss, right": miss[0], "other": miss[1]}
    table |= {"colour alike": likeness[0], "other colour, noises": (likeness < 0.95).sum(0)}
    rows = dict(zip(["noised", *(f'guess,\n"{name}"' for name in names)], shown, strict=False))
    return rows, {name: column.numpy() for name, column in table.items()}


def half_errors(
    model: DiffusionModel, images: ImageSet, timesteps: Sequence[int], seed: int = 0
) -> NDArray[np.float64]:
    """Return the squared error of the noise in the flat and in the detailed half of each image, one noise an image.

    A place of the latent is flat if the pixels below it vary (largest minus smallest value) at most as much as those
    below the median place of the image. The result is (2, n_images, n_prompts, n_t), means over places and channels.
    """
    cond, found = model.encode_prompts(images.prompts_for(model)), []
    snr = model.schedule.log_snr[list(timesteps)].exp().to(model.device).view(-1, 1, 1)
    for image in load_images(images.images):
        pixels = to_pixels(image, model.image_size)
        x0 = model.encode_images(pixels[None])
        eps = Trials([0], seed, image_key(pixels), model.latent_shape).noise([0])
        _, x0_hat = predict_clean(model, x0, eps, timesteps, cond)
        squared, side = snr * (x0_hat - x0).square().mean(2), pixels.shape[-1] // x0.shape[-1]
        spread = (max_pool2d(pixels, side) + max_pool2d(-pixels, side)).amax(0)
        flat = (spread <= spread.median()).to(squared.device)
        detailed = flat if flat.all() else ~flat  # a picture of one colour has no details
        found.append(torch.stack([squared[..., places].mean(-1) for places in (flat, detailed)]))
    return torch.stack(found, 1).double().cpu().numpy()


def latents(model: DiffusionModel, images: ImageSet) -> NDArray[np.float64]:
    """Return the clean latents of images, (n_images, D)."""
    loaded = (to_pixels(image, model.image_size)[None] for image in load_images(images.images))
    return np.stack([model.encode_images(pixels).flatten().double().cpu().numpy() for pixels in loaded])


def class_means(model: DiffusionModel, images: ImageSet) -> NDArray[np.float64]:
    """Return the mean latent of the first images of each class, (n_classes, D); every class must have one."""
    some = images.first(40 * len(images.classnames))
    x0 = latents(model, some)
    return np.stack([x0[some.labels == label].mean(axis=0) for label in range(len(images.classnames))])


def nearest_mean(x0: NDArray, means: NDArray, labels: NDArray, groups: NDArray) -> Estimate:
    """Return the accuracy in points of the nearest of the means (n_classes, D), for latents x0 (n_images, D)."""
    squared = np.square(x0[:, None] - means).sum(axis=2)
    return 100 * accuracies((squared.argmin(axis=1) == labels)[:, None], groups)[0]


@dataclass(frozen=True, eq=False)
class SingleTrials:
    """Trials that are judged one by one; errors, labels and groups are those of `accuracy`."""

    errors: NDArray
    labels: NDArray
    groups: NDArray
    t: NDArray[np.int64]  # (n_trials,) timesteps
    n_timesteps: int = 1000

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(n_images, n_trials): which images each trial classifies correctly."""
        return correct_by_trial(self.errors, self.labels)

    @cached_property
    def centres(self) -> NDArray[np.float64]:
        """(n_parts,) mean timesteps of the trials in each twentieth of the range that has a trial, increasing."""
        return self.shares(self.t[None]).ravel()

    def shares(self, correct: NDArray) -> NDArray[np.float64]:
        """Return the means over the trials of each part of the range, (n_images, n_parts)."""
        place = self.t * 20 // self.n_timesteps
        return np.stack([correct[:, place == part].mean(axis=1) for part in np.unique(place)], axis=1)

    def accuracy(self, correct: NDArray | None = None) -> list[Estimate]:
        """Return the accuracy in each part of the range, in points."""
        return [100 * e for e in accuracies(self.shares(self.correct if correct is None else correct), self.groups)]

    def peak(self, correct: NDArray | None = None) -> Estimate:
        """Return the timestep at which the accuracy is highest, with its interval."""
        shares = self.shares(self.correct if correct is None else correct)
        return bootstrap(lambda some: self.centres[some.mean(axis=0).argmax()], shares, groups=self.groups)

    def window(self, low: float, high: float) -> NDArray[np.float64]:
        """Return each image's share of correct trials at timesteps from low T to below high T, (n_images,)."""
        return self.correct[:, (self.t >= low * self.n_timesteps) & (self.t < high * self.n_timesteps)].mean(axis=1)

    def pairs(self, means: NDArray) -> dict[str, NDArray[np.bool_]]:
        """Return (n_images, n_trials): whether the right prompt beats that of its nearest, and of its farthest, class.

        Near and far go by the distance between the classes' means, (n_classes, D).
        """
        distances = np.square(means[:, None] - means).sum(axis=2)
        near = (distances + np.diag([np.inf] * len(means))).argmin(axis=1)
        images, found = np.arange(len(self.labels)), {}
        for name, other in (("nearest class", near), ("farthest class", distances.argmax(axis=1))):
            found[name] = self.errors[images, self.labels] < self.errors[images, other[self.labels]]
        return found

    def earlier(self, pairs: Mapping[str, NDArray], x: ArrayLike) -> Estimate:
        """Return by how much the first curve of two leaves its plateau earlier, in units of x at the centres.

        The plateau has 90% of the peak's height above 1/2; x decreases.
        """

        def gap(some: NDArray) -> float:
            first, second = (plateau(-np.asarray(x), heights, 0.5)[2] for heights in some.mean(axis=0))
            return second - first

        return bootstrap(gap, np.stack([self.shares(own) for own in pairs.values()], axis=1), groups=self.groups)

    def choices(self, n: int = 5) -> dict[str, dict[str, Estimate | float]]:
        """Return how the n trials with the least noise, and n in the middle, choose: name -> row -> per cent.

        If the choice did not depend on the image, two trials would choose alike as often as two draws from the shares
        of the classes among all choices. The bias of a class is its mean error over the other images.
        """
        order, half = np.argsort(self.t), len(self.t) // 2
        rows = {}
        for own in (order[:n], order[max(0, half - n // 2) :][:n]):
            errors = self.errors[:, :, own]
            bias = (errors.sum(axis=0) - errors) / max(1, len(errors) - 1)
            shares = np.bincount(errors.argmin(axis=1).ravel(), minlength=errors.shape[1]) / errors[:, 0].size
            columns = {
                "one trial": self.correct[:, own].mean(axis=1),
                "one trial, no biases": correct_by_trial(errors - bias, self.labels).mean(axis=1),
                f"mean of {n} trials": correct_by_budget(errors, self.labels, [len(own)])[:, 0],
                "two trials alike": repeat_agreement(errors),
            }
            found = {name: 100 * accuracies(values[:, None], self.groups)[0] for name, values in columns.items()}
            found["alike, without the image"] = 100 * float(np.square(shares).sum())
            found["noise recognised"] = recognised(errors.mean(axis=2, keepdims=True), self.labels, self.groups)[0]
            rows[f"t = {self.t[own].min()} to {self.t[own].max()}"] = found
        return rows


def figure3_curves(run: SingleTrials, paper: ArrayLike, log_snr: ArrayLike, paper_snr: ArrayLike) -> tuple[Any, ...]:
    """Return what Figure 3 shows: dots, this run's and the paper's accuracies over t, and both scaled, over log10 SNR.

    Scaled is 0 at chance and 1 at a curve's own peak. `paper` are (n, 2) points, log_snr is that at the centres of this
    run's parts, paper_snr that at each of the paper's 1000 timesteps.
    """
    (t, points), accuracy = np.asarray(paper, dtype=float).T, run.accuracy()
    chance = 100 / run.errors.shape[1]
    above = share_above_chance(accuracy, chance)
    theirs = np.interp(t, np.arange(1000), paper_snr), (points - PAPER_CHANCE) / (points.max() - PAPER_CHANCE)
    dots, levels = (run.t, 100 * run.correct.mean(0)), {"chance, here": chance, "chance, Pets": PAPER_CHANCE}
    return dots, (run.centres, accuracy), paper, (log_snr, above), np.transpose(theirs), levels


def figure3_rows(
    run: SingleTrials, paper: ArrayLike, log_snr: ArrayLike, paper_snr: ArrayLike
) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Return rows about both curves' peaks and ends, and the log10 SNR of the peaks; the SNRs are those of all t."""
    (t, points), accuracy, best = np.asarray(paper, dtype=float).T, run.accuracy(), run.peak()
    chance, heights = 100 / run.errors.shape[1], [e.value for e in accuracy]
    (_, *own), (place, *theirs) = plateau(run.centres, heights, chance), plateau(t, points, PAPER_CHANCE)
    places = [float(np.interp(p, np.arange(len(s)), s)) for p, s in ((best.value, log_snr), (place, paper_snr))]
    rows = {"peak at t": (best, place), "log10 SNR at the peak": places, "chance, points": (chance, PAPER_CHANCE)}
    rows |= {"90% of its height from t": (own[0], theirs[0]), "90% of its height to t": (own[1], theirs[1])}
    rows["highest, points"] = accuracy[int(np.argmax(heights))], points.max()
    rows |= {"left end, points": (accuracy[0], points[0]), "right end, points": (accuracy[-1], points[-1])}
    return {name: dict(zip(("this run", "paper, Pets"), row, strict=True)) for name, row in rows.items()}, places


def recognised(errors: NDArray, labels: NDArray, groups: NDArray) -> list[Estimate]:
    """Return how much of the noise the right prompt recognises in each trial: 1 minus its error, in per cent."""
    right = errors[np.arange(len(errors)), labels]
    return [100 * mean(1 - column, groups=groups) for column in right.T]


def half_panels(halves: NDArray, labels: NDArray, groups: NDArray, log_snr: NDArray) -> dict[str, dict[str, Any]]:
    """Return title -> half -> curve over log10 SNR (n_t,): accuracy and noise recognised; halves of `half_errors`."""
    decided, known = {}, {}
    for name, errors in zip(("flat half", "detailed half"), halves, strict=True):
        decided[name] = log_snr, [100 * e for e in accuracies(correct_by_trial(errors, labels), groups)]
        known[name] = log_snr, recognised(errors, labels, groups)
    return {"Accuracy of half of the picture": decided, "Noise recognised": known}


def half_gaps(halves: NDArray, labels: NDArray, groups: NDArray) -> list[Estimate]:
    """Return the accuracy of the flat half minus that of the detailed half at each timestep, in points."""
    flat, detailed = (correct_by_trial(errors, labels) for errors in halves)
    return [100 * paired_difference(*pair, groups) for pair in zip(flat.T, detailed.T, strict=True)]
