"""Adaptive pruning: schedules, what becomes of the true class, and seconds per image.

    fate of the true prompt = chosen, or lost after stage i

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 2, Tables 6 and 7.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.classifier import DiffusionClassifier
from diffclf.experiments.stored_search import decisions
from diffclf.pruning import Staged
from diffclf.trials import BLOCK, TrialList, uniform

__all__ = [
    "evaluations",
    "fate_groups",
    "fates",
    "fit_schedules",
    "last_stages",
    "schedule_label",
    "staged_strategies",
    "stage_timesteps",
    "time_images",
]

Schedules = Sequence[Mapping[str, Sequence[int]]]
"""Mappings with `trials` and `keep`, a number for each stage."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: further noise seeds, schedules off the shared trials, the race, and the clock.

    Those of the first seed are counted by notebook 02. The cost of a race depends on the images; it is taken to be 8
    trials of every class and all trials of two.
    """
    n_images, n_classes, n_trials = (settings[name] for name in ("n_images", "n_classes", "n_trials"))
    strategies = staged_strategies(fit_schedules(settings["schedules"], n_trials), n_classes)
    clocked = n_classes * n_trials + next(iter(strategies.values())).evaluations(n_classes)
    strategies |= staged_strategies(settings["schedules_apart"], n_classes)
    shared = TrialList(uniform(n_trials))
    apart = [s.evaluations(n_classes) for s in strategies.values() if not shared.starts_with(s.trial_list())]
    first = min(BLOCK, settings["race_trials"])
    race = n_classes * first + 2 * (settings["race_trials"] - first)
    seeds = (settings["n_seeds"] - 1) * n_classes * n_trials
    return n_images * (seeds + sum(apart) + race) + (settings["n_timed"] * settings["n_timings"] + 1) * clocked


def fit_schedules(entries: Schedules, n_trials: int) -> list[dict[str, list[int]]]:
    """Return schedules scaled so that the last stage of each has n_trials.

    A stage that would have no more trials than the stage before is left out.
    """
    made = []
    for entry in entries:
        # From the last stage to the first, each with fewer trials than the stage after it.
        trials, keep = [n_trials], [entry["keep"][-1]]
        for n, k in zip(entry["trials"][-2::-1], entry["keep"][-2::-1], strict=True):
            scaled = max(1, round(n * n_trials / entry["trials"][-1]))
            if scaled < trials[0]:
                trials, keep = [scaled, *trials], [k, *keep]
        made.append({"trials": trials, "keep": keep})
    return made


def schedule_label(schedule: Staged) -> str:
    """Return a schedule in words: 10/100 keep 5 1."""
    return f"{'/'.join(map(str, schedule.trials))} keep {' '.join(map(str, schedule.keep))}"


def staged_strategies(entries: Schedules, n_prompts: int) -> dict[str, Staged]:
    """Return label -> strategy: each schedule on the official grid, and on the nested one where that costs less."""
    made: dict[str, Staged] = {}
    for entry in entries:
        official, nested = (Staged(**entry, grid=grid) for grid in ("official", "nested"))
        label = schedule_label(official)
        made[label] = official
        if nested.evaluations(n_prompts) != official.evaluations(n_prompts):
            made[f"{label}, nested"] = nested
    return made


def stage_timesteps(strategy: Staged, n_timesteps: int = 1000) -> list[tuple[NDArray, NDArray]]:
    """Return, for each stage, the timesteps it evaluates for the first time, and those of all earlier stages."""
    timesteps, seen, stages = strategy.trial_list(n_timesteps).timesteps, np.array([], dtype=np.int64), []
    for stage in strategy.stages():
        new = np.setdiff1d(stage, seen)
        stages.append((timesteps[new], timesteps[seen]))
        seen = np.append(seen, new)
    return stages


def last_stages(strategy: Staged, tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images, n_prompts) the number of the last stage, from 1, in which each prompt was evaluated.

    The tables (n_images, n_prompts, n_trials) are those that the strategy made.

    Raises:
        ValueError: a prompt has a number of trials that no stage ends with.
    """
    sizes = np.cumsum([len(new) for new, _ in stage_timesteps(strategy)])
    counts = (~np.isnan(tables)).sum(axis=2)
    if not np.isin(counts, sizes).all():
        raise ValueError(f"trials of a prompt must be one of {sizes}, got {counts[~np.isin(counts, sizes)][0]}")
    # A stage that adds no trial looks like the stage before; prompts are counted as dropped by the later of the two.
    return np.searchsorted(sizes, counts, side="right")


def fates(strategy: Staged, tables: NDArray, labels: ArrayLike) -> NDArray[np.int64]:
    """Return (n_images,) what became of the true prompt: 0 if chosen, else the stage after which it was lost."""
    labels = np.asarray(labels)
    stage = last_stages(strategy, tables)[np.arange(len(labels)), labels]
    return np.where(decisions(tables) == labels, 0, stage)


def fate_groups(fate: NDArray, n_stages: int, exhaustive_right: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Return label -> (n_images,) bool, on which images pruning and exhaustive search differ, or both fail.

    A prompt that is lost after the last of n_stages was not dropped early.
    """
    right = np.asarray(exhaustive_right, dtype=bool)
    early, late = (fate > 0) & (fate < n_stages), fate == n_stages
    return {
        "dropped early, exhaustive right": early & right,
        "dropped early, exhaustive wrong": early & ~right,
        "lost at the end, exhaustive right": late & right,
        "lost at the end, exhaustive wrong": late & ~right,
        "found, exhaustive wrong": (fate == 0) & ~right,
    }


def time_images(
    classifiers: Mapping[str, DiffusionClassifier], images: Sequence, repeats: int = 3
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Return the wall time and the errors of classifiers on images, one image at a time.

    The classifiers take turns on every image, so that a machine that slows down slows all of them. Each is run once on
    the first image without a clock.

    Returns:
        name -> (repeats, n_images) seconds and (n_images, n_prompts, n_trials) errors.

    Raises:
        ValueError: no image, or fewer than one repeat.
    """
    if not len(images) or repeats < 1:
        raise ValueError(f"images and repeats must be at least 1, got {len(images)} and {repeats}")
    tables = {name: [classifier.errors(images[0]).errors] for name, classifier in classifiers.items()}
    seconds = {name: np.empty((repeats, len(images))) for name in classifiers}
    for repeat, number in np.ndindex(repeats, len(images)):
        for name, classifier in classifiers.items():
            began = time.perf_counter()
            table = classifier.errors(images[number])
            seconds[name][repeat, number] = time.perf_counter() - began
            tables[name].append(table.errors)
    return {name: (seconds[name], np.stack(tables[name][1 : len(images) + 1])) for name in classifiers}
