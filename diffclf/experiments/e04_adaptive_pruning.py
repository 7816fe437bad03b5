"""Adaptive pruning: searches on stored errors, schedules, what becomes of the true class, and seconds per image.

A strategy asks for entries of an error table and gets stored ones. Any number of strategies can thus be compared on the
same images and the same noise. Tables (n_images, n_prompts, n_trials) hold what a strategy asked for, NaN elsewhere.

    fate of the true prompt = chosen, or lost after stage i

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 2, Tables 6 and 7.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.classifier import DiffusionClassifier
from diffclf.errortable import prompt_scores
from diffclf.pruning import Staged, Strategy, run_stored
from diffclf.search import ErrorSource, search
from diffclf.trials import BLOCK, TrialList, uniform

__all__ = [
    "agreement",
    "decisions",
    "evaluations",
    "fate_groups",
    "fates",
    "fit_schedules",
    "last_stages",
    "n_evaluations",
    "run_stored_images",
    "schedule_label",
    "search_errors",
    "stage_timesteps",
    "staged_strategies",
    "time_images",
]


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


def run_stored_images(strategy: Strategy, errors: NDArray) -> NDArray:
    """Return the tables of a strategy on stored errors, whose first trials are its own."""
    n_trials = len(strategy.trial_list())
    return np.stack([run_stored(strategy, table[:, :n_trials]) for table in errors])


def search_errors(source: ErrorSource, images: object, strategy: Strategy, desc: str = "images") -> NDArray[np.float32]:
    """Return the tables of a strategy on a bank or a network."""
    return np.stack([table.errors for table in search(source, images, strategy, desc=desc)])


def decisions(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the prompt that each table decides for."""
    return np.array([prompt_scores(table).argmax() for table in tables])


def n_evaluations(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the denoiser evaluations behind each table."""
    return (~np.isnan(tables)).sum(axis=(1, 2))


def agreement(live: NDArray, stored: NDArray, rtol: float) -> NDArray[np.bool_]:
    """Return (n_images,) whether two tables have the same entries, the same errors to rtol and the same decision."""
    same = np.isclose(live, stored, rtol=rtol, atol=0, equal_nan=True).all(axis=(1, 2))
    return same & (decisions(live) == decisions(stored))


def fit_schedules(entries: Sequence[Mapping[str, Sequence[int]]], n_trials: int) -> list[dict[str, list[int]]]:
    """Return schedules scaled so that the last stage of each has n_trials, without stages that add no trial."""
    made = []
    for entry in entries:
        scaled = [max(1, round(n * n_trials / entry["trials"][-1])) for n in entry["trials"]]
        keep = dict(zip(scaled, entry["keep"], strict=True))  # the last of equal stages counts
        made.append({"trials": list(keep), "keep": list(keep.values())})
    return made


def schedule_label(schedule: Staged) -> str:
    """Return a schedule in words: 10/100 keep 5 1."""
    return f"{'/'.join(map(str, schedule.trials))} keep {' '.join(map(str, schedule.keep))}"


def staged_strategies(entries: Sequence[Mapping[str, Sequence[int]]], n_prompts: int) -> dict[str, Staged]:
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

    Raises ValueError if a prompt has a number of trials that no stage ends with.
    """
    sizes = np.cumsum([len(new) for new, _ in stage_timesteps(strategy)])
    counts = (~np.isnan(tables)).sum(axis=2)
    if len(others := np.setdiff1d(counts, sizes)):
        raise ValueError(f"trials of a prompt must be one of {sizes}, got {others}")
    # A stage that adds no trial looks like the stage before; prompts are counted as dropped by the later of the two.
    return np.searchsorted(sizes, counts, side="right")


def fates(strategy: Staged, tables: NDArray, labels: ArrayLike) -> NDArray[np.int64]:
    """Return (n_images,) what became of the true prompt: 0 if chosen, else the stage after which it was lost."""
    stage = last_stages(strategy, tables)[np.arange(len(labels)), labels]
    return np.where(decisions(tables) == labels, 0, stage)


def fate_groups(fate: NDArray, n_stages: int, exhaustive_right: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Return label -> (n_images,) bool, on which images pruning and exhaustive search differ, or both fail."""
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
    classifiers: Mapping[str, DiffusionClassifier], images: Sequence, repeats: int
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Return name -> (repeats, n_images) seconds and (n_images, n_prompts, n_trials) errors of classifiers.

    The classifiers take turns on every image, so that a machine that slows down slows all of them. Each is run once on
    the first image without a clock. Raises ValueError if there is no image, or fewer than one repeat.
    """
    if not len(images) or repeats < 1:
        raise ValueError(f"images and repeats must be at least 1, got {len(images)} and {repeats}")
    for classifier in classifiers.values():
        classifier.errors(images[0])
    seconds = {name: np.empty((repeats, len(images))) for name in classifiers}
    tables = {name: [None] * len(images) for name in classifiers}
    for repeat, number in np.ndindex(repeats, len(images)):
        for name, classifier in classifiers.items():
            began = time.perf_counter()
            tables[name][number] = classifier.errors(images[number]).errors
            seconds[name][repeat, number] = time.perf_counter() - began
    return {name: (seconds[name], np.stack(tables[name])) for name in classifiers}
