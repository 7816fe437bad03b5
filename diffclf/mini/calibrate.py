"""The race's threshold for an embedded model: how far behind a class must be before the race drops it.

The threshold is chosen on *tune* images and then reported, once, on *test* images. The errors lie in a bank, so a
killed run goes on.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet, load_dataset
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Calibration, Racing
from diffclf.pruning.calibration import calibrate, check_threshold
from diffclf.pruning.racing import CALIBRATED_FOR
from diffclf.search import compute_errors
from diffclf.stats import non_inferior

__all__ = ["calibrate_model"]

DATASET = "mini-items"


def _tables(
    model: DiffusionModel, folder: Path, race: Racing, split: str, n_images: int
) -> tuple[ImageSet, NDArray[np.float32]]:
    """Return images and their errors of every class on every trial of the race, (n_images, n_classes, n_trials)."""
    data = load_dataset(DATASET, split, n_images)
    trials = race.trial_list(len(model.schedule))
    bank = ErrorBank(folder, model, data.prompts_for(model), trials, losses=("l2",))
    return data, compute_errors(bank, data.images, desc=split)


def _summary(found: Calibration) -> dict[str, Any]:
    """Return what was found, without the race."""
    return {name: value for name, value in asdict(found).items() if name != "racing"}


def calibrate_model(
    model: DiffusionModel, folder: Path, *, n_tune: int = 1000, n_test: int = 1000, race: Racing | None = None
) -> dict[str, Any]:
    """Choose the threshold of a race (None: the default race) on tune images and report it on test images.

    The error bank is in `folder`.

    Returns:
        What `racing.json` holds: for which weights and race, the threshold, how often the winner of the full
        evaluation was dropped on either split, and on test images both accuracies and their difference.

    Raises:
        ValueError: no threshold keeps the bound.
    """
    race = race or Racing()
    _, tables = _tables(model, folder, race, "tune", n_tune)
    tune = calibrate(race, tables)
    data, tables = _tables(model, folder, race, "test", n_test)
    test = check_threshold(tune.racing, tables)
    raced = np.array([list(tune.racing.rounds(table))[-1].best for table in tables]) == data.labels
    full = tables.mean(axis=2, dtype=np.float64).argmin(axis=1) == data.labels
    difference = non_inferior(raced, full, data.groups)
    return {
        "fingerprint": model.fingerprint,
        **{name: getattr(race, name) for name in CALIBRATED_FOR},
        "threshold": tune.racing.threshold,
        "dataset": DATASET,
        "tune": _summary(tune),
        "test": {
            **_summary(test),
            "accuracy": float(raced.mean()),
            "accuracy_of_the_full_evaluation": float(full.mean()),
            "difference": {"value": difference.value, "low": difference.low},
        },
    }
