"""One strategy on the images of a data set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.e04_adaptive_pruning import decisions
from diffclf.pruning import Strategy
from diffclf.search import search

__all__ = ["TaskRun", "run_task"]


@dataclass(frozen=True, eq=False)
class TaskRun:
    """One strategy on the images of a data set."""

    tables: NDArray[np.float32]  # (n_images, n_classes, n_trials) errors of the classes, NaN where it did not ask
    right: NDArray[np.bool_]  # (n_images,) which images it classifies correctly
    spent: NDArray[np.int64]  # (n_images,) evaluations


def run_task(bank: ErrorBank, data: ImageSet, strategy: Strategy, desc: str = "images") -> TaskRun:
    """Run a strategy among the classes of a data set, whose prompts are the bank's."""
    names = data.classnames
    found = list(search(bank, data.images, strategy.prepare(bank.model, names), classnames=names, desc=desc))
    tables = np.stack([table.errors for table in found])
    return TaskRun(tables, decisions(tables) == data.labels, np.array([table.n_evaluations for table in found]))
