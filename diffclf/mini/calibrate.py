"""`diffclf calibrate mini-sd`: how far behind a class must be before the race drops it, for an embedded model.

The threshold is chosen on *tune* images and then reported, once, on *test* images; both go into `racing.json` beside
the weights, from where `diffclf.racing.calibrated` takes it. The errors lie in a bank, the one that `diffclf bench
--full` reads, so that a killed run goes on.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from diffclf.mini.harness import TASKS, complete_tables, open_task
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.racing import CALIBRATED_FOR, CALIBRATION, Calibration, Racing
from diffclf.stats import non_inferior

__all__ = ["add_arguments", "calibrate_model", "run"]

TASK = TASKS["mini-items"]


def _summary(found: Calibration) -> dict[str, Any]:
    return {
        "n_images": found.n_images,
        "n_dropped": found.n_dropped,
        "bound": found.bound,
        "level": found.level,
        "n_evaluations": found.n_evaluations,
    }


def calibrate_model(
    model: DiffusionModel,
    folder: Path,
    *,
    n_tune: int = TASK.n_tune,
    n_test: int = TASK.n_test,
    race: Racing | None = None,
) -> dict[str, Any]:
    """Choose the threshold on tune images and report it on test images.

    Args:
        model: the model.
        folder: of the error bank.
        n_tune: images to choose on.
        n_test: images to report on.
        race: what is calibrated; None: the default race.

    Returns:
        What `racing.json` holds: for which weights and race, the threshold, how often the winner of the full
        evaluation was dropped on either split, and on test images both accuracies and their difference.

    Raises:
        ValueError: no threshold keeps the bound.
    """
    race = race or Racing()
    data, bank = open_task(TASK, model, "tune", n_tune, folder)
    found = race.calibrate(complete_tables(bank, data, race, "tune"))
    data, bank = open_task(TASK, model, "test", n_test, folder)
    test = complete_tables(bank, data, race, "test")
    checked = found.racing.check(test)
    raced = np.array([list(found.racing.rounds(table))[-1].best for table in test]) == data.labels
    full = test.mean(axis=2, dtype=np.float64).argmin(axis=1) == data.labels
    difference = non_inferior(raced, full, data.groups)
    return {
        "fingerprint": model.fingerprint,
        **{name: getattr(race, name) for name in CALIBRATED_FOR},
        "threshold": found.racing.threshold,
        "dataset": TASK.dataset,
        "tune": _summary(found),
        "test": {
            **_summary(checked),
            "accuracy": float(raced.mean()),
            "accuracy_of_the_full_evaluation": float(full.mean()),
            "difference": {"value": difference.value, "low": difference.low},
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf calibrate`."""
    parser.add_argument("name", help="an embedded model: mini-sd")
    parser.add_argument("--tune", type=int, default=TASK.n_tune, help="images to choose the threshold on")
    parser.add_argument("--test", type=int, default=TASK.n_test, help="images to report it on")
    parser.add_argument("--compile", action="store_true", help="compile the network: a minute first, then faster")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="error bank; the same folder resumes")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf calibrate`: 2.6 million denoiser evaluations with the defaults, an hour on two cores."""
    from diffclf.mini.card import write_card
    from diffclf.paths import data_dir

    folder = data_dir() / "models" / args.name
    model = load_model(args.name, compile=args.compile)
    result = calibrate_model(model, args.work, n_tune=args.tune, n_test=args.test)
    path = folder / CALIBRATION
    path.with_suffix(".part").write_text(json.dumps(result, indent=1) + "\n")
    os.replace(path.with_suffix(".part"), path)
    write_card(folder)
    print(f"threshold {result['threshold']}, written to {path} and the card")
    return 0
