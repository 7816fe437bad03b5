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

__all__ = ["Round", "Strategy", "Wrapped", "check_count", "check_timesteps", "run_stored"]


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
    """One look of a race.

    Attributes:
        n_trials: trials that each of the raced prompts has had.
        raced: (m,) prompts that were still in.
        survivors: (k,) those of them that still are, after this look.
        best: the prompt with the lowest mean error.
        means: (m,) mean errors of the raced prompts.
        differences: (m,) means minus that of the best.
        margins: (m,) a prompt is dropped when its difference exceeds its margin; infinite where none may be dropped.
        n_evaluations: denoiser evaluations so far, of all prompts.
        finished: whether the race is over: one survivor, all trials taken, or the budget spent.
    """

    n_trials: int
    raced: NDArray[np.int64]
    survivors: NDArray[np.int64]
    best: int
    means: NDArray[np.float64]
    differences: NDArray[np.float64]
    margins: NDArray[np.float64]
    n_evaluations: int
    finished: bool


class Strategy(ABC):
    """Decides which prompts to evaluate on which trials."""

    @abstractmethod
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        """Return all trials that the strategy may ask for.

        Raises:
            ValueError: the strategy needs more timesteps than the model has.
        """

    @abstractmethod
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        """Return the (n_prompts, n_trials) mask of entries to evaluate next, or None when done.

        Args:
            errors: (n_prompts, n_trials) prediction errors, NaN where unknown.
        """

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations that one image costs at most, the work of a scorer not counted.

        Raises:
            ValueError: the strategy cannot be run on so many prompts or timesteps.
        """
        return n_prompts * len(self.trial_list(n_timesteps))

    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        """Return the prompts that the strategy could not tell apart at its end; empty if one has won."""
        return np.empty(0, dtype=np.int64)

    def rounds(self, errors: NDArray) -> Iterator[Round]:
        """Yield the looks at a race, as far as the errors known so far go.

        Args:
            errors: (n_prompts, n_trials) prediction errors, NaN where unknown.

        Raises:
            ValueError: the strategy has no rounds, or the errors are not of its trials.
        """
        raise ValueError(f"pruning must be Racing(...) for a race, got {self!r}")

    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> "Strategy":
        """Return the strategy as it is run with this model and these prompts.

        Args:
            model: the model.
            classnames: (n_prompts,) the class of each prompt.
        """
        return self

    def more_prompts(self) -> list[str | int]:
        """Return prompts that the strategy needs besides those of the classes; their rows come last in the tables."""
        return []

    def for_image(self, pixels: Tensor) -> "Strategy":
        """Return the strategy for one image, given its preprocessed pixels (3, S, S)."""
        return self

    def only(self, rows: Sequence[int]) -> "Strategy":
        """Return the strategy for some of the classes' prompts; the other prompts are never evaluated."""
        from diffclf.pruning.shortlist import Subset

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


def run_stored(strategy: Strategy, errors: NDArray) -> NDArray:
    """Run a strategy on a stored table, as if its entries were computed when asked for.

    Args:
        strategy: the strategy; the columns of the table must be its own trials, in its order.
        errors: (n_prompts, n_trials) all errors that it may ask for.

    Returns:
        (n_prompts, n_trials) the entries that it asked for, NaN elsewhere.

    Raises:
        ValueError: it asked for an entry that the table does not have.
    """
    known = np.full_like(errors, np.nan)
    while (mask := strategy.next(known)) is not None:
        known[mask] = errors[mask]
        if np.isnan(known[mask]).any():
            raise ValueError(f"the stored table must hold every entry that {strategy} asks for, got NaN")
    return known
