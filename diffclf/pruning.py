"""Which prompts to try next.

A strategy is a pure function of the errors known so far: `next` looks at a table of prompts by trials, NaN where
nothing was evaluated, and says which entries it wants, or that it is done. So it can be tested on made-up tables and
replayed on stored ones.

    Exhaustive   every prompt on every trial (Algorithm 1)
    Staged       stage i evaluates the surviving prompts on trials[i] timesteps and keeps the keep[i] best (Algorithm 2)

Source: Li et al. 2023, arXiv 2303.16203, Algorithms 1 and 2, Table 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffclf.trials import antithetic_noises, nested_positions, spread_order, uniform

__all__ = ["Exhaustive", "LeadsTo", "Pruning", "Staged", "replay", "takes_trials_of"]


class Pruning(Protocol):
    """What the classifier asks of a strategy."""

    def timesteps(self, n_timesteps: int = 1000) -> np.ndarray:
        """Return (n_trials,) the timestep of every trial the strategy may ask for.

        Raises:
            ValueError: the strategy needs more timesteps than the model has.
        """

    def noises(self) -> np.ndarray | None:
        """Return (n_trials,) the number of each trial's noise (`diffclf.trials.Trials`), or None: each its own."""

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the (n_prompts, n_trials) bool mask of entries to evaluate next, or None when done.

        Args:
            errors: (n_prompts, n_trials) prediction errors, NaN where unknown.
        """

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs (the most, where it depends on the image)."""


class LeadsTo:
    """A strategy that chooses prompts for another one has the trials of that one, `then`."""

    then: Pruning

    def timesteps(self, n_timesteps: int = 1000) -> np.ndarray:
        """Return (n_trials,) the timestep of every trial."""
        return self.then.timesteps(n_timesteps)

    def noises(self) -> np.ndarray | None:
        """Return (n_trials,) the number of each trial's noise, or None: each its own."""
        return self.then.noises()


@dataclass(frozen=True)
class Staged:
    """Algorithm 2: adaptive evaluation in stages.

    Three grids of timesteps. "official" is the released code's, trial for trial: each stage takes an evenly spaced
    subset of the last stage's grid; the subsets are not always nested, so a stage may have to evaluate more new trials
    than Algorithm 2 says: 5570 evaluations an image instead of 5120 for trials (20, 50, 100, 500) and keep
    (20, 10, 5, 1) on Food-101's 101 classes, 124,500 instead of 100,000 on ImageNet's. "nested" takes each stage as a
    prefix of one evenly spread order, so that nothing is evaluated beyond Algorithm 2's own count. These two cost the
    same for two stages, since the last one always takes the whole grid, and wherever each number of trials is an odd
    multiple of the one before. "random" is nested, too, on the stratified random timesteps and mirrored noises that a
    race takes, for comparisons on the same trials.

    A mean is always over all trials a prompt has had, those of earlier stages included, as in the released code.

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
            if not value or not all(isinstance(n, int | np.integer) and n >= 1 for n in value):
                raise ValueError(f"{name} must be whole numbers of at least 1, got {value}")
            object.__setattr__(self, name, tuple(int(n) for n in value))
        if len(self.trials) != len(self.keep):
            raise ValueError(f"trials and keep must have one number per stage, got {self.trials} and {self.keep}")
        if list(self.trials) != sorted(set(self.trials)):
            raise ValueError(f"trials must increase from stage to stage, got {self.trials}")
        if list(self.keep) != sorted(self.keep, reverse=True):
            raise ValueError(f"keep must not grow from stage to stage, got {self.keep}")
        if self.keep[-1] != 1:
            raise ValueError(f"keep must end in 1, got {self.keep}")
        if self.grid not in ("official", "nested", "random"):
            raise ValueError(f"grid must be 'official', 'nested' or 'random', got {self.grid!r}")
        if not isinstance(self.repeats, int | np.integer) or self.repeats < 1:
            raise ValueError(f"repeats must be a whole number of at least 1, got {self.repeats!r}")

    def timesteps(self, n_timesteps: int = 1000) -> np.ndarray:
        """Return (max(trials) x repeats,) timesteps; a second noise for each follows after the first of all.

        Raises:
            ValueError: more timesteps than the model has.
        """
        n = self.trials[-1]
        if n > n_timesteps:
            raise ValueError(f"trials must be at most the model's {n_timesteps} timesteps, got {n}")
        if self.grid == "nested":
            return np.tile(uniform(n, n_timesteps), self.repeats)
        if self.grid == "random":
            return np.tile((nested_positions(n) * n_timesteps).astype(np.int64), self.repeats)
        step = n_timesteps // n
        grid = step // 2 + step * np.arange(n)
        return np.tile(grid[spread_order(n)], self.repeats)

    def noises(self) -> np.ndarray | None:
        """Return (max(trials) x repeats,) the number of each trial's noise, or None: each its own."""
        if self.grid != "random":
            return None
        return antithetic_noises(self.trials[-1], self.repeats).T.ravel()

    def stages(self) -> list[np.ndarray]:
        """Return, for each stage, the indices of the trials it wants; an earlier stage may have had some of them."""
        n = self.trials[-1]
        place = np.argsort(spread_order(n))  # of each timestep of the grid, in increasing order, among the trials
        subsets = []
        for m in self.trials:
            subset = place[(n // m // 2) :: n // m][:m] if self.grid == "official" else np.arange(m)
            subsets.append(np.concatenate([subset + n * repeat for repeat in range(self.repeats)]))
        return subsets

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the mask of entries to evaluate next, or None when every stage is done."""
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

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs."""
        self.timesteps(n_timesteps)
        total, seen, alive = 0, set(), n_prompts
        for wanted, n_keep in zip(self.stages(), self.keep, strict=True):
            new = set(wanted.tolist()) - seen
            total += alive * len(new)
            seen |= new
            alive = min(alive, n_keep)
        return total


@dataclass(frozen=True)
class Exhaustive:
    """Algorithm 1: every prompt on every trial.

    Attributes:
        n: evenly spaced timesteps.
        repeats: noises per timestep.
    """

    n: int = 100
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("n", "repeats"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    def timesteps(self, n_timesteps: int = 1000) -> np.ndarray:
        """Return (n x repeats,) timesteps.

        Raises:
            ValueError: more timesteps than the model has.
        """
        if self.n > n_timesteps:
            raise ValueError(f"trials must be at most the model's {n_timesteps} timesteps, got {self.n}")
        return np.tile(uniform(self.n, n_timesteps), self.repeats)

    def noises(self) -> None:
        """Return None: each trial has its own noise."""

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the mask of all unknown entries, or None when there is none."""
        missing = np.isnan(errors)
        return missing if missing.any() else None

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs."""
        return n_prompts * len(self.timesteps(n_timesteps))


def takes_trials_of(
    strategy: Pruning, timesteps: np.ndarray, noises: np.ndarray | None = None, n_timesteps: int = 1000
) -> bool:
    """Return whether a strategy's trials are the first ones of a list, so that errors on these can be its own.

    Args:
        strategy: the strategy.
        timesteps: (n_trials,) of the list.
        noises: (n_trials,) numbers of the list's noises; None: each its own.
        n_timesteps: T.
    """

    def numbers(noises: np.ndarray | None, n: int) -> np.ndarray:
        return np.arange(n) if noises is None else np.asarray(noises)

    own, listed = strategy.timesteps(n_timesteps), np.asarray(timesteps)
    same_noises = np.array_equal(numbers(strategy.noises(), len(own)), numbers(noises, len(listed))[: len(own)])
    return same_noises and np.array_equal(own, listed[: len(own)])


def replay(strategy: Pruning, errors: np.ndarray) -> np.ndarray:
    """Run a strategy on a stored table, as if its entries were computed when asked for.

    Args:
        strategy: the strategy; the columns of the table must be its own trials, in its order.
        errors: (n_prompts, n_trials) all errors it may ask for.

    Returns:
        (n_prompts, n_trials) the entries it asked for, NaN elsewhere.

    Raises:
        ValueError: it asked for an entry that the table does not have.
    """
    known = np.full_like(errors, np.nan)
    while (mask := strategy.next(known)) is not None:
        known[mask] = errors[mask]
        if np.isnan(known[mask]).any():
            raise ValueError(f"the stored table must hold every entry that {strategy} asks for, got NaN")
    return known
