"""The shared list of trials from which the timestep strategies of Figure 4 pick theirs.

    columns 0 .. U - 1                  the timesteps of `uniform(U)`, one noise each
    columns U + r K .. U + r K + K - 1  the K distinct timesteps of the seven fixed strategies, noise r, r = 0 .. R - 1

A fixed strategy takes each of its timesteps once, then each a second time with fresh noise, and so on; "Uniform" takes
a prefix of `uniform(U)`, every one of which is spread over the whole range. So a strategy with fewer trials is always a
prefix of the same strategy with more, and all eight are judged on errors that were computed once.

Source: Li et al. 2023, arXiv 2303.16203, section 4.1 and Figure 4.
"""

import numpy as np

from diffclf.trials import STRATEGIES, strategy_timesteps, uniform

__all__ = ["bank_timesteps", "n_strategy_timesteps", "strategy_budgets", "strategy_columns"]


def _check_repeats(n_repeats: int) -> None:
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1, got {n_repeats}")


def n_strategy_timesteps(name: str) -> int:
    """Return how many timesteps a fixed strategy has: 3 for "0,500,1000", 10 for "Even 10"; 1 for "Uniform".

    Its budgets are multiples of this number.

    Raises:
        ValueError: unknown name.
    """
    if name not in STRATEGIES:
        raise ValueError(f"name must be one of {', '.join(STRATEGIES)}, got {name!r}")
    kind = STRATEGIES[name]
    if kind is None:
        return 1
    return kind if isinstance(kind, int) else len(kind)


def _fixed_timesteps(n_timesteps: int) -> np.ndarray:
    """Return the distinct timesteps of the fixed strategies, in the order of Figure 4's legend: (K,) int64."""
    fixed = [name for name, kind in STRATEGIES.items() if kind is not None]
    together = np.concatenate([strategy_timesteps(name, n_strategy_timesteps(name), n_timesteps) for name in fixed])
    return together[np.sort(np.unique(together, return_index=True)[1])]


def bank_timesteps(n_uniform: int, n_repeats: int, n_timesteps: int = 1000) -> np.ndarray:
    """Return the timestep of every trial of the shared bank.

    Args:
        n_uniform: U, evenly spread timesteps with one noise each.
        n_repeats: R, noises for each timestep of the fixed strategies.
        n_timesteps: T.

    Returns:
        (U + R K,) int64; K is 21 where T is 1000.

    Raises:
        ValueError: n_uniform is not in 1..T, or n_repeats is below 1.
    """
    _check_repeats(n_repeats)
    return np.concatenate([uniform(n_uniform, n_timesteps), np.tile(_fixed_timesteps(n_timesteps), n_repeats)])


def strategy_columns(name: str, n_trials: int, n_uniform: int, n_repeats: int, n_timesteps: int = 1000) -> np.ndarray:
    """Return the columns of the shared bank that a strategy uses, in its order.

    Args:
        name: a key of `diffclf.trials.STRATEGIES`.
        n_trials: trials per class; the columns of a smaller number are a prefix of those of a larger one.
        n_uniform: U of the bank.
        n_repeats: R of the bank.
        n_timesteps: T.

    Returns:
        (n_trials,) int64, all different.

    Raises:
        ValueError: unknown name, or more trials than the bank holds for the strategy.
    """
    size = n_strategy_timesteps(name)
    most = n_uniform if STRATEGIES[name] is None else size * n_repeats
    if not 1 <= n_trials <= most:
        raise ValueError(f"n_trials of {name!r} must lie in 1..{most}, got {n_trials}")
    if STRATEGIES[name] is None:
        return np.arange(n_trials)
    fixed = _fixed_timesteps(n_timesteps)
    cycle = strategy_timesteps(name, size, n_timesteps)
    place = np.array([int(np.flatnonzero(fixed == t)[0]) for t in cycle])
    repeat, step = np.divmod(np.arange(n_trials), size)
    return n_uniform + repeat * len(fixed) + place[step]


def strategy_budgets(name: str, n_uniform: int, n_repeats: int) -> np.ndarray:
    """Return the numbers of trials at which to draw a strategy, increasing.

    All whole repeats of a fixed strategy; for "Uniform" 1, 2, 3, 5, 10, 15, 25, 50, 75, 100, 150, 200, ... and U.

    Raises:
        ValueError: unknown name, or n_uniform or n_repeats below 1.
    """
    _check_repeats(n_repeats)
    size = n_strategy_timesteps(name)
    if STRATEGIES[name] is not None:
        return size * np.arange(1, n_repeats + 1)
    if n_uniform < 1:
        raise ValueError(f"n_uniform must be at least 1, got {n_uniform}")
    steps = np.array([1, 2, 3, 5, 10, 15, 25, 50, 75, *range(100, n_uniform + 1, 50)])
    return np.union1d(steps[steps < n_uniform], [n_uniform])
