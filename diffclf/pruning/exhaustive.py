"""Exhaustive search: every prompt on every trial (Li et al. 2023, arXiv 2303.16203, Algorithm 1)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from diffclf.pruning.base import Strategy, check_count, check_timesteps
from diffclf.trials import TrialList, uniform

__all__ = ["Exhaustive"]


@dataclass(frozen=True)
class Exhaustive(Strategy):
    """Every prompt on every trial.

    Attributes:
        n: evenly spaced timesteps.
        repeats: noises per timestep.
    """

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
