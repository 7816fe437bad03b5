"""Calibration of a race: the smallest threshold that drops the winner of the full evaluation rarely enough.

A calibrated threshold promises as much for images, prompts and trials like those of the calibration, and no more: a
race among other or more prompts needs error tables of its own. A bound on the probability is one on images drawn as
those of the tables were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffclf.pruning.racing import Racing
from diffclf.stats import clopper_pearson

__all__ = ["THRESHOLDS", "Calibration", "calibrate", "check_threshold"]

THRESHOLDS = tuple(np.round(np.arange(5, 0.95, -0.1), 1).tolist())  # from the most cautious one on


@dataclass(frozen=True)
class Calibration:
    """How often a race drops the winner of the full evaluation: on `n_dropped` of `n_images` images.

    Attributes:
        racing: the race.
        bound: one-sided upper Clopper-Pearson bound on the probability, `level` its confidence.
        n_evaluations: denoiser evaluations per image, on average.
    """

    racing: Racing
    n_images: int
    n_dropped: int
    bound: float
    level: float
    n_evaluations: float


def calibrate(
    race: Racing,
    tables: NDArray,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    error: float = 0.01,
    level: float = 0.95,
) -> Calibration:
    """Choose the threshold of a race on full error tables of images that nothing else is judged on.

    The thresholds are tested from large to small. A threshold passes if the one-sided Clopper-Pearson upper bound on
    the probability of dropping the winner of the full evaluation is at most `error`. The first failure ends the search,
    so that the order of the tests needs no further correction (fixed-sequence testing).

    Tables are (n_images, n_prompts, trials x repeats); `level` is the confidence of the bound, which holds for images
    like these and these prompts. The result's `racing` is the race with the chosen threshold. Raises ValueError for
    incomplete tables, for so few images that no threshold could pass, and if none passes.
    """
    n_trials, n_unknown = race.trials * race.repeats, int(np.isnan(tables).sum())
    if tables.ndim != 3 or tables.shape[2] != n_trials or n_unknown:
        expected = f"(n_images, n_prompts, {n_trials})"
        raise ValueError(f"tables must be complete, {expected}, got {tables.shape} with {n_unknown} NaN")
    if clopper_pearson(0, len(tables), 2 * level - 1).high > error:
        raise ValueError(f"tables must be of more images to bound an error of {error}, got {len(tables)}")
    chosen = None
    for threshold in sorted(thresholds, reverse=True):
        found = check_threshold(replace(race, threshold=float(threshold)), tables, level=level)
        if found.bound > error:
            break
        chosen = found
    if chosen is None:
        raise ValueError(f"thresholds must include one that drops at most {error} of the winners, got none")
    return chosen


def check_threshold(race: Racing, tables: NDArray, *, level: float = 0.95) -> Calibration:
    """Return how often a race with a threshold drops the winner of the full evaluation, on full error tables."""
    if race.threshold is None:
        raise ValueError("threshold must be a number, got None; calibrate first")
    race, dropped, spent = replace(race, budget=None), 0, 0
    for table in tables:
        *_, last = race.rounds(table)
        values = table.reshape(len(table), race.trials, race.repeats).mean(axis=2, dtype=np.float64)
        dropped += values.mean(axis=1).argmin() not in last.survivors
        spent += last.n_evaluations
    bound = clopper_pearson(int(dropped), len(tables), 2 * level - 1).high
    return Calibration(race, len(tables), int(dropped), bound, level, spent / len(tables))
