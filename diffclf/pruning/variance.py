"""Variances of the mean of stratified trials, with which a race judges its differences.

References:
    Cochran 1977, "Sampling techniques", section 5A.12 (collapsed strata).
    Smyth 2004, "Linear models and empirical Bayes methods", Eq. 8 (moderated variances).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRIOR_PAIRS", "collapsed_variance", "moderated_variance"]

PRIOR_PAIRS = 8
"""Weight of the mean variance of all rivals, in pairs of strata."""


def collapsed_variance(values: NDArray) -> NDArray[np.float64]:
    """Return the collapsed-strata estimate of the variance of the mean of one value per stratum.

    Neighbouring strata are joined in pairs, the last three if n is odd: sum over groups of L strata of
    L / (L - 1) sum (y - mean y)^2, over n^2. The estimate is not below the true variance on average.

    Args:
        values: (..., n) one value per stratum, strata in their order, n at least 2.

    Returns:
        (...) variances.
    """
    n = values.shape[-1]
    ends = n - 3 if n % 2 else n
    pairs = values[..., :ends].reshape(*values.shape[:-1], ends // 2, 2)
    total = np.square(pairs[..., 0] - pairs[..., 1]).sum(axis=-1, dtype=np.float64)
    if n % 2:
        total = total + 1.5 * 3 * values[..., ends:].astype(np.float64).var(axis=-1)
    return total / n**2


def moderated_variance(variance: NDArray, n_pairs: int, prior_pairs: float = PRIOR_PAIRS) -> NDArray[np.float64]:
    """Return variances shrunk towards their geometric mean; those of zero are left out of the mean and left alone.

    Args:
        variance: (k,) estimates.
        n_pairs: pairs of strata behind each of them.
        prior_pairs: weight of the mean, in pairs.
    """
    variance = np.asarray(variance, dtype=np.float64)
    positive = variance > 0
    if not positive.any():
        return variance.copy()
    mean = np.exp(np.log(variance[positive]).mean())
    return np.where(positive, (prior_pairs * mean + n_pairs * variance) / (prior_pairs + n_pairs), 0)
