"""What is chosen on tune images: the best fixed schedule and the cheapest race.

Each is the cheapest that is not worse than a reference, a search that prunes little. *Not worse* means that the
one-sided 95% lower bound of the difference of accuracies lies above -2 points.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.stored_search import decisions
from diffclf.pruning import Racing, Shortlist, Staged, Strategy
from diffclf.pruning.calibration import THRESHOLDS
from diffclf.search import search
from diffclf.stats import Estimate, non_inferior

__all__ = ["LADDER", "MARGIN", "TaskRun", "best_fixed", "cheapest_race", "fixed_schedules", "run_task"]

LADDER = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of trials that a stage of a fixed schedule may end with."""
MARGIN = 0.02
"""By how much a strategy may be less accurate than its reference and still count as not worse."""


@dataclass(frozen=True, eq=False)
class TaskRun:
    """One strategy on the images of a task.

    Attributes:
        tables: (n_images, n_classes, n_trials) errors of the classes, NaN where the strategy did not ask.
        right: (n_images,) bool, which images it classifies correctly.
        spent: (n_images,) denoiser evaluations, those of a label tree's nodes included.
    """

    tables: NDArray[np.float32]
    right: NDArray[np.bool_]
    spent: NDArray[np.int64]


def run_task(bank: ErrorBank, data: ImageSet, strategy: Strategy, desc: str = "images") -> TaskRun:
    """Run a strategy among the classes of a task, whose prompts are the bank's first ones."""
    names = data.classnames
    strategy = strategy.prepare(bank.model, names)
    if not isinstance(strategy, Shortlist):  # a shortlist chooses among the classes image by image
        strategy = strategy.only(range(len(names)))
    found = list(search(bank, data.images, strategy, classnames=names, desc=desc))
    tables = np.stack([table.errors for table in found])
    return TaskRun(tables, decisions(tables) == data.labels, np.array([table.n_evaluations for table in found]))


def fixed_schedules(n_prompts: int, ladder: Sequence[int], keeps: Sequence[int], n_stages: int = 4) -> list[Staged]:
    """Return every schedule of at most n_stages stages, by cost.

    A stage ends with a number of trials of the ladder and keeps a number of classes of `keeps`, the last stage one.
    """
    made = [
        Staged(trials, (*keep, 1), "random")
        for stages in range(1, n_stages + 1)
        for trials in itertools.combinations(sorted(ladder), stages)
        for keep in itertools.combinations(sorted((k for k in keeps if k < n_prompts), reverse=True), stages - 1)
    ]
    return sorted(made, key=lambda schedule: schedule.evaluations(n_prompts))


def best_fixed(
    bank: ErrorBank, data: ImageSet, keeps: Sequence[int], reference: NDArray, margin: float = MARGIN
) -> tuple[Staged, Estimate, int]:
    """Return the cheapest fixed schedule that is not worse, its difference to the reference, and how many were tried.

    Args:
        bank: of the tune images.
        data: the tune images.
        keeps: numbers of classes that a stage may keep.
        reference: (n_images,) bool, which images the reference classifies correctly.
        margin: by how much a schedule may be worse.

    Raises:
        ValueError: none of the grid is good enough.
    """
    for tried, schedule in enumerate(fixed_schedules(len(data.classnames), LADDER, keeps), 1):
        right = run_task(bank, data, schedule, f"schedule {tried}").right
        if right.mean() - reference.mean() <= -margin:  # the bound is not above the difference: most need no bootstrap
            continue
        difference = non_inferior(right, reference, data.groups, n_resamples=2000)
        if difference.low > -margin:
            return schedule, difference, tried
    raise ValueError(f"schedules must include one that is not worse by {margin}, got none among {tried}")


def cheapest_race(race: Racing, bank: ErrorBank, data: ImageSet, reference: NDArray, margin: float = MARGIN) -> Racing:
    """Return the race with the smallest threshold that is not worse; the arguments are those of `best_fixed`.

    Thresholds are tried downwards from the race's own to the first that fails. A race without one stays as it is.
    """
    for threshold in (t for t in THRESHOLDS if race.threshold is not None and t < race.threshold):
        tried = replace(race, threshold=threshold)
        right = run_task(bank, data, tried, f"threshold {threshold}").right
        if non_inferior(right, reference, data.groups, n_resamples=2000).low <= -margin:
            break
        race = tried
    return race
