"""What a pruning strategy is: a pure function of the errors known so far.

A strategy looks at a table of prompts by trials, NaN where nothing was evaluated, and says which entries to evaluate
next, or that it is done. It can therefore be tested on made-up tables and run on stored ones (`run_stored`). All other
code knows this base class alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.trials import TrialList

__all__ = ["Round", "Strategy", "Subset", "Wrapped", "check_count", "check_timesteps", "run_stored", "widen"]


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_timesteps(n: int, n_timesteps: int) -> None:
    """Raise ValueError if a strategy needs more different timesteps than the model has."""
    if n > n_timesteps:
        raise ValueError(f"trials must be at most the model's {n_timesteps} timesteps, got {n}")


@dataclass(frozen=True)
class Round:
    """One look of a race at the m prompts that are still in."""

    n_trials: int  # that each of them has had
    raced: NDArray[np.int64]  # (m,) the prompts
    survivors: NDArray[np.int64]  # (k,) those that are still in after this look
    best: int  # the prompt with the lowest mean error
    means: NDArray[np.float64]  # (m,) mean errors
    differences: NDArray[np.float64]  # (m,) means minus that of the best
    margins: NDArray[np.float64]  # (m,) a larger difference drops a prompt; infinite where none may be dropped
    n_evaluations: int  # denoiser evaluations so far, of all prompts
    finished: bool  # the race is over: one survivor, all trials taken, or the budget spent


class Strategy(ABC):
    """Decides which prompts to evaluate on which trials."""

    @abstractmethod
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        """Return all trials that the strategy may ask for; raise ValueError if the model has too few timesteps."""

    @abstractmethod
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        """Return the (n_prompts, n_trials) mask of entries to evaluate next, or None when done.

        All methods take such errors: (n_prompts, n_trials) prediction errors, NaN where unknown.
        """

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations that one image costs at most; raise ValueError if it cannot be run."""
        alike = np.zeros((n_prompts, len(self.trial_list(n_timesteps))), dtype=np.float32)
        return int((~np.isnan(run_stored(self, alike))).sum())

    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        """Return the prompts that the strategy could not tell apart at its end; empty if one has won."""
        return np.empty(0, dtype=np.int64)

    def rounds(self, errors: NDArray) -> Iterator[Round]:
        """Yield the looks at a race, as far as the errors known so far go; raise ValueError for another strategy."""
        raise ValueError(f"pruning must be Racing(...) for a race, got {self!r}")

    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> "Strategy":
        """Return the strategy as it is run with this model and prompts of these classes, (n_prompts,)."""
        return self

    def more_prompts(self) -> list[str | int]:
        """Return prompts that the strategy needs besides those of the classes; their rows come last in the tables."""
        return []

    def for_image(self, pixels: Tensor) -> "Strategy":
        """Return the strategy for one image, given its preprocessed pixels (3, S, S)."""
        return self

    def only(self, rows: Sequence[int]) -> "Strategy":
        """Return the strategy for some of the classes' prompts; the other prompts are never evaluated."""
        return Subset(tuple(rows), self)


class Wrapped(Strategy):
    """A strategy that chooses prompts for another strategy, `then`, and has the trials of that one (a dataclass)."""

    then: Strategy

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        return self.then.trial_list(n_timesteps)

    @override
    def more_prompts(self) -> list[str | int]:
        return self.then.more_prompts()

    @override
    def for_image(self, pixels: Tensor) -> Strategy:
        return replace(self, then=self.then.for_image(pixels))

    @override
    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> Self:
        return replace(self, then=self.then.prepare(model, classnames))


def widen(wanted: NDArray[np.bool_] | None, rows: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the mask of a table of this shape, given the mask of some rows and their first trials."""
    if wanted is None:
        return None
    mask = np.zeros(shape, dtype=bool)
    mask[list(rows), : wanted.shape[1]] = wanted
    return mask


@dataclass(frozen=True)
class Subset(Wrapped):
    """The strategy `then` for the prompts in some rows of the table, in order; the others are never evaluated."""

    rows: tuple[int, ...]
    then: Strategy

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        return widen(self.then.next(errors[list(self.rows)]), self.rows, errors.shape)

    @override
    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        return self.then.evaluations(min(len(self.rows), n_prompts), n_timesteps)

    @override
    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        return np.array(self.rows)[self.then.undecided(errors[list(self.rows)])]


def run_stored(strategy: Strategy, errors: NDArray) -> NDArray:
    """Run a strategy on a stored table (n_prompts, n_trials) and return the entries that it asked for, NaN elsewhere.

    The columns must be the strategy's own trials, in its order. Raises ValueError if an entry is missing.
    """
    known = np.full_like(errors, np.nan)
    while (mask := strategy.next(known)) is not None:
        known[mask] = errors[mask]
        if np.isnan(known[mask]).any():
            raise ValueError(f"the stored table must hold every entry that {strategy} asks for, got NaN")
    return known
