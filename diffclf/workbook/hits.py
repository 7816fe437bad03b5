"""Which images are classified correctly from which trials of a stored error table.

A prompt's score is minus its mean error over the trials used (Li et al. 2023, Eq. 4 and Algorithm 1), and the best
one wins. A *hit* is an image whose best prompt is its label's. Prompts stand for classes one to one, in the order of
the labels.
"""

from collections.abc import Sequence

import numpy as np

from diffclf.stats import Estimate, mean, proportion

__all__ = [
    "above_chance",
    "accuracy",
    "bin_means",
    "margin_ratio",
    "margins",
    "plateau",
    "prefix_hits",
    "repeat_agreement",
    "single_trial_hits",
]


def _check(errors: np.ndarray, labels: np.ndarray) -> None:
    if errors.ndim != 3 or len(labels) != len(errors):
        raise ValueError(
            f"errors must be (n_images, n_prompts, n_trials) with a label per image, got {errors.shape} "
            f"and {len(labels)} labels"
        )
    if np.isnan(errors).any():
        image, _, trial = np.argwhere(np.isnan(errors))[0]
        raise ValueError(f"errors must be evaluated for all trials used, got NaN at image {image}, trial {trial}")


def single_trial_hits(errors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which images one trial alone classifies correctly.

    Args:
        errors: (n_images, n_prompts, n_trials) prediction errors.
        labels: (n_images,) positions of the right prompts.

    Returns:
        (n_images, n_trials) bool.

    Raises:
        ValueError: an error is missing, or the shapes do not fit.
    """
    _check(errors, labels)
    return errors.argmin(axis=1) == np.asarray(labels)[:, None]


def prefix_hits(errors: np.ndarray, labels: np.ndarray, budgets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return which images the first n trials classify correctly, for several n.

    Args:
        errors: (n_images, n_prompts, n_trials) prediction errors, the trials in the order in which they are spent.
        labels: (n_images,) positions of the right prompts.
        budgets: (n_budgets,) numbers of trials, 1 .. n_trials.

    Returns:
        (n_images, n_budgets) bool.

    Raises:
        ValueError: an error is missing, a budget is out of range, or the shapes do not fit.
    """
    _check(errors, labels)
    budgets = np.asarray(budgets, dtype=np.int64)
    n_trials = errors.shape[2]
    if budgets.min() < 1 or budgets.max() > n_trials:
        raise ValueError(f"budgets must lie in 1..{n_trials}, got {budgets.min()}..{budgets.max()}")
    sums = errors.cumsum(axis=2, dtype=np.float64)[:, :, budgets - 1]
    return sums.argmin(axis=1) == np.asarray(labels)[:, None]


def accuracy(hits: np.ndarray, groups: np.ndarray | None = None, level: float = 0.95) -> list[Estimate]:
    """Return the mean of each column of hits with its interval.

    Args:
        hits: (n_images, n) hits, or their averages over several trials.
        groups: (n_images,) the photograph each image was made of; None: each of its own.
        level: coverage.

    Returns:
        n estimates: Wilson's interval where the images are independent and the hits yes or no, otherwise a bootstrap
        over groups.
    """
    independent = groups is None or len(np.unique(groups)) == len(hits)
    if independent and hits.dtype == bool:
        return [proportion(int(column.sum()), len(column), level) for column in hits.T]
    found = [mean(column, groups=groups, level=level) for column in hits.T]
    return [Estimate(e.value, max(e.low, 0.0), min(e.high, 1.0), e.level, e.n) for e in found]


def bin_means(hits: np.ndarray, timesteps: np.ndarray, n_bins: int, n_timesteps: int) -> tuple[np.ndarray, np.ndarray]:
    """Average each image's hits over neighbouring timesteps.

    Args:
        hits: (n_images, n_trials) single-trial hits.
        timesteps: (n_trials,) their timesteps, in any order.
        n_bins: bins of equal width on 0 .. T; those without a trial are left out.
        n_timesteps: T.

    Returns:
        (n,) mean timestep of the trials in each bin, increasing, and (n_images, n) share of them that hit.
    """
    place = np.asarray(timesteps) * n_bins // n_timesteps
    filled = np.unique(place)
    centres = np.array([np.asarray(timesteps)[place == b].mean() for b in filled])
    return centres, np.stack([hits[:, place == b].mean(axis=1) for b in filled], axis=1)


def plateau(t: np.ndarray, heights: np.ndarray, chance: float, share: float = 0.9) -> tuple[float, float, float]:
    """Return where a curve peaks and how far its plateau reaches.

    Args:
        t: (n,) increasing timesteps.
        heights: (n,) accuracies there.
        chance: accuracy of guessing.
        share: how much of the peak's height above chance a point must have to belong to the plateau.

    Returns:
        t of the peak (the first, where there are several), and the first and last t of the unbroken run of points
        around it that belong to the plateau.
    """
    t, heights = np.asarray(t, dtype=float), np.asarray(heights, dtype=float)
    peak = int(heights.argmax())
    below = np.flatnonzero(heights - chance < share * (heights[peak] - chance))
    left, right = below[below < peak], below[below > peak]
    first = left[-1] + 1 if len(left) else 0
    last = right[0] - 1 if len(right) else len(t) - 1
    return float(t[peak]), float(t[first]), float(t[last])


def above_chance(estimates: Sequence[Estimate], chance: float) -> list[Estimate]:
    """Return accuracies as shares of the way from chance to the highest of them, which becomes 1.

    NaN where none of them is above chance. The intervals are carried along by the same straight line; they do not
    include that the highest is uncertain, too.
    """
    height = max(estimate.value for estimate in estimates) - chance
    height = height if height > 0 else float("nan")
    return [
        Estimate(*((number - chance) / height for number in estimate), estimate.level, estimate.n)
        for estimate in estimates
    ]


def margins(errors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return by how much the right prompt's error lies below the mean of the other prompts', (n_images, n_trials).

    Args:
        errors: (n_images, n_prompts, n_trials) prediction errors, at least two prompts.
        labels: (n_images,) positions of the right prompts.

    Raises:
        ValueError: an error is missing, or the shapes do not fit.
    """
    _check(errors, labels)
    errors = errors.astype(np.float64)
    right = errors[np.arange(len(errors)), labels]
    return (errors.sum(axis=1) - right) / (errors.shape[1] - 1) - right


def margin_ratio(margins: np.ndarray) -> float:
    """Return the mean of margins divided by their spread.

    Infinite where all are equal, as in a bootstrap sample that holds one of a few images over and over.

    Args:
        margins: (n_images, n_trials) as `margins` returns them.
    """
    middle, spread = float(np.mean(margins)), float(np.std(margins))
    return middle / spread if spread else float(np.copysign(np.inf, middle))


def repeat_agreement(errors: np.ndarray) -> np.ndarray:
    """Return, for each image, the share of pairs of trials that name the same class by themselves.

    Args:
        errors: (n_images, n_prompts, n_repeats) errors of repeats: the same timestep, different noises.

    Returns:
        (n_images,) shares; NaN where there is no pair.
    """
    n_repeats = errors.shape[2]
    named = errors.argmin(axis=1)
    same = (named[:, :, None] == named[:, None, :]).sum(axis=(1, 2)) - n_repeats
    n_pairs = n_repeats * (n_repeats - 1)
    return same / n_pairs if n_pairs else np.full(len(errors), np.nan)
