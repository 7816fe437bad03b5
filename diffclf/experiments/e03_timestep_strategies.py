"""The eight timestep designs of Figure 4, judged on one shared list of trials.

    trials 0 .. U - 1                  the timesteps of `uniform(U)`, one noise each
    trials U + r K .. U + r K + K - 1  the K distinct timesteps of the seven fixed designs, noise r, r = 0 .. R - 1

A fixed design takes each of its timesteps once, then each a second time with a new noise, and so on; "Uniform" takes a
prefix of `uniform(U)`, which is spread over the whole range. So a design with fewer trials is a prefix of the same
design with more trials, and every error is computed once.

Source: Li et al. 2023, arXiv 2303.16203, section 4.1 and Figure 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.experiments.accuracy import accuracies, correct_by_budget
from diffclf.stats import Estimate, paired_difference
from diffclf.trials import DESIGNS, TrialList, design_size, design_timesteps, uniform

__all__ = ["DesignErrors", "SharedTrials", "evaluations", "interpolate"]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of the fixed designs; those of "Uniform" are counted by notebook 02."""
    return settings["n_classes"] * settings["n_images"] * settings["n_repeats"] * len(_fixed_timesteps(1000))


def _fixed_timesteps(n_timesteps: int) -> NDArray[np.int64]:
    """Return the distinct timesteps of the fixed designs in the order of Figure 4's legend: (K,), 21 of 1000."""
    fixed = [name for name, kind in DESIGNS.items() if kind is not None]
    together = np.concatenate([design_timesteps(name, design_size(name), n_timesteps) for name in fixed])
    return together[np.sort(np.unique(together, return_index=True)[1])]


@dataclass(frozen=True)
class SharedTrials:
    """The list of trials that all designs share.

    Attributes:
        n_uniform: U, evenly spread timesteps with one noise each.
        n_repeats: R, noises at each timestep of the fixed designs.
        n_timesteps: T.

    Raises:
        ValueError: n_uniform is not in 1..T, or n_repeats is below 1.
    """

    n_uniform: int
    n_repeats: int
    n_timesteps: int = 1000

    def __post_init__(self) -> None:
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats must be at least 1, got {self.n_repeats}")
        uniform(self.n_uniform, self.n_timesteps)  # checks n_uniform

    def trial_list(self) -> TrialList:
        """Return the U + R K trials, each with a noise of its own."""
        repeated = np.tile(_fixed_timesteps(self.n_timesteps), self.n_repeats)
        return TrialList(np.concatenate([uniform(self.n_uniform, self.n_timesteps), repeated]))

    def columns(self, design: str, n_trials: int) -> NDArray[np.int64]:
        """Return the positions of a design's trials in the list, in the design's order: (n_trials,), all different.

        Raises:
            ValueError: unknown design, or more trials than the list holds for it.
        """
        size = design_size(design)
        most = self.n_uniform if DESIGNS[design] is None else size * self.n_repeats
        if not 1 <= n_trials <= most:
            raise ValueError(f"n_trials of {design!r} must lie in 1..{most}, got {n_trials}")
        if DESIGNS[design] is None:
            return np.arange(n_trials)
        fixed, cycle = _fixed_timesteps(self.n_timesteps), design_timesteps(design, size, self.n_timesteps)
        place = np.array([int(np.flatnonzero(fixed == t)[0]) for t in cycle])
        repeat, step = np.divmod(np.arange(n_trials), size)
        return self.n_uniform + repeat * len(fixed) + place[step]

    def budgets(self, design: str) -> NDArray[np.int64]:
        """Return the numbers of trials at which a design is drawn, increasing.

        All whole repeats of a fixed design; for "Uniform" 1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 150, 200, ... and U.
        """
        size = design_size(design)
        if DESIGNS[design] is not None:
            return size * np.arange(1, self.n_repeats + 1)
        steps = np.array([1, 2, 3, 5, 10, 15, 25, 50, 75, *range(100, self.n_uniform + 1, 50)])
        return np.union1d(steps[steps < self.n_uniform], [self.n_uniform])


@dataclass(frozen=True, eq=False)
class DesignErrors:
    """The errors of some images on the shared trials.

    Attributes:
        shared: the list of trials.
        errors: (n_images, n_prompts, n_trials) errors on it.
        labels: (n_images,) positions of the right prompts.
        groups: (n_images,) the photograph each image was made of.
    """

    shared: SharedTrials
    errors: NDArray
    labels: NDArray
    groups: NDArray

    def of(self, design: str, n_trials: int) -> NDArray:
        """Return (n_images, n_prompts, n_trials) the errors of a design's first trials."""
        return self.errors[:, :, self.shared.columns(design, n_trials)]

    def correct(self, design: str, budgets: Sequence[int] | NDArray) -> NDArray[np.bool_]:
        """Return (n_images, n_budgets) which images a design classifies correctly with these numbers of trials."""
        return correct_by_budget(self.of(design, max(budgets)), self.labels, budgets)

    def curve(self, design: str) -> tuple[NDArray[np.int64], list[Estimate]]:
        """Return numbers of trials and the accuracy of a design with each, in points."""
        budgets = self.shared.budgets(design)
        return budgets, [100 * estimate for estimate in accuracies(self.correct(design, budgets), self.groups)]

    def compare(self, first: str, second: str, n_trials: int, level: float = 0.95) -> Estimate:
        """Return the accuracy of a design minus that of another one at equal trials, in points."""
        a, b = (self.correct(design, [n_trials])[:, 0] for design in (first, second))
        return 100 * paired_difference(a, b, self.groups, level)


def interpolate(curve: Sequence[Sequence[float]], n_trials: ArrayLike) -> NDArray[np.float64]:
    """Return the value of a curve [[trials, accuracy], ...] on straight lines over log trials; NaN outside of it."""
    x, y = np.asarray(curve, dtype=float).T
    return np.interp(np.log(n_trials), np.log(x), y, left=np.nan, right=np.nan)
