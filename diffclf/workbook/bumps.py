"""Classes on a line whose densities are known, and with them the perfect denoiser.

    p(x0 | c) = mean over the bumps m of class c of N(x0; m, s^2)
    x_t | m ~ N(sqrt(alpha_bar_t) m, v_t),                  v_t = alpha_bar_t s^2 + 1 - alpha_bar_t
    E[x0 | x_t, m] = m + sqrt(alpha_bar_t) s^2 / v_t (x_t - sqrt(alpha_bar_t) m)
    E[x0 | x_t, c] = sum over m of p(m | x_t, c) E[x0 | x_t, m]
    eps_hat(x_t, c) = (x_t - sqrt(alpha_bar_t) E[x0 | x_t, c]) / sqrt(1 - alpha_bar_t)

A network trained to predict eps under class c tends to this eps_hat, so what a classifier does with it is what the
method does when the network is not to blame.

Source: Bayes' rule for Gaussians; the classifier is that of Li et al. 2023, Algorithm 1, with a single trial.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from diffclf.stats import Estimate, proportion

__all__ = ["exact_eps", "running_accuracy", "single_trial_accuracy"]


def exact_eps(x_t: np.ndarray, alpha_bar_t: float, bumps: Sequence[float], width: float) -> np.ndarray:
    """Return E[eps | x_t, c] for a class of equally likely bumps.

    Args:
        x_t: (n,) noised points.
        alpha_bar_t: cumulative alpha, below 1.
        bumps: centres m of the class.
        width: standard deviation s of each bump.
    """
    scale, centres = np.sqrt(alpha_bar_t), np.asarray(bumps, dtype=float)
    variance = alpha_bar_t * width**2 + 1 - alpha_bar_t
    off = np.asarray(x_t, dtype=float)[:, None] - scale * centres
    weight = softmax(-(off**2) / (2 * variance), axis=1)
    x0_hat = (weight * (centres + scale * width**2 / variance * off)).sum(axis=1)
    return (x_t - scale * x0_hat) / np.sqrt(1 - alpha_bar_t)


def _draw(centres: np.ndarray, width: float, n_points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(len(centres), size=n_points)
    return label, rng.normal(centres[label, rng.integers(centres.shape[1], size=n_points)], width)


def _errors(x0: np.ndarray, eps: np.ndarray, alpha_bar_t: float, centres: np.ndarray, width: float) -> np.ndarray:
    x_t = np.sqrt(alpha_bar_t) * x0 + np.sqrt(1 - alpha_bar_t) * eps
    return np.stack([(exact_eps(x_t, alpha_bar_t, bumps, width) - eps) ** 2 for bumps in centres])


def single_trial_accuracy(
    classes: Sequence[Sequence[float]], width: float, alpha_bars: Sequence[float], n_points: int = 4000, seed: int = 0
) -> list[Estimate]:
    """Return, for each noise level, how often one noise per point finds the point's class.

    Args:
        classes: the bumps of each class, as many for each.
        width: standard deviation of each bump.
        alpha_bars: cumulative alphas, below 1.
        n_points: points drawn, and noises for each noise level, the same for all levels.
        seed: of points and noise.
    """
    rng = np.random.default_rng(seed)
    centres = np.asarray(classes, dtype=float)
    label, x0 = _draw(centres, width, n_points, rng)
    eps = rng.standard_normal(n_points)
    found = [_errors(x0, eps, alpha_bar_t, centres, width).argmin(axis=0) == label for alpha_bar_t in alpha_bars]
    return [proportion(int(hit.sum()), n_points) for hit in found]


def running_accuracy(
    classes: Sequence[Sequence[float]], width: float, alpha_bars: Sequence[float], n_points: int = 2000, seed: int = 0
) -> list[Estimate]:
    """Return how often the mean error over the first n trials finds the point's class, for n = 1 .. n_trials.

    Args:
        classes: the bumps of each class, as many for each.
        width: standard deviation of each bump.
        alpha_bars: (n_trials,) cumulative alpha of each trial, below 1; every trial has fresh noise.
        n_points: points drawn.
        seed: of points and noise.
    """
    rng = np.random.default_rng(seed)
    centres = np.asarray(classes, dtype=float)
    label, x0 = _draw(centres, width, n_points, rng)
    total, found = np.zeros((len(centres), n_points)), []
    for alpha_bar_t in alpha_bars:
        total += _errors(x0, rng.standard_normal(n_points), alpha_bar_t, centres, width)
        found.append(proportion(int((total.argmin(axis=0) == label).sum()), n_points))
    return found
