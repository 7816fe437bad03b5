"""Intervals: numbers in, an estimate with its interval out. Nothing here draws.

Accuracies of independent images are proportions: Wilson's score interval, or Clopper and Pearson's exact one.

Everything else is bootstrapped over *groups*: all images made from one photograph stand or fall together, so the
photograph is what is drawn again, with replacement. With d_g the sum and n_g the number of the values of group g, the
mean of one resample is sum d_g / sum n_g over the groups drawn. Two classifiers are compared on the same images, so
the difference is taken image by image first: what both find hard cancels.

Sources: Wilson (1927); Clopper and Pearson (1934); Efron (1987) for the bias-corrected and accelerated interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "bootstrap", "clopper_pearson", "mean", "non_inferior", "paired_difference", "proportion"]

_CHUNK = 2_000_000  # numbers drawn at a time: keeps a resampling of thousands of photographs under 50 MB


@dataclass(frozen=True)
class Estimate:
    """A number and the interval around it.

    Attributes:
        value: the point estimate.
        low: lower end of the interval, -inf where the data say nothing.
        high: upper end.
        level: coverage the interval aims at.
        n: independent observations behind it, where that is one number.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int | None = None

    def __iter__(self) -> Iterator[float]:
        """Iterate over value, low, high."""
        return iter((self.value, self.low, self.high))

    def __mul__(self, factor: float) -> "Estimate":
        """Return the estimate in another unit, such as points: 100 * estimate."""
        ends = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, ends[0], ends[1], self.level, self.n)

    __rmul__ = __mul__

    def __format__(self, spec: str) -> str:
        """Return "value [low, high]", each in the format given (default: three significant digits)."""
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """Return the estimate to three significant digits."""
        return format(self, "")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")


def _check_counts(successes: int, n: int, level: float) -> None:
    _check_level(level)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, {n}], got {successes}")


def proportion(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return successes / n with Wilson's score interval.

    With z the normal quantile of the level and p = successes / n the interval is
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Source: Wilson (1927).

    Raises:
        ValueError: successes outside [0, n], n below 1 or level outside (0, 1).
    """
    from scipy.special import ndtri

    _check_counts(successes, n, level)
    z = float(ndtri(0.5 + level / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(p, low, high, level, int(n))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return successes / n with the exact interval: each end is the p at which the tail has probability (1 - level)/2.

    Never covers less than the level; wider than Wilson's. The paper's Figure 6 uses it at 99.5%.

    Source: Clopper and Pearson (1934).

    Raises:
        ValueError: successes outside [0, n], n below 1 or level outside (0, 1).
    """
    from scipy.special import betaincinv

    _check_counts(successes, n, level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Estimate(successes / n, low, high, level, int(n))


def _as_values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, got {array[~np.isfinite(array)][0]} at {np.argmin(np.isfinite(array))}"
        )
    return array


def _group_index(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Return for each of n observations the number of its group, counted from 0."""
    if groups is None:
        return np.arange(n)
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"groups must name one group for each of {n} values, got shape {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


def _check_resampling(level: float, n_resamples: int, method: str) -> None:
    _check_level(level)
    if n_resamples < 100:
        raise ValueError(f"n_resamples must be at least 100, got {n_resamples}")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got {method!r}")


def _interval(
    value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64] | None, level: float
) -> tuple[float, float]:
    """Return the quantiles of the resampled values; corrected for bias and skew where left_out is given.

    Efron (1987): the quantile a is replaced by Phi(z0 + (z0 + z_a) / (1 - acceleration (z0 + z_a))), z0 the normal
    quantile of the share of resamples below the value and acceleration a sixth of the skewness of the jackknife.
    """
    from scipy.special import ndtr, ndtri

    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if left_out is not None:
        # Ties count half, so that a statistic with few values (an accuracy) is not called biased for having ties.
        share = float((resampled < value).mean() + (resampled == value).mean() / 2)
        deviations = left_out.mean() - left_out
        spread = float((deviations**2).sum())
        if 0 < share < 1 and spread > 0:
            z0 = ndtri(share)
            acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
            shifted = z0 + ndtri(tails)
            tails = ndtr(z0 + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(resampled, tails)
    return float(low), float(high)


def mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
    method: str = "percentile",
) -> Estimate:
    """Return the mean of values with a bootstrap interval over groups.

    Args:
        values: (n,) numbers, such as 1.0 where an image was classified correctly.
        groups: (n,) names of what is resampled, such as the photograph; None: every value by itself.
        level: coverage of the two-sided interval.
        n_resamples: resamples drawn.
        seed: of the resampling.
        method: "percentile", or "bca" (for skewed statistics).

    Returns:
        The estimate; n is the number of groups. With one group the interval is unbounded. Where no two groups
        differ, resampling sees no spread at all; then the interval reaches as far as an event that G groups did not
        show can still be likely (Wilson's bound for 0 of G), in units of the largest absolute value, at least 1.

    Raises:
        ValueError: values empty or not finite, groups of another length, or a bad level.
    """
    from numpy.random import default_rng

    _check_resampling(level, n_resamples, method)
    array = _as_values(values, "values")
    index = _group_index(groups, array.size)
    counts = np.bincount(index).astype(np.float64)
    sums = np.bincount(index, weights=array)
    n, value = counts.size, float(array.mean())
    if n == 1:
        return Estimate(value, -inf, inf, level, 1)
    if np.ptp(sums / counts) == 0:
        unseen = proportion(0, n, level).high * max(1.0, float(np.abs(array).max()))
        return Estimate(value, value - unseen, value + unseen, level, n)
    generator = default_rng(seed)
    resampled = np.empty(n_resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        drawn = generator.integers(n, size=(min(step, n_resamples - start), n))
        resampled[start : start + step] = sums[drawn].sum(1) / counts[drawn].sum(1)
    left_out = (sums.sum() - sums) / (counts.sum() - counts) if method == "bca" else None
    return Estimate(value, *_interval(value, resampled, left_out, level), level, n)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
    method: str = "percentile",
) -> Estimate:
    """Return the mean of a - b over the same observations, with a bootstrap interval over groups.

    Args:
        a: (n,) numbers, such as 1.0 where method A classified image i correctly.
        b: (n,) the same of method B.
        groups: (n,) what is resampled, such as the photograph an image was made from; None: every pair by itself.
        level: coverage of the two-sided interval.
        n_resamples: resamples drawn.
        seed: of the resampling.
        method: "percentile" or "bca".

    Raises:
        ValueError: a and b of different lengths, or anything `mean` refuses.
    """
    first, second = _as_values(a, "a"), _as_values(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a and b must be of the same length, got {first.size} and {second.size}")
    return mean(first - second, groups=groups, level=level, n_resamples=n_resamples, seed=seed, method=method)


def non_inferior(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return the mean of a - b, its `low` being the one-sided lower bound at the level.

    A is no worse than B by more than a margin m when low > -m. The two-sided interval with that lower end covers
    2 level - 1 (90% for 95%), which is the level the estimate carries; `claims` asks for it in this form.

    Raises:
        ValueError: level not above one half, or anything `paired_difference` refuses.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level must lie in (0.5, 1), got {level}")
    return paired_difference(a, b, groups, round(2 * level - 1, 12), n_resamples, seed)


def bootstrap(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 2_000,
    seed: int = 0,
    method: str = "percentile",
) -> Estimate:
    """Return statistic(*samples) with a bootstrap interval; the samples are resampled together along their first axis.

    For what is no mean: ratios of variances, medians, the position of a maximum.

    Args:
        statistic: takes arrays shaped like the samples (another number of rows) and returns a number.
        *samples: arrays with the same first axis, such as images.
        groups: (n,) what is resampled; None: every row by itself.
        level: coverage of the two-sided interval.
        n_resamples: resamples drawn; the statistic is called once for each.
        seed: of the resampling.
        method: "percentile" or "bca".

    Raises:
        ValueError: no samples, unequal first axes, or a bad level.
    """
    _check_resampling(level, n_resamples, method)
    arrays = [np.asarray(sample) for sample in samples]
    lengths = sorted({len(array) for array in arrays})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(f"samples must share a first axis of at least 1, got lengths {lengths}")
    index = _group_index(groups, lengths[0])
    rows = [np.flatnonzero(index == group) for group in range(index.max() + 1)]
    value = float(statistic(*arrays))
    if len(rows) == 1:
        return Estimate(value, -inf, inf, level, 1)
    generator = np.random.default_rng(seed)

    def of(chosen: Sequence[int] | NDArray[np.intp]) -> float:
        picked = np.concatenate([rows[group] for group in chosen])
        return float(statistic(*(array[picked] for array in arrays)))

    resampled = np.array([of(generator.integers(len(rows), size=len(rows))) for _ in range(n_resamples)])
    left_out = None
    if method == "bca":
        left_out = np.array([of(np.delete(np.arange(len(rows)), group)) for group in range(len(rows))])
    return Estimate(value, *_interval(value, resampled, left_out, level), level, len(rows))
