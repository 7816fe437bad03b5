"""Effective robustness: accuracy under a shift beyond what accuracy in distribution predicts.

With k right answers among n images, and f the accuracy of the filter network of ImageNet-A,

    share                  p = (k + 1/2) / (n + 1)
    line                   logit y = a + b logit x + c max(0, logit x - logit f)      by least squares
    effective robustness   y - line(x)   of a classifier with shares x in distribution and y under the shift

The line goes through the networks, versions along a training excluded. It has a break (c is not 0) only where at least
four networks lie on each side of f. A bootstrap resamples photographs, the same for all classifiers; the test set and
the shifted set are resampled separately, and each resample has its own line. If x lies outside the networks' range, the
line is extrapolated: the interval of the effective robustness is then unbounded.

Sources:
    Taori et al. 2020, "Measuring robustness to natural distribution shifts", arXiv 2007.00644 (effective robustness).
    Li et al. 2023, arXiv 2303.16203, Figure 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from diffclf.experiments.field import Field
from diffclf.stats import Estimate, clopper_pearson, percentiles

__all__ = ["Line", "Robustness", "effective_robustness", "fit_line", "paper_row", "points"]

N_SIDE = 4
"""Networks on each side of the filter that a break needs."""


@dataclass(frozen=True)
class Line:
    """A line between accuracies, straight or with a break on logits; see the module's docstring."""

    intercept: float
    slope: float
    bend: float = 0.0
    knot: float = nan  # logit of the filter's accuracy; NaN: no break

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the accuracies under the shift that belong to accuracies x, all in (0, 1)."""
        u = logit(np.asarray(x, dtype=np.float64))
        bent = 0.0 if np.isnan(self.knot) else self.bend * np.maximum(0, u - self.knot)
        return expit(self.intercept + self.slope * u + bent)


def fit_line(x: NDArray, y: NDArray, filter_accuracy: float = nan) -> Line:
    """Return the least-squares line through networks (n,) with accuracies x and y in (0, 1).

    It has a break at the filter's accuracy if at least four networks have a smaller x, and four a larger one.
    """
    u, v, knot = logit(x), logit(y), float(logit(filter_accuracy))
    columns = [np.ones_like(u), u]
    if min((u < knot).sum(), (u > knot).sum()) < N_SIDE:
        return Line(*np.linalg.lstsq(np.stack(columns, axis=1), v)[0].tolist())
    columns.append(np.maximum(0, u - knot))
    return Line(*np.linalg.lstsq(np.stack(columns, axis=1), v)[0].tolist(), knot)


def _resampled_shares(right: NDArray, groups: NDArray, rng: np.random.Generator, n_resamples: int) -> NDArray:
    """Return the shares (1 + n_resamples, m) of right answers (n, m): of the images themselves, then of resamples."""
    index = np.unique(groups, return_inverse=True)[1]
    sizes, sums = np.bincount(index), np.zeros((index.max() + 1, right.shape[1]))
    np.add.at(sums, index, right)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=n_resamples)
    drawn = np.concatenate([np.ones((1, len(sizes)), dtype=drawn.dtype), drawn])
    return (drawn @ sums + 0.5) / (drawn @ sizes + 1)[:, None]


@dataclass(frozen=True)
class Robustness:
    """Effective robustness of a classifier.

    Attributes:
        estimate: in points.
        line: through the networks.
        x: share of right answers in distribution.
        y: share of right answers under the shift.
        extrapolated: whether x lies outside the range of the networks.
    """

    estimate: Estimate
    line: Line
    x: float
    y: float
    extrapolated: bool

    @property
    def words(self) -> str:
        """The side of the line, and the line, in words."""
        bent = "is straight" if np.isnan(self.line.knot) else "has a break at the filter's accuracy"
        outside = ", and is extrapolated: no network is as accurate in distribution, or as inaccurate"
        side = "above" if self.estimate.value > 0 else "below"
        return f"The DiT lies {side} the line. The line {bent}{outside if self.extrapolated else ''}."

    def row(self) -> dict[str, Any]:
        """Return the numbers of a table in points."""
        line = 100 * float(self.line(self.x))
        found = {"in distribution": 100 * self.x, "line there": line, "under the shift": 100 * self.y}
        return found | {"effective robustness": self.estimate, "extrapolated": "yes" if self.extrapolated else "no"}


def paper_row(star: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of a classifier of the paper, x, y and line in per cent; see `Robustness.row`."""
    found = {"in distribution": star["x"], "line there": star["line"], "under the shift": star["y"]}
    return found | {"effective robustness": round(star["y"] - star["line"], 1), "extrapolated": None}


def effective_robustness(
    reference: Field,
    shifted: Field,
    name: str,
    networks: Sequence[str],
    filter_name: str,
    level: float = 0.95,
    n_resamples: int = 2000,
) -> Robustness:
    """Return the effective robustness of a classifier above the line through networks.

    Args:
        reference: the answers in distribution.
        shifted: the answers under the shift.
        name: the classifier.
        networks: names of the networks that the line goes through.
        filter_name: the network at whose accuracy the line may have a break.
        level: coverage of the interval, which is unbounded if the line is extrapolated.
        n_resamples: resamples drawn.
    """
    rng, order = np.random.default_rng(0), [name, *networks]
    x, y = (
        _resampled_shares(np.stack([field.right(n) for n in names], axis=1), field.groups, rng, n_resamples)
        for field, names in ((reference, [*order, filter_name]), (shifted, order))
    )
    x, filter_accuracy = x[:, :-1], x[:, -1]
    lines = [fit_line(*sample) for sample in zip(x[:, 1:], y[:, 1:], filter_accuracy, strict=True)]
    above = np.array([100 * (b[0] - line(a[0])) for a, b, line in zip(x, y, lines, strict=True)])
    estimate = percentiles(float(above[0]), above[1:], level, len(np.unique(shifted.groups)))
    extrapolated = not x[0, 1:].min() <= x[0, 0] <= x[0, 1:].max()
    if extrapolated:
        estimate = replace(estimate, low=-inf, high=inf)
    return Robustness(estimate, lines[0], float(x[0, 0]), float(y[0, 0]), extrapolated)


def points(
    reference: Field, shifted: Field, names: Sequence[str], level: float = 0.995
) -> dict[str, tuple[Estimate, Estimate]]:
    """Return name -> shares in distribution and under the shift, with Clopper and Pearson's intervals.

    Images repeated for noise seeds count once.
    """

    def estimate(field: Field, name: str) -> Estimate:
        n = len(np.unique(field.groups))
        k = round(n * float(field.right(name).mean()))
        return replace(clopper_pearson(k, n, level), value=(k + 0.5) / (n + 1))

    return {name: (estimate(reference, name), estimate(shifted, name)) for name in names}
