"""Which images are classified correctly, from which of their trials, and how often.

    score of a prompt = minus its mean error over the trials used           (Li et al. 2023, Eq. 4 and Algorithm 1)

The prompt with the best score wins, the first of them in a tie. Here prompts stand for classes one to one, in the order
of the labels: an image is classified correctly if prompt `labels[image]` wins. In all functions here

    errors   (n_images, n_prompts, n_trials) prediction errors, the trials in the order in which they are spent
    labels   (n_images,) positions of the right prompts
    groups   (n_images,) the photograph that each image was made of; None: each of its own

Functions of errors and labels raise a ValueError if an error is missing, or the shapes or budgets do not fit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.stats import Estimate, mean, proportion

__all__ = [
    "accuracies",
    "correct_by_budget",
    "correct_by_trial",
    "margins",
    "plateau",
    "repeat_agreement",
    "share_above_chance",
]


def _check(errors: NDArray, labels: ArrayLike) -> None:
    """Raise ValueError unless errors are a complete (n_images, n_prompts, n_trials) array with a label per image."""
    if errors.ndim != 3 or len(labels) != len(errors):
        shape = f"{errors.shape} and {len(labels)} labels"
        raise ValueError(f"errors must be (n_images, n_prompts, n_trials) with a label per image, got {shape}")
    if np.isnan(errors).any():
        image, _, trial = np.argwhere(np.isnan(errors))[0]
        raise ValueError(f"errors must be evaluated for all trials used, got NaN at image {image}, trial {trial}")


def correct_by_trial(errors: NDArray, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return which images each trial alone classifies correctly, (n_images, n_trials)."""
    _check(errors, labels)
    return errors.argmin(axis=1) == np.asarray(labels)[:, None]


def correct_by_budget(
    errors: NDArray, labels: ArrayLike, budgets: ArrayLike, owners: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return (n_images, n_budgets): whether the first n trials classify an image correctly, n in 1..n_trials.

    `owners` are the classes of the prompts; None: one prompt per class.
    """
    _check(errors, labels)
    budgets, n_trials = np.asarray(budgets, dtype=np.int64), errors.shape[2]
    if budgets.min() < 1 or budgets.max() > n_trials:
        raise ValueError(f"budgets must lie in 1..{n_trials}, got {budgets.min()}..{budgets.max()}")
    sums = errors.cumsum(axis=2, dtype=np.float64)[:, :, budgets - 1]
    best = sums.argmin(axis=1)
    return (best if owners is None else owners[best]) == np.asarray(labels)[:, None]


def accuracies(correct: NDArray, groups: NDArray | None = None) -> list[Estimate]:
    """Return the mean of each column of (n_images, n) correct answers, or of shares of correct trials.

    The intervals are Wilson's where images are independent and the answers yes or no, else a bootstrap over groups.
    """
    independent = groups is None or len(np.unique(groups)) == len(correct)
    if independent and correct.dtype == bool:
        return [proportion(int(column.sum()), len(column)) for column in correct.T]
    found = [mean(column, groups=groups) for column in correct.T]
    return [estimate.within(0, 1) for estimate in found]


def plateau(t: ArrayLike, heights: ArrayLike, chance: float) -> tuple[float, float, float]:
    """Return the place of a curve's peak, and the first and the last place of the plateau around the peak.

    Heights are (n,) accuracies at increasing t. A point belongs to the plateau if its height above chance is at least
    90% of the peak's, and so are the heights of all points between.
    """
    t, heights = np.asarray(t, dtype=float), np.asarray(heights, dtype=float)
    peak = int(heights.argmax())
    below = np.flatnonzero(heights - chance < 0.9 * (heights[peak] - chance))
    first = max(below[below < peak], default=-1) + 1
    last = min(below[below > peak], default=len(t)) - 1
    return float(t[peak]), float(t[first]), float(t[last])


def share_above_chance(estimates: Sequence[Estimate], chance: float) -> list[Estimate]:
    """Return accuracies on the scale on which chance is 0 and the highest of them is 1; NaN if none is above chance.

    The intervals do not cover the uncertainty of the highest accuracy.
    """
    highest = max(estimate.value for estimate in estimates)
    height = highest - chance if highest > chance else float("nan")
    return [Estimate(*((number - chance) / height for number in e), e.level, e.n) for e in estimates]


def margins(errors: NDArray, labels: ArrayLike) -> NDArray[np.float64]:
    """Return by how much the right prompt's error lies below the mean of the other prompts', (n_images, n_trials)."""
    _check(errors, labels)
    errors = errors.astype(np.float64)
    right = errors[np.arange(len(errors)), labels]
    return (errors.sum(axis=1) - right) / (errors.shape[1] - 1) - right


def repeat_agreement(errors: NDArray) -> NDArray[np.float64]:
    """Return the share of pairs of two or more trials that choose the same prompt, (n_images,)."""
    chosen, (first, second) = errors.argmin(axis=1), np.triu_indices(errors.shape[2], 1)
    return (chosen[:, first] == chosen[:, second]).mean(axis=1)
