"""The study: accuracy against evaluations on two tasks. `study.json` beside a model's weights holds its results.

All strategies are run on the same images, trials and noise (`diffclf.experiments.tasks`). Everything tunable is tuned
on *tune* images; then all strategies are scored once on *test* images. No other module knows the structure of the file:
it is written here, and read here into plain rows.

What a race costs among C classes is projected from the share of rivals that were left after n trials of a measured one:

    evaluations(C) = sum over looks of new trials x (rivals + min(1, rivals)),    rivals = share left x (C - 1)

The projection supposes that this share does not depend on the classes, the images and the model.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf import stats
from diffclf.baselines.nearest_mean import learn_nearest_mean
from diffclf.datasets.embedded import load_embedded
from diffclf.errortable import prompt_scores
from diffclf.experiments.accuracy import accuracies, correct_by_budget
from diffclf.experiments.e04_adaptive_pruning import schedule_label
from diffclf.experiments.tasks import LADDER, MARGIN, TASKS, Task, TaskRun, best_fixed, cheapest_race, run_task
from diffclf.files import write_json
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.pruning import Racing, Shortlist, Staged, Strategy
from diffclf.pruning.calibration import calibrate

__all__ = [
    "STUDY",
    "ablation_rows",
    "ablations",
    "exhaustive_curve",
    "project",
    "projection_rows",
    "read_study",
    "remaining_rivals",
    "strategy_rows",
    "study_task",
    "task_facts",
    "weighted_accuracies",
    "write_study",
]

STUDY = "study.json"
"""File beside a built-in model's weights."""
OFFICIAL = "paper's schedule"
"""The strategy that all others are compared with."""


def study_task(
    task: Task, model: DiffusionModel, folder: Path, *, pool: int | None = None, margin: float = MARGIN
) -> dict[str, Any]:
    """Choose a fixed schedule and a race on tune images, score all strategies on test images, and return the results.

    The banks lie in the folder. The shortlist learns from a number of labelled images, `pool`; None: from all.
    """
    data, bank = task.open(model, "tune", task.n_tune, folder)
    race = Racing().prepare(model, data.classnames)
    reference = run_task(bank, data, task.reference, "reference").right
    fixed, difference, tried = best_fixed(bank, data, task.keeps, reference, margin)
    frugal = cheapest_race(race, bank, data, reference, margin)
    chosen = {"value": difference.value, "low": difference.low, "tried": tried, "schedule": schedule_label(fixed)}
    chosen |= {"images": len(data), "reference": schedule_label(task.reference)}

    data, bank = task.open(model, "test", task.n_test, folder)
    strategies: dict[str, Strategy] = {OFFICIAL: task.schedule, "best fixed schedule": fixed, **task.races(race)}
    if frugal != race:
        strategies["race, by accuracy"] = frugal
    if not task.tree:  # among sixty classes it would take most of the study's time
        strategies["race, cautious"] = Racing(confidence=0.99)
    scorer = learn_nearest_mean(load_embedded(task.dataset, "pool", pool), model.image_size)
    strategies["shortlist, race"] = Shortlist(task.k, scorer, race)
    runs = {name: run_task(bank, data, strategy, name) for name, strategy in strategies.items()}
    exhaustive = run_task(bank, data, Staged(task.reference.trials[:1], (1,), "random"), "all classes").tables
    budgets = [n for n in (1, 2, *LADDER) if n <= exhaustive.shape[2]]
    curve = accuracies(correct_by_budget(exhaustive, data.labels, budgets), data.groups)
    return {
        "classes": len(data.classnames),
        "images": len(data),
        OFFICIAL: schedule_label(task.schedule),
        "best fixed schedule": chosen,
        "race, by accuracy": frugal.threshold,
        "race": repr(race),
        "shortlist": task.k,
        "strategies": {name: _summary(run, runs[OFFICIAL], data.groups) for name, run in runs.items()},
        "exhaustive": [
            {"evaluations": n * exhaustive.shape[1], **_numbers(e)} for n, e in zip(budgets, curve, strict=True)
        ],
        "confidence": _confidence(runs["race"]),
        "remaining": remaining_rivals(race, runs["race"].tables),
    }


def _numbers(estimate: stats.Estimate) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), estimate, strict=True))


def _summary(run: TaskRun, official: TaskRun, groups: NDArray) -> dict[str, Any]:
    """Return accuracy, evaluations and the difference to the paper's schedule of one strategy."""
    return {
        "accuracy": _numbers(stats.mean(run.right, groups=groups)),
        "evaluations": {"value": float(run.spent.mean())},
        "difference": _numbers(stats.non_inferior(run.right, official.right, groups)),
    }


def _confidence(run: TaskRun) -> dict[str, Any]:
    """Return how well cost, and the margin of the score, predict that a decision is right.

    AUROC is the probability that a right decision has the larger value than a wrong one, ties counting half; None if
    all decisions are right or all wrong.
    """
    from sklearn.metrics import roc_auc_score

    scores = np.sort([prompt_scores(table) for table in run.tables], axis=1)
    values = {"auroc_of_evaluations": -run.spent, "auroc_of_margin": scores[:, -1] - scores[:, -2]}
    both = 0 < run.right.sum() < len(run.right)
    return {name: float(roc_auc_score(run.right, value)) if both else None for name, value in values.items()}


def remaining_rivals(race: Racing, tables: NDArray) -> dict[str, list[float]]:
    """Return the trials at each look and the share of rivals that are left after it, a mean over images."""
    looks = race.looks()
    left = np.zeros(len(looks))
    for table in tables:
        for place, look in enumerate(race.rounds(table)):
            left[place] += len(look.survivors) - 1
    return {"trials": looks, "rivals_left": (left / len(tables) / (tables.shape[1] - 1)).tolist()}


def weighted_accuracies(errors: NDArray, labels: NDArray) -> dict[str, float]:
    """Return accuracies of the mean error, flat and weighted by trial.

    The weights are powers of the spread between classes at each trial, measured on the first half of the images
    without their labels; accuracy is that on the second half. Errors are complete, (n_images, n_prompts, n_trials).
    """
    half = len(errors) // 2
    spread = errors[:half].std(axis=1).mean(axis=0)
    powers = {"flat": 0, "spread": 1, "1 / spread": -1, "1 / spread squared": -2}
    winners = {name: (errors[half:] * spread**power).mean(axis=2).argmin(axis=1) for name, power in powers.items()}
    return {name: float((winner == labels[half:]).mean()) for name, winner in winners.items()}


def ablations(
    model: DiffusionModel, folder: Path, *, n_trials: int = 128, n_images: int | None = None, error: float = 0.01
) -> dict[str, Any]:
    """Return what a race gains, on tune images of mini-items, from mirrored noise, moderated variances and weights.

    The banks lie in the folder; n_images None: as many as the task has; error: as for `calibrate`.
    """
    task, tables, found = TASKS["mini-items"], {}, {}
    for name, race in {
        "race": Racing(n_trials),
        "independent noise": Racing(n_trials, antithetic=False),
        "own variances": Racing(n_trials, prior_pairs=0),
    }.items():
        data, bank = task.open(model, "tune", n_images or task.n_tune, folder, antithetic=race.antithetic)
        tables[name] = bank.errors(data.images, n_trials=n_trials, desc=name)
        calibration = calibrate(race, tables[name], error=error)
        right = tables[name].mean(axis=2, dtype=np.float64).argmin(axis=1) == data.labels
        found[name] = {
            "threshold": calibration.racing.threshold,
            "evaluations": calibration.n_evaluations,
            "dropped": calibration.n_dropped,
            "full_accuracy": float(right.mean()),
        }
    return {"images": len(data), "races": found, "weights": weighted_accuracies(tables["race"], data.labels)}


def write_study(model: DiffusionModel, folder: Path) -> None:
    """Study all tasks and write the results beside the weights of a built-in model."""
    tasks = {name: study_task(task, model, folder) for name, task in TASKS.items()}
    content = {"fingerprint": model.fingerprint, "tasks": tasks, "tried": ablations(model, folder)}
    write_json(data_dir() / "models" / model.name / STUDY, content)


def read_study(model: DiffusionModel) -> Mapping[str, Any] | None:
    """Return the study of a built-in model; None if there is none, or it is of other weights."""
    try:
        stored = json.loads((data_dir() / "models" / model.name / STUDY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return stored if stored["fingerprint"] == model.fingerprint else None


def _points(numbers: Mapping[str, float], level: float = 0.95) -> stats.Estimate:
    return 100 * stats.Estimate(numbers["value"], numbers["low"], numbers["high"], level)


def strategy_rows(task: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return strategy -> its cost, accuracy, difference to the paper's schedule, and whether it is not worse.

    The task is study["tasks"][name]. The lower end of the difference is the one-sided 95% bound of "not worse".
    """
    official, rows = task["strategies"][OFFICIAL]["evaluations"]["value"], {}
    for name, run in task["strategies"].items():
        spent, others = run["evaluations"]["value"], name != OFFICIAL
        shown = "shown" if run["difference"]["low"] > -MARGIN else "not shown"
        rows[name] = {
            "evaluations": spent,
            "times fewer": official / spent,
            "accuracy (%)": _points(run["accuracy"]),
            "difference (points)": _points(run["difference"], 0.9) if others else "",
            "not worse by 2 points": shown if others else "",
        }
    return rows


def exhaustive_curve(task: Mapping[str, Any]) -> tuple[list[int], list[stats.Estimate]]:
    """Return evaluations per image and accuracies in per cent of every class on as many trials."""
    return [row["evaluations"] for row in task["exhaustive"]], [_points(row) for row in task["exhaustive"]]


def task_facts(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a task, its best fixed schedule, and what predicts a right decision (AUROC)."""
    fixed, sizes = task["best fixed schedule"], {name: task[name] for name in ("classes", "images")}
    return {**sizes, "schedule": fixed["schedule"], "tune_images": fixed["images"], **task["confidence"]}


def project(n_classes: int, trials: Sequence[int], rivals_left: Sequence[float]) -> float:
    """Return the projected evaluations of a race among n_classes; trials and rivals_left are of `remaining_rivals`."""
    before, share, spent = 0, 1.0, 0.0
    for n, left in zip(trials, rivals_left, strict=True):
        # The winner runs on only where it has a rival: at most as often as there are rivals on average.
        rivals = share * (n_classes - 1)
        spent += (n - before) * (rivals + min(1, rivals))
        before, share = n, left
    return spent


def projection_rows(schedules: Mapping[str, Sequence[Any]], study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row per data set of the paper: its schedule's evaluations, and the projected ones of a race.

    The schedules are data set -> number of classes, classes kept, trials, ... (Table 6).
    """
    rows, tasks = {}, study["tasks"].items()
    for name, (n_classes, keep, trials, *_) in schedules.items():
        official = Staged(tuple(trials), tuple(keep)).evaluations(n_classes)
        costs = {f"race, as on {task}": project(n_classes, **found["remaining"]) for task, found in tasks}
        fewer = f"{official / max(costs.values()):.1f} to {official / min(costs.values()):.1f}"
        rows[name] = {"classes": n_classes, OFFICIAL: official, **costs, "times fewer": fewer}
    return rows


def ablation_rows(study: Mapping[str, Any]) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the number of tune images, and ablation -> what was measured, without it, with it, and the result."""
    races, weights = study["tried"]["races"], dict(study["tried"]["weights"])
    mirrored, moderated = "every second block of noises mirrored", "variances moderated by the other rivals'"
    cost, accuracy = "evaluations of a calibrated race", "accuracy, all classes on all trials"
    found = {}
    for what, name in ((mirrored, "independent noise"), (moderated, "own variances")):
        without, own = (races[race]["evaluations"] for race in (name, "race"))
        found[what] = (cost, f"{without:.0f}", f"{own:.0f}", "kept" if own < without else "no help")
    both = (f"{100 * races[race]['full_accuracy']:.1f}%" for race in ("independent noise", "race"))
    found[f"{mirrored}, all classes"] = (accuracy, *both, "")
    flat = weights.pop("flat")
    for name, weighted in weights.items():
        result = "no difference" if abs(weighted - flat) < 0.01 else "worse" if weighted < flat else "better"
        row = (accuracy, f"{100 * flat:.1f}%", f"{100 * weighted:.1f}%", result)
        found[f"trials weighted by {name} of the classes"] = row
    columns = ("measured", "without", "with", "result")
    return study["tried"]["images"], {what: dict(zip(columns, row, strict=True)) for what, row in found.items()}
