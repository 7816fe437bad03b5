"""Exhaustive search, every prompt on every trial, and staged search, the paper's adaptive evaluation.

Stage i evaluates the surviving prompts on trials[i] timesteps and keeps the keep[i] best. A mean is always over all
trials that a prompt has had, those of earlier stages included, as in the released code.

Three grids of timesteps:

    official   The released code's, trial for trial: each stage takes an evenly spaced subset of the last stage's grid.
               The subsets are not always nested, so that a stage may evaluate more new trials than Algorithm 2 says:
               124,500 evaluations an image instead of 100,000 for ImageNet's schedule in Table 6.
    nested     Each stage is a prefix of one evenly spread order; the cost is Algorithm 2's own count.
    random     Nested, on the stratified random timesteps and mirrored noises of a race, for comparisons on the same
               trials.

"official" and "nested" cost the same for two stages, since the last stage always takes the whole grid, and wherever
each number of trials is an odd multiple of the one before.

Source: Li et al. 2023, arXiv 2303.16203, Algorithms 1 and 2, Table 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from diffclf.pruning.base import Strategy, check_count, check_timesteps
from diffclf.trials import TrialList, antithetic_noises, nested_positions, spread_order, uniform

__all__ = ["Exhaustive", "Fixed", "Staged"]

GRIDS = ("official", "nested", "random")


@dataclass(frozen=True, eq=False)
class Fixed(Strategy):
    """The wanted entries of a table of given trials: all, or those of a mask (n_prompts, n_trials)."""

    trials: TrialList
    wanted: NDArray[np.bool_] | bool = True

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        return self.trials

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        missing = self.wanted & np.isnan(errors)
        return missing if missing.any() else None


@dataclass(frozen=True)
class Exhaustive(Strategy):
    """Every prompt on `n` evenly spaced timesteps, with `repeats` noises each."""

    n: int = 100
    repeats: int = 1

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("repeats", self.repeats)

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        check_timesteps(self.n, n_timesteps)
        return TrialList(np.tile(uniform(self.n, n_timesteps), self.repeats))

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        missing = np.isnan(errors)
        return missing if missing.any() else None


@cache
def _stages(trials: tuple[int, ...], grid: str, repeats: int) -> list[NDArray[np.int64]]:
    """Return what `Staged.stages` returns."""
    n = trials[-1]
    place = np.argsort(spread_order(n))  # of each timestep of the grid, in increasing order, among the trials
    subsets = []
    for m in trials:
        subset = place[(n // m // 2) :: n // m][:m] if grid == "official" else np.arange(m)
        subsets.append(np.concatenate([subset + n * repeat for repeat in range(repeats)]))
    return subsets


@dataclass(frozen=True)
class Staged(Strategy):
    """Search in stages of more trials and fewer prompts.

    Attributes:
        trials: timesteps per surviving prompt after each stage, increasing.
        keep: prompts that survive each stage, not increasing, the last 1.
        grid: "official", "nested" or "random".
        repeats: noises per timestep (the released code's n_trials).
    """

    trials: tuple[int, ...] = (25, 250)
    keep: tuple[int, ...] = (5, 1)
    grid: str = "official"
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("trials", "keep"):
            value = getattr(self, name)
            value = tuple(value) if isinstance(value, Iterable) else (value,)
            for n in value:
                check_count(name, n)
            object.__setattr__(self, name, tuple(int(n) for n in value))
        if len(self.trials) != len(self.keep) or not self.trials:
            raise ValueError(f"trials and keep must have one number per stage, got {self.trials} and {self.keep}")
        if list(self.trials) != sorted(set(self.trials)):
            raise ValueError(f"trials must increase from stage to stage, got {self.trials}")
        if list(self.keep) != sorted(self.keep, reverse=True) or self.keep[-1] != 1:
            raise ValueError(f"keep must not grow from stage to stage and must end in 1, got {self.keep}")
        if self.grid not in GRIDS:
            raise ValueError(f"grid must be one of {GRIDS}, got {self.grid!r}")
        check_count("repeats", self.repeats)

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        n = self.trials[-1]
        check_timesteps(n, n_timesteps)
        if self.grid == "random":
            timesteps = (nested_positions(n) * n_timesteps).astype(np.int64)
            return TrialList(np.tile(timesteps, self.repeats), antithetic_noises(n, self.repeats).T.ravel())
        if self.grid == "nested":
            return TrialList(np.tile(uniform(n, n_timesteps), self.repeats))
        step = n_timesteps // n
        return TrialList(np.tile((step // 2 + step * np.arange(n))[spread_order(n)], self.repeats))

    def stages(self) -> list[NDArray[np.int64]]:
        """Return, for each stage, the indices of the trials it wants; an earlier stage may have had some of them."""
        return list(_stages(self.trials, self.grid, self.repeats))

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        survivors = np.arange(len(errors))
        seen = np.zeros(errors.shape[1], dtype=bool)
        for wanted, n_keep in zip(self.stages(), self.keep, strict=True):
            seen[wanted] = True
            mask = np.zeros(errors.shape, dtype=bool)
            mask[np.ix_(survivors, seen)] = True
            mask &= np.isnan(errors)
            if mask.any():
                return mask
            means = errors[survivors][:, seen].mean(axis=1, dtype=np.float64)
            survivors = survivors[np.sort(np.argsort(means, kind="stable")[:n_keep])]
        return None
