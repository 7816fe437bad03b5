"""The two tasks on which strategies are compared, and what is chosen on their tune images.

    mini-items            10 classes, "a photo of a sneaker"
    mini-coloured-items   60 classes, "a photo of a red sneaker"; below them the ten items as nodes of a label tree

A task has one list of trials, the 500 of a race, and one bank of errors. The default race and the paper's schedules of
500 trials share its first trials: what two strategies both ask for is computed once, and their difference is not
blurred by different noise.

A fixed schedule and a race are chosen as the cheapest that are not worse than a reference, a search that prunes little.
*Not worse* means that the one-sided 95% lower bound of the difference of accuracies lies above -2 points.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets.embedded import load_embedded
from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.world import COLOURS, ITEMS, caption_single
from diffclf.experiments.e04_adaptive_pruning import decisions
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Hierarchical, Racing, Staged, Strategy
from diffclf.pruning.calibration import THRESHOLDS
from diffclf.search import search
from diffclf.stats import Estimate, non_inferior

__all__ = ["LADDER", "MARGIN", "TASKS", "Task", "TaskRun", "best_fixed", "cheapest_race", "fixed_schedules", "run_task"]

LADDER = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of trials that a stage of a fixed schedule may end with."""
MARGIN = 0.02
"""By how much a strategy may be less accurate than its reference and still count as not worse."""


@dataclass(frozen=True)
class Task:
    """What is compared on one data set."""

    dataset: str  # an embedded set
    schedule: Staged  # the paper's for about as many classes (Table 6: CIFAR-10's, and Food-101's)
    reference: Staged  # a schedule that prunes little or nothing
    n_tune: int  # images to choose on
    n_test: int  # images on which all strategies are scored
    k: int  # classes that a shortlist keeps
    keeps: tuple[int, ...]  # numbers of classes that a stage of a fixed schedule may keep
    tree: dict[str, list[str]] = field(default_factory=dict, hash=False)  # inner nodes of a label tree -> classes

    def open(
        self, model: DiffusionModel, split: str, n_images: int, folder: Path, *, antithetic: bool = True
    ) -> tuple[ImageSet, ErrorBank]:
        """Return the first images of a split and their bank in a folder; its prompts: the classes', then the tree's.

        The noises are mirrored (antithetic), as a race's are by default, or independent.
        """
        data = load_embedded(self.dataset, split, n_images)
        nodes = Hierarchical(self.tree).more_prompts() if self.tree else []
        trials = Racing(trials=500, antithetic=antithetic).trial_list(len(model.schedule))
        return data, ErrorBank(folder, model, [*data.prompts_for(model), *nodes], trials, losses=("l2",))

    def races(self, race: Racing) -> dict[str, Strategy]:
        """Return the searches that a race makes: plain, and along the label tree."""
        tree = {"label tree, race": Hierarchical(self.tree, then=race, race=race)} if self.tree else {}
        return {"race": race, **tree}


TASKS = {
    "mini-items": Task(
        "mini-items",
        Staged((50, 500), (5, 1), "random"),
        Staged((128,), (1,), "random"),
        n_tune=1000,
        n_test=1000,
        k=5,
        keeps=(6, 5, 4, 3, 2),
    ),
    "mini-coloured-items": Task(
        "mini-coloured-items",
        Staged((20, 50, 100, 500), (20, 10, 5, 1), "random"),
        Staged((16, 32, 128), (12, 5, 1), "random"),
        n_tune=300,
        n_test=500,
        k=10,
        keeps=(30, 20, 12, 8, 5, 3, 2),
        tree={caption_single(item): [f"{colour} {item}" for colour in COLOURS] for item in ITEMS},
    ),
}


@dataclass(frozen=True, eq=False)
class TaskRun:
    """One strategy on the images of a task."""

    tables: NDArray[np.float32]  # (n_images, n_classes, n_trials) errors of the classes, NaN where it did not ask
    right: NDArray[np.bool_]  # (n_images,) which images it classifies correctly
    spent: NDArray[np.int64]  # (n_images,) evaluations, those of the nodes of a label tree included


def run_task(bank: ErrorBank, data: ImageSet, strategy: Strategy, desc: str = "images") -> TaskRun:
    """Run a strategy among the classes of a task, whose prompts are the bank's first ones."""
    names = data.classnames
    strategy = strategy.prepare(bank.model, names).only(range(len(names)))
    found = list(search(bank, data.images, strategy, classnames=names, desc=desc))
    tables = np.stack([table.errors for table in found])
    return TaskRun(tables, decisions(tables) == data.labels, np.array([table.n_evaluations for table in found]))


def fixed_schedules(n_prompts: int, ladder: Sequence[int], keeps: Sequence[int], n_stages: int = 4) -> list[Staged]:
    """Return every schedule of at most n_stages stages, by cost.

    A stage ends with one of the ladder's numbers of trials and keeps one of `keeps` classes, the last stage one class.
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

    Bank and data are of the tune images, `keeps` is as for `Task`. The reference says which images are classified
    correctly, (n_images,) bool. Raises ValueError if no schedule is worse by less than the margin.
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
