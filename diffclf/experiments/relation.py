"""What a denoiser's training loss pays for words that state a relation, and which trainings learn them.

Two scenes x0 and x0' differ in their layout by D^2 = |x0 - x0'|^2, and p is the posterior probability of the right one
given x_t. A denoiser that knows the layout has no error. One that does not predicts the mean of the two, and its mean
squared error, summed over the latent, is

    of x0     D^2 E[p (1 - p)]
    of eps    SNR D^2 E[p (1 - p)],          SNR = alpha_t^2 / sigma_t^2
    of v      (SNR + 1) D^2 E[p (1 - p)]     (where alpha_t^2 + sigma_t^2 = 1)

This is what words that state the layout earn. log p / (1 - p) is normal with mean SNR D^2 / 2 and variance SNR D^2.

The trainings are `diffclf.mini.sd.train_objective`; their error differences are stored in data/scores/relation.npz. A
difference is the error of the false caption minus that of the true one on one trial, in eps whatever the network
predicts. An image is right if the mean difference, or a weighted one, is above 0. Intervals are for other seeds of the
training and other images (`diffclf.stats.crossed`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from diffclf.bank import ErrorBank
from diffclf.datasets.compositional import MINI, load_examples
from diffclf.datasets.imageset import ImageSet
from diffclf.images import load_images, to_pixels
from diffclf.mini.sd import MAX_WEIGHT, OBJECTIVES
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.schedule import NoiseSchedule
from diffclf.stats import Estimate, crossed
from diffclf.trials import TrialList

__all__ = ["SHIPPED", "Scores", "caption_errors", "compared", "contrasts", "earned", "earned_shares", "fitted_weights"]
__all__ += ["late_weights", "layout_distance2", "read_scores", "reading", "seed_accuracies", "summary_rows", "unknown"]

SHIPPED = {"epsilon": "mini-sd", "v": "mini-sd@relation-v"}
"""Objective -> a model with it. That of v is the first of the stored trainings; mini-sd is none of them."""
N_BINS = 10
EQUAL, LATE, FITTED = "equal weights", "weights of v's loss", "fitted weights"


def unknown(snr: ArrayLike, distance2: float) -> NDArray[np.float64]:
    """Return E[p (1 - p)] of two equally probable scenes at squared distance D^2, in the shape of the SNR."""
    gap = np.asarray(snr, dtype=np.float64)[..., None] * distance2
    z = np.linspace(-12, 12, 4001)
    density, log_odds = np.exp(-(z**2) / 2), gap / 2 + np.sqrt(gap) * z
    return (expit(log_odds) * expit(-log_odds) * density / density.sum()).sum(axis=-1)


def earned(schedule: NoiseSchedule, distance2: float, objective: str = "epsilon") -> NDArray[np.float64]:
    """Return what words that state the layout earn at each timestep (T,), summed over the latent.

    Args:
        schedule: variance-preserving.
        distance2: squared distance D^2 of the two scenes.
        objective: one of `diffclf.mini.sd.OBJECTIVES`.
    """
    snr = schedule.log_snr.exp().numpy()
    weight = {"epsilon": 1.0, "late": late_weights(schedule), "v": schedule.alpha.numpy() ** -2}[objective]
    return weight * snr * distance2 * unknown(snr, distance2)


def late_weights(schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Return the weights of the error in eps in the objective "late", (T,); but for their bound they are those of v."""
    return np.minimum(schedule.alpha.numpy() ** -2, MAX_WEIGHT)


def layout_distance2(model: DiffusionModel, n: int = 50) -> float:
    """Return the mean squared distance D^2 of the latents of n pairs of scenes that differ in their places alone."""
    examples = load_examples(MINI, "tune", n)
    pixels = torch.stack([to_pixels(image, model.image_size) for image in load_images(examples.images)])
    first, second = model.encode_images(pixels).float()[examples.pair[examples.tags == "position"].T]
    return float((first - second).square().flatten(1).sum(dim=1).mean())


@dataclass(frozen=True, eq=False)
class Scores:
    """Error differences of the trainings on the same images and trials.

    Attributes:
        differences: (n_objectives, n_seeds, n, n_trials) on test images, objectives in the order of `OBJECTIVES`.
        tune: (n_objectives, n_seeds, n_tune, n_trials) on tune images.
        timesteps: (n_trials,) of the trials.
        sideways: (n,) whether the relation of a test image is left or right.
    """

    differences: NDArray[np.float32]
    tune: NDArray[np.float32]
    timesteps: NDArray[np.int64]
    sideways: NDArray[np.bool_]

    def right(self, objective: str, weights: ArrayLike = 1.0) -> NDArray[np.bool_]:
        """Return which images are right, (n_seeds, n); weights (n_trials,) or (n_seeds, 1, n_trials)."""
        own = self.differences[OBJECTIVES.index(objective)].astype(np.float64)
        return (own * weights).sum(axis=2) > 0

    def later(self) -> NDArray[np.bool_]:
        """Return which trials belong to the later half of the timesteps, (n_trials,)."""
        return self.timesteps >= np.median(self.timesteps)

    def curve(self, objective: str) -> tuple[list[float], list[Estimate]]:
        """Return the mean timestep of each bin of trials, and the accuracy of a single trial in it, in points."""
        single = 100.0 * (self.differences[OBJECTIVES.index(objective)] > 0)
        bins = np.array_split(np.argsort(self.timesteps), N_BINS)
        points = [crossed(single[..., b].mean(axis=2)).within(0, 100) for b in bins]
        return [float(self.timesteps[b].mean()) for b in bins], points


def read_scores() -> Scores:
    """Return the stored scores.

    Raises:
        FileNotFoundError: there are none; `diffclf score relation` makes them.
    """
    with np.load(data_dir() / "scores" / "relation.npz") as file:
        return Scores(**{name: file[name] for name in ("differences", "tune", "timesteps", "sideways")})


def fitted_weights(scores: Scores, objective: str) -> NDArray[np.float64]:
    """Return the weight of each trial for each training, (n_seeds, 1, n_trials), from the tune images.

    Trials are put in bins by their timestep. The weight of a bin is the mean of its difference on the tune images
    divided by the variance over them, 0 where the mean is negative: the best weights of independent normal differences.
    Equal weights if no bin has a positive mean.
    """
    tune = scores.tune[OBJECTIVES.index(objective)].astype(np.float64)
    weights = np.zeros((len(tune), 1, len(scores.timesteps)))
    for part in np.array_split(np.argsort(scores.timesteps), N_BINS):
        own = tune[..., part].mean(axis=2)
        weights[:, 0, part] = (np.maximum(own.mean(axis=1), 0) / own.var(axis=1))[:, None]
    weights[~weights.any(axis=2).ravel()] = 1.0
    return weights / weights.mean(axis=2, keepdims=True)


def _points(right: NDArray, level: float = 0.95) -> Estimate:
    """Return an accuracy in points, or a difference of two, (n_seeds, n_images), within what is possible."""
    return crossed(100.0 * right, level).within(0 if right.dtype == bool else -100, 100)


def _weightings(scores: Scores, objective: str, schedule: NoiseSchedule) -> dict[str, NDArray[np.float64]]:
    late = late_weights(schedule)[scores.timesteps]
    return {EQUAL: np.ones(len(late)), LATE: late, FITTED: fitted_weights(scores, objective)}


def seed_accuracies(scores: Scores) -> dict[str, tuple[Estimate, list[float]]]:
    """Return objective -> its accuracy in points, and that of each seed."""
    rights = {objective: scores.right(objective) for objective in OBJECTIVES}
    return {objective: (_points(own), (100 * own.mean(axis=1)).tolist()) for objective, own in rights.items()}


def summary_rows(scores: Scores, schedule: NoiseSchedule) -> dict[str, dict[str, Estimate]]:
    """Return objective -> accuracies in points: by three weightings, of both axes, by both halves of the trials."""
    rows = {}
    for objective in OBJECTIVES:
        found = {
            name: _points(scores.right(objective, weights))
            for name, weights in _weightings(scores, objective, schedule).items()
        }
        right = scores.right(objective)
        found |= {"left/right": _points(right[:, scores.sideways]), "above/below": _points(right[:, ~scores.sideways])}
        later = scores.later()
        found |= {"earlier half": _points(scores.right(objective, ~later))}
        rows[objective] = found | {"later half": _points(scores.right(objective, later))}
    return rows


def contrasts(scores: Scores, level: float = 0.95) -> dict[str, Estimate]:
    """Return the estimates of the claims about the trainings, in points."""
    plain, later = {objective: 1.0 * scores.right(objective) for objective in OBJECTIVES}, scores.later()
    return {
        "v-learns-relation": _points(plain["v"] - plain["epsilon"], level),
        "late-weight-learns-relation": _points(plain["late"] - plain["epsilon"], level),
        "late-trials-know-relation": _points(1.0 * scores.right("v", later) - scores.right("v", ~later), level),
    }


def caption_errors(
    bank: Callable[..., ErrorBank], model: DiffusionModel, data: ImageSet, timesteps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the errors of the true and the false caption of each image, (n, 2, n_trials), as the stored ones.

    Args:
        bank: (model, prompts, trials, losses, seed) -> its errors, as `Workbook.bank`.
        model: a training.
        data: the images.
        timesteps: (n_trials,) of the trials.
    """
    source = bank(model, data.captions, TrialList(timesteps), losses=("l2",), seed=0)
    return source.errors(data.images, desc=model.name).astype(np.float64)


def compared(errors: NDArray, scores: Scores) -> dict[str, float]:
    """Compare new errors (n, 2, n_trials) of the training that is shipped with the stored scores of the same images.

    Returns the number of images, of those with the same answer, the mean size of a stored difference, and the largest
    gap between a new and a stored one.
    """
    new, stored = errors[:, 1] - errors[:, 0], scores.differences[OBJECTIVES.index("v"), 0, : len(errors)]
    same = int(((new.mean(axis=1) > 0) == (stored.mean(axis=1) > 0)).sum())
    sizes = {"mean difference": float(np.abs(stored).mean()), "largest gap": float(np.abs(new - stored).max())}
    return {"images": len(errors), "same answer": same} | sizes


def earned_shares(
    schedule: NoiseSchedule, distance2: float, errors: Mapping[str, NDArray], timesteps: NDArray, n_elements: int
) -> dict[str, float]:
    """Return objective -> the largest share of its training loss that words can earn, in per cent.

    Both are means over the timesteps: `earned` of two scenes, and the error of a trained denoiser, weighted by its
    objective.

    Args:
        schedule: of the trainings.
        distance2: squared distance of two scenes that differ in their layout.
        errors: objective -> mean error in eps of the true caption on each trial (n_trials,), a mean over the latent.
        timesteps: (n_trials,) of the trials.
        n_elements: of a latent.
    """
    weights = {"epsilon": 1.0, "v": schedule.alpha.numpy()[timesteps] ** -2}
    return {
        objective: 100 * (earned(schedule, distance2, objective)[timesteps].mean() / n_elements)
        / (weights[objective] * own).mean()
        for objective, own in errors.items()
    }  # fmt: skip


def reading(scores: Scores) -> list[str]:
    """Return what the stored scores say, in sentences that hold for any scores."""
    found, accuracies = contrasts(scores), seed_accuracies(scores)
    accuracy, seeds = ({name: own[place] for name, own in accuracies.items()} for place in (0, 1))
    best = max(accuracy, key=lambda objective: accuracy[objective].value)
    chance = [objective for objective, own in accuracy.items() if own.low <= 50 <= own.high]
    said = [
        f"The objective with the highest accuracy is {best}: {accuracy[best]:.1f} points. "
        f"Intervals for other seeds that contain chance, 50: {', '.join(chance) or 'none'}.",
        f"v minus epsilon: {found['v-learns-relation']:.1f}; late minus epsilon: "
        f"{found['late-weight-learns-relation']:.1f} points.",
    ]
    said += [f"Seeds of {name}: {', '.join(f'{each:.1f}' for each in own)}." for name, own in seeds.items()]
    worst, best_other = min(seeds["v"]), max(seeds["epsilon"])
    said.append(f"The worst seed of v is {worst:.1f}, the best of epsilon {best_other:.1f}.")
    rest = _points(1.0 * scores.right("v") - scores.right("late"))
    said.append(f"v minus late, which has the weights of v's loss up to {MAX_WEIGHT:.0f}: {rest:.1f} points.")
    fitted = scores.right("epsilon", fitted_weights(scores, "epsilon"))
    gain, left = _points(1.0 * fitted - scores.right("epsilon")), _points(1.0 * scores.right("v") - fitted)
    said.append(
        f"Weights fitted on tune images change epsilon by {gain:.1f} points; v with equal weights is then still "
        f"{left:.1f} points above it."
        if left.low > 0
        else f"Weights fitted on tune images change epsilon by {gain:.1f} points; v with equal weights minus that: "
        f"{left:.1f} points."
    )
    return said
