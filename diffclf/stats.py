"""Intervals: numbers in, an estimate with its interval out. Nothing here draws.

Accuracies of independent images are proportions: Wilson's score interval, or Clopper and Pearson's exact interval.

Everything else is bootstrapped over *groups*. All images made from one photograph are one group: the bootstrap draws
whole photographs, with replacement. With d_g the sum and n_g the number of the values of group g, the mean of one
resample is sum d_g / sum n_g over the groups drawn. Two classifiers are compared on the same images: the difference is
taken image by image first, so that the difficulty of an image cancels. Intervals are percentiles of the resamples.

Plain percentiles of few groups are too narrow. Two corrections vanish as the number n of groups grows:

    expanded percentiles     the tail (1 - level) / 2 becomes Phi(-sqrt(n / (n - 1)) t), t Student's quantile (n - 1)
    two groups at each end   a mean is resampled with four groups more, two a distance D above it and two below, D the
                             distance of the furthest group (of differences: or of its mirror image about zero), since
                             few groups show too few of the rare outcomes. Of 0/1 outcomes these are the two successes
                             and two failures of Agresti and Coull.

Fewer than 8 groups are too few: the interval is unbounded. In simulations of paired 0/1 outcomes, independent or in
groups, 95% intervals cover the truth in 94% of the cases or more, and in 99% where few groups have few differences.
Means of strongly skewed values (exponential) are covered in 91% with 8 groups and 95% with 20.

References:
    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Clopper, Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
    McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    Holm 1979, "A simple sequentially rejective multiple test procedure".
    Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile intervals).
    Hesterberg 2015, "What teachers should know about the bootstrap", arXiv 1411.5279 (expanded percentiles).
    Agresti, Coull 1998, "Approximate is better than exact for interval estimation of binomial proportions".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "bootstrap", "clopper_pearson", "mean", "non_inferior", "paired_difference", "percentiles"]
__all__ += ["contrast_values", "crossed", "holm", "mcnemar", "proportion"]

MIN_GROUPS = 8
CHUNK = 2_000_000  # numbers drawn at a time: keeps a resampling of thousands of photographs under 50 MB


@dataclass(frozen=True)
class Estimate:
    """A number and the interval around it.

    Attributes:
        low: lower end of the interval, -inf where the data say nothing; `high` is the upper end.
        level: coverage the interval aims at.
        n: independent observations behind it, where that is one number.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int | None = None

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.low, self.high))

    def __mul__(self, factor: float) -> "Estimate":
        """Return the estimate in another unit, such as points: 100 * estimate."""
        ends = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, ends[0], ends[1], self.level, self.n)

    __rmul__ = __mul__

    def within(self, low: float, high: float) -> "Estimate":
        """Return the estimate with an interval that ends where possible values end."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def __format__(self, spec: str) -> str:
        """Return "value [low, high]", each in the format given (default: three significant digits)."""
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self, "")


def proportion(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return successes / n with Wilson's score interval.

    Raises:
        ValueError: successes outside [0, n], n below 1 or level outside (0, 1).
    """
    return _binomial(successes, n, level, "wilson")


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return successes / n with the exact interval: each end is the p at which the tail has probability (1 - level)/2.

    The interval never covers less than the level; it is wider than Wilson's. The paper's Figure 6 uses it at 99.5%.
    """
    return _binomial(successes, n, level, "exact")


def _binomial(successes: int, n: int, level: float, method: str) -> Estimate:
    """Return successes / n with one of scipy's intervals."""
    from scipy.stats import binomtest

    _check_resampling(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"n must be at least 1 and successes in [0, n], got {successes} of {n}")
    interval = binomtest(int(successes), int(n)).proportion_ci(level, method)
    return Estimate(successes / n, float(interval.low), float(interval.high), level, int(n))


def mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
    signed: bool = False,
) -> Estimate:
    """Return the mean of values with a bootstrap interval over groups.

    Args:
        values: (n,) numbers, such as 1.0 where an image was classified correctly.
        groups: (n,) group of each value, such as its photograph; None: every value is a group.
        level: coverage of the two-sided interval.
        n_resamples: resamples drawn.
        seed: seed of the resampling.
        signed: whether values are differences: a group that is d above zero means that one d below zero was possible.

    Returns:
        The estimate; n is the number of groups. With fewer than 8 groups the interval is unbounded. If all groups have
        the same mean, resampling sees no spread: the half width is then the exact upper bound for 0 of n, in units of
        the largest absolute value (at least 1). The interval of truth values lies in [0, 1].

    Raises:
        ValueError: values empty or not finite, groups of another length, or a bad level.
    """
    _check_resampling(level, n_resamples)
    array = _as_values(values, "values")
    index = _group_index(groups, array.size)
    counts = np.bincount(index).astype(np.float64)
    sums = np.bincount(index, weights=array)
    n, value = counts.size, float(array.mean())
    if n < MIN_GROUPS:
        return Estimate(value, -inf, inf, level, n)
    if np.ptp(sums / counts) == 0:
        unseen = clopper_pearson(0, n, level).high * max(1.0, float(np.abs(array).max()))
        found = Estimate(value, value - unseen, value + unseen, level, n)
    else:
        possible, size = sums / counts, counts.mean()
        furthest = np.abs((np.append(possible, -possible) if signed else possible) - value).max()
        sums = np.append(sums, size * (value + furthest * np.array([-1, -1, 1, 1])))
        counts = np.append(counts, np.full(4, size))
        generator, resampled = np.random.default_rng(seed), np.empty(n_resamples)
        step = max(1, CHUNK // len(sums))
        for start in range(0, n_resamples, step):
            drawn = generator.integers(len(sums), size=(min(step, n_resamples - start), len(sums)))
            resampled[start : start + step] = sums[drawn].sum(1) / counts[drawn].sum(1)
        found = percentiles(value, resampled, level, n)
    if np.asarray(values).dtype == bool:
        return found.within(0.0, 1.0)
    return found


def paired_difference(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, **options: float) -> Estimate:
    """Return the mean of a - b over the same n observations, with a bootstrap interval over groups.

    For example a is 1.0 where method A classified image i correctly, b the same of method B. Groups and options (level,
    n_resamples, seed) are those of `mean`.

    Raises:
        ValueError: a and b of different lengths, or a reason of `mean`.
    """
    first, second = _as_values(a, "a"), _as_values(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a and b must be of the same length, got {first.size} and {second.size}")
    return mean(first - second, groups=groups, signed=True, **options)


def non_inferior(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95, **options: float
) -> Estimate:
    """Return the mean of a - b, its `low` being the one-sided lower bound at the level.

    A is no worse than B by more than a margin m when low > -m. The two-sided interval with that lower end covers
    2 level - 1 (90% for 95%), which is the level of the estimate. The arguments are those of `paired_difference`.

    Raises:
        ValueError: level not above one half, or a reason of `paired_difference`.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level must lie in (0.5, 1), got {level}")
    return paired_difference(a, b, groups, level=round(2 * level - 1, 12), **options)


def crossed(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the mean over seeds and images with an interval for other seeds and other images.

        variance = s_seeds^2 / n_seeds + s_images^2 / n_images

    s_seeds^2 is the variance of the seeds' means and s_images^2 that of the images' means. Their noise is in both
    terms, so that the interval is a little too wide. The quantile is Student's, of Satterthwaite's degrees of freedom:
    few seeds that differ give a wide interval.

    Args:
        values: (n_seeds, n_images), such as 1.0 where the model of a seed classified an image correctly, or a
            difference of two such numbers. The images are independent.
        level: coverage of the two-sided interval.

    Returns:
        The estimate; n is the number of images. If all values are equal, the half width is that of `mean`.

    Raises:
        ValueError: fewer than two seeds or two images, a value that is not finite, or a bad level.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    from scipy.special import stdtrit

    _check_resampling(level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or min(array.shape) < 2 or not np.isfinite(array).all():
        raise ValueError(f"values must be finite, two or more seeds by two or more images, got shape {array.shape}")
    seeds, images = (array.mean(axis=axis).var(ddof=1) / array.shape[1 - axis] for axis in (1, 0))
    n, value = array.shape[1], float(array.mean())
    if seeds + images == 0:
        half = clopper_pearson(0, n, level).high * max(1.0, float(np.abs(array).max()))
    else:
        freedom = (seeds + images) ** 2 / (seeds**2 / (len(array) - 1) + images**2 / (n - 1))
        half = float(stdtrit(freedom, (1 + level) / 2) * np.sqrt(seeds + images))
    return Estimate(value, value - half, value + half, level, n)


def contrast_values(values: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return values whose mean is the mean over one part of the observations minus that over another part.

    `mean` and `crossed` then give the interval of this difference. An observation's value is the difference plus its
    deviation from its part's mean, divided by the part's share of all that are used (the influence function). The
    variance between the parts does not count, and parts that share their groups make a paired difference.

    Args:
        values: (..., n) numbers.
        first: (n,) bool, the one part.
        second: (n,) bool, the other part; the parts are disjoint and not empty.

    Returns:
        (..., n_used) float64, of the observations in either part, in their order.
    """
    array, first, second = np.asarray(values, dtype=np.float64), np.asarray(first), np.asarray(second)
    used, parts = first | second, (first, second)
    means = [array[..., part].mean(axis=-1, keepdims=True) for part in parts]
    found = np.broadcast_to(means[0] - means[1], array.shape).copy()
    for sign, part, centre in zip((1, -1), parts, means, strict=True):
        found[..., part] += sign * (array[..., part] - centre) * used.sum() / part.sum()
    return found[..., used]


def bootstrap(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """Return statistic(*samples) with a bootstrap interval; the samples are resampled together along their first axis.

    For statistics that are no means: ratios of variances, medians, the position of a maximum. The statistic takes
    arrays shaped like the samples, with another number of rows. The options are those of `mean`.

    Raises:
        ValueError: no samples, unequal first axes, or a bad level.
    """
    _check_resampling(level, n_resamples)
    arrays = [np.asarray(sample) for sample in samples]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"samples must share a first axis of at least 1, got lengths {sorted(lengths)}")
    index = _group_index(groups, len(arrays[0]))
    rows, sizes = np.argsort(index, kind="stable"), np.bincount(index)  # rows: those of group 0, of group 1, ...
    starts = np.cumsum(sizes) - sizes
    value = float(statistic(*arrays))
    generator, resampled = np.random.default_rng(seed), np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = generator.integers(len(sizes), size=len(sizes))
        ends = np.cumsum(sizes[drawn])
        picked = rows[np.arange(ends[-1]) + np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn])]
        resampled[i] = statistic(*(array[picked] for array in arrays))
    return percentiles(value, resampled, level, len(sizes))


def percentiles(value: float, resampled: NDArray[np.float64], level: float, n: int) -> Estimate:
    """Return the value with the expanded percentile interval of its resamples; n groups, unbounded if fewer than 8."""
    from scipy.special import ndtr, stdtrit

    if n < MIN_GROUPS:
        return Estimate(value, -inf, inf, level, n)
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), level, n)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided p-value of McNemar's exact test: a and b are right equally often.

    Args:
        a: (n,) whether a is right on each of n independent images.
        b: the same of b.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"a and b must be of the same length, got {first.size} and {second.size}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for their number, (n,), in the same order: reject those below the level of all."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _check_resampling(level: float, n_resamples: int = 100) -> None:
    """Raise ValueError unless the level lies in (0, 1) and there are enough resamples."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if n_resamples < 100:
        raise ValueError(f"n_resamples must be at least 100, got {n_resamples}")


def _as_values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return values as an array (n,), n at least 1, all finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name} must be finite, got {array[bad[0]]} at {bad[0]}")
    return array


def _group_index(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Return for each of n observations the number of its group, counted from 0."""
    labels = np.arange(n) if groups is None else np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"groups must name one group for each of {n} values, got shape {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]
