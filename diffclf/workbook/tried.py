"""What else was tried to make a race cheaper, with numbers, whether it helped or not.

All of it on *tune* images of mini-items, where the study's bank holds every class on every trial of a race.

    antithetic noise      evaluations of a calibrated race with mirrored and with independent noise
    moderated variances   the same with and without
    weights per timestep  accuracy of all classes on all trials, weights from the spread between classes, no labels
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffclf.mini.harness import TASKS, complete_tables, open_task
from diffclf.models.protocol import DiffusionModel
from diffclf.racing import Racing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["tried_table", "try_all", "weighted_accuracies"]


def weighted_accuracies(errors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracies of the mean error, flat and weighted by timestep.

    The weights are powers of the spread between classes at each trial, measured on the first half of the images
    without their labels; accuracy is that on the second half.

    Args:
        errors: (n_images, n_prompts, n_trials) complete.
        labels: (n_images,) true prompts.
    """
    half = len(errors) // 2
    spread = errors[:half].std(axis=1).mean(axis=0)
    found = {}
    for name, power in (("flat", 0), ("spread", 1), ("1 / spread", -1), ("1 / spread squared", -2)):
        right = (errors[half:] * spread**power).mean(axis=2).argmin(axis=1) == labels[half:]
        found[name] = float(right.mean())
    return found


def _calibrated(tables: np.ndarray, labels: np.ndarray, race: Racing) -> dict[str, float]:
    """Return the calibrated threshold of a race, what it costs, and the accuracy of the evaluation it stands for."""
    found = race.calibrate(tables)
    right = tables.mean(axis=2, dtype=np.float64).argmin(axis=1) == labels
    return {
        "threshold": found.racing.threshold,
        "evaluations": found.n_evaluations,
        "dropped": found.n_dropped,
        "full_accuracy": float(right.mean()),
    }


def try_all(model: DiffusionModel, folder: Path) -> dict[str, Any]:
    """Return what was found, for the study's file.

    Args:
        model: the model.
        folder: of the study's banks.
    """
    task = TASKS["mini-items"]
    race, plain = Racing(), Racing(antithetic=False)
    data, bank = open_task(task, model, "tune", task.n_tune, folder)
    tables = complete_tables(bank, data, race, "mirrored noise")
    _, bank = open_task(task, model, "tune", task.n_tune, folder, antithetic=False)
    own_noise = complete_tables(bank, data, plain, "independent noise")
    return {
        "images": len(data),
        "races": {
            "race": _calibrated(tables, data.labels, race),
            "independent noise": _calibrated(own_noise, data.labels, plain),
            "own variances": _calibrated(tables, data.labels, replace(race, prior_pairs=0)),
        },
        "weights": weighted_accuracies(tables, data.labels),
    }


def tried_table(tried: Mapping[str, Any]) -> "pd.DataFrame":
    """Return what else was tried: what, what was measured, without it, with it, and what became of it."""
    import pandas as pd

    races, weights = tried["races"], tried["weights"]
    spent = {name: race["evaluations"] for name, race in races.items()}
    rows = {
        what: (
            "evaluations of a calibrated race",
            f"{spent[without]:.0f}",
            f"{spent['race']:.0f}",
            "kept" if spent["race"] < spent[without] else "no help",
        )
        for what, without in (
            ("every second block of noises mirrored", "independent noise"),
            ("variances moderated by the other rivals'", "own variances"),
        )
    }
    rows["every second block of noises mirrored, all classes"] = (
        "accuracy, all classes on all trials",
        f"{100 * races['independent noise']['full_accuracy']:.1f}%",
        f"{100 * races['race']['full_accuracy']:.1f}%",
        "",
    )
    for name, accuracy in weights.items():
        if name != "flat":
            gain = accuracy - weights["flat"]
            result = "no difference" if abs(gain) < 0.01 else "worse" if gain < 0 else "better"
            flat, weighted = (f"{100 * value:.1f}%" for value in (weights["flat"], accuracy))
            rows[f"trials weighted by {name} of the classes"] = (
                "accuracy, all classes on all trials",
                flat,
                weighted,
                result,
            )
    return pd.DataFrame(rows, index=["measured", "without", "with", "result"]).T
