"""What a race would cost with other numbers of classes, from how fast rivals left in a measured one.

    evaluations(C) = sum over looks of new trials x (rivals + min(1, rivals)),    rivals = share still in x (C - 1)

A projection, not a measurement: it takes the share of rivals that are left after n trials to be the same with other
classes, images and models. Two measured tasks give two answers, and the distance between these says how far to trust
it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffclf.pruning import Staged

__all__ = ["project", "projection_table"]


def project(n_classes: int, trials: Sequence[int], rivals_left: Sequence[float]) -> float:
    """Return the evaluations of a race among so many classes.

    Args:
        n_classes: C.
        trials: trials at each look, increasing.
        rivals_left: share of the rivals that are still in after each look; its last one does not count.
    """
    before, share, spent = 0, 1.0, 0.0
    for n, left in zip(trials, rivals_left, strict=True):
        # The winner runs on only where it has a rival; that is no more often than there are rivals on average.
        rivals = share * (n_classes - 1)
        spent += (n - before) * (rivals + min(1, rivals))
        before, share = n, left
    return spent


def projection_table(schedules: Mapping[str, Sequence[Any]], tasks: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per data set of the paper: its schedule's evaluations, and what a race would take.

    Args:
        schedules: data set -> number of classes, classes kept, trials, … (Table 6).
        tasks: the study's tasks, whose races were measured.
    """
    rows = {}
    for name, (n_classes, keep, trials, *_) in schedules.items():
        official = Staged(tuple(trials), tuple(keep)).evaluations(n_classes)
        row = {"classes": n_classes, "paper's schedule": official}
        costs = [project(n_classes, **task["remaining"]) for task in tasks.values()]
        for task, cost in zip(tasks, costs, strict=True):
            row[f"race, as on {task}"] = cost
        row["times fewer"] = f"{official / max(costs):.1f} to {official / min(costs):.1f}"
        rows[name] = row
    return pd.DataFrame(rows).T
