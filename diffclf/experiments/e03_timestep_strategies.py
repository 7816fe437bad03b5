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
from diffclf.trials import TrialList, uniform

__all__ = ["DESIGNS", "DesignErrors", "SharedTrials", "design_timesteps", "evaluations", "interpolate"]

DESIGNS: dict[str, tuple[int, ...] | None] = {
    "Uniform": None,
    "0,500,1000": (0, 500, 1000),
    "0": (0,),
    "500": (500,),
    "1000": (1000,),
    "475,500,525": (475, 488, 500, 512, 525),
    "Even 5": tuple(uniform(5).tolist()),
    "Even 10": tuple(uniform(10).tolist()),
}
"""The designs by the paper's name: timesteps of a model that has 1000, where 1000 stands for the last one, 999; None
for as many timesteps as trials. "475,500,525" is drawn at multiples of five trials, hence five timesteps."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of the fixed designs; those of "Uniform" are counted by notebook 02."""
    return settings["n_classes"] * settings["n_images"] * settings["n_repeats"] * len(_fixed_timesteps(1000))


def design_timesteps(name: str, n_trials: int, n_timesteps: int = 1000) -> NDArray[np.int64]:
    """Return the timesteps of one design for a number of trials per class, (n_trials,), with repeats.

    Raises ValueError for an unknown name and, for "Uniform", more trials than timesteps.
    """
    if name not in DESIGNS:
        raise ValueError(f"design must be one of {list(DESIGNS)}, got {name!r}")
    if (timesteps := DESIGNS[name]) is None:
        return uniform(n_trials, n_timesteps)
    return np.resize(np.minimum(np.array(timesteps) * n_timesteps // 1000, n_timesteps - 1), n_trials)


def _fixed_timesteps(n_timesteps: int) -> list[int]:
    """Return the K distinct timesteps of the fixed designs in the order of Figure 4's legend: 21 of 1000."""
    fixed = {name: len(timesteps) for name, timesteps in DESIGNS.items() if timesteps}
    return list(dict.fromkeys(t for name, size in fixed.items() for t in design_timesteps(name, size, n_timesteps)))


@dataclass(frozen=True)
class SharedTrials:
    """The list of trials that all designs share; raises ValueError for numbers out of range."""

    n_uniform: int  # U, in 1..T
    n_repeats: int  # R, at least 1
    n_timesteps: int = 1000  # T

    def __post_init__(self) -> None:
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats must be at least 1, got {self.n_repeats}")
        uniform(self.n_uniform, self.n_timesteps)  # checks n_uniform

    def trial_list(self) -> TrialList:
        """Return the U + R K trials, each with a noise of its own."""
        repeated = _fixed_timesteps(self.n_timesteps) * self.n_repeats
        return TrialList(np.append(uniform(self.n_uniform, self.n_timesteps), repeated))

    def columns(self, design: str, n_trials: int) -> NDArray[np.int64]:
        """Return the positions of a design's trials in the list, in the design's order: (n_trials,), all different.

        Raises ValueError for an unknown design, or more trials than the list holds for it.
        """
        timesteps, most = design_timesteps(design, n_trials, self.n_timesteps), self.budgets(design)[-1]
        if not 1 <= n_trials <= most:
            raise ValueError(f"n_trials of {design!r} must lie in 1..{most}, got {n_trials}")
        if DESIGNS[design] is None:
            return np.arange(n_trials)
        fixed, repeats = _fixed_timesteps(self.n_timesteps), np.arange(n_trials) // len(DESIGNS[design])
        return self.n_uniform + len(fixed) * repeats + [fixed.index(t) for t in timesteps]

    def budgets(self, design: str) -> NDArray[np.int64]:
        """Return the numbers of trials at which a design is drawn, increasing.

        All whole repeats of a fixed design; for "Uniform" 1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 150, 200, ... and U.
        """
        if DESIGNS[design] is not None:
            return len(DESIGNS[design]) * np.arange(1, self.n_repeats + 1)
        steps = np.array([1, 2, 3, 5, 10, 15, 25, 50, 75, *range(100, self.n_uniform + 1, 50)])
        return np.union1d(steps[steps < self.n_uniform], [self.n_uniform])


@dataclass(frozen=True, eq=False)
class DesignErrors:
    """The errors of some images on the shared trials; errors, labels and groups are those of `accuracy`."""

    shared: SharedTrials
    errors: NDArray
    labels: NDArray
    groups: NDArray

    def of(self, design: str, n_trials: int) -> NDArray:
        """Return the errors of a design's first trials, (n_images, n_prompts, n_trials)."""
        return self.errors[:, :, self.shared.columns(design, n_trials)]

    def correct(self, design: str, budgets: Sequence[int] | NDArray) -> NDArray[np.bool_]:
        """Return which images a design classifies correctly with these numbers of trials, (n_images, n_budgets)."""
        return correct_by_budget(self.of(design, max(budgets)), self.labels, budgets)

    def curve(self, design: str) -> tuple[NDArray[np.int64], list[Estimate]]:
        """Return numbers of trials and the accuracy of a design with each, in points."""
        budgets = self.shared.budgets(design)
        return budgets, [100 * estimate for estimate in accuracies(self.correct(design, budgets), self.groups)]

    def compare(self, first: str, second: str, n_trials: int, level: float = 0.95) -> Estimate:
        """Return the accuracy of a design minus that of another one at equal trials, in points."""
        a, b = (self.correct(design, [n_trials])[:, 0] for design in (first, second))
        return 100 * paired_difference(a, b, self.groups, level=level)


def interpolate(curve: Sequence[Sequence[float]], n_trials: ArrayLike) -> NDArray[np.float64]:
    """Return the value of a curve [[trials, accuracy], ...] on straight lines over log trials; NaN outside of it."""
    x, y = np.asarray(curve, dtype=float).T
    return np.interp(np.log(n_trials), np.log(x), y, left=np.nan, right=np.nan)
