"""Accuracy against evaluations on two tasks: what `diffclf bench --full` computes and notebook 04 draws.

Every strategy is replayed on the same images, trials and noise (`diffclf.mini.harness`). What has a choice to make
makes it on *tune* images: the race's threshold (`diffclf calibrate`) and the best fixed schedule, found here. All are
then scored once on *test* images.

    not worse       one-sided 95% lower bound of accuracy - accuracy of the paper's schedule, above -2 points
    fixed schedule  the cheapest of a grid that is not worse, on tune images, than a search that prunes little
    by accuracy     the race with the smallest threshold of which the same is true
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffclf import stats
from diffclf.bank import ErrorBank
from diffclf.datasets.imageset import ImageSet
from diffclf.errortable import prompt_scores
from diffclf.hierarchy import Hierarchical, Tree
from diffclf.images import load_images, to_pixels
from diffclf.mini.harness import TASKS, Task, nearest_mean_scorer, open_task, races
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.progress import progress
from diffclf.pruning import Pruning, Staged
from diffclf.racing import THRESHOLDS, Racing, calibrated
from diffclf.shortlist import Among, Shortlist
from diffclf.workbook import hits, replays
from diffclf.workbook.results import write_json
from diffclf.workbook.tried import try_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "STUDY",
    "best_fixed",
    "cheapest_race",
    "fixed_schedules",
    "read_study",
    "staged_winners",
    "study_table",
    "study_task",
    "write_study",
]

STUDY = "study.json"
"""File beside a built-in model's weights."""

LADDER = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MARGIN = 0.02


def fixed_schedules(n_prompts: int, ladder: Sequence[int], keeps: Sequence[int], n_stages: int = 4) -> list[Staged]:
    """Return every schedule of at most n_stages stages from these numbers of trials and of classes kept, by cost.

    Args:
        n_prompts: classes.
        ladder: trials that a stage may end with.
        keeps: classes that a stage may keep, but for the last one.
        n_stages: at most so many.
    """
    made = [
        Staged(trials, (*keep, 1), "random")
        for stages in range(1, n_stages + 1)
        for trials in itertools.combinations(sorted(ladder), stages)
        for keep in itertools.combinations(sorted((k for k in keeps if k < n_prompts), reverse=True), stages - 1)
    ]
    return sorted(made, key=lambda schedule: schedule.evaluations(n_prompts))


def staged_winners(schedule: Staged, sums: np.ndarray) -> np.ndarray:
    """Return the winners of a nested schedule on many images at once, -1 where an error it asks for is not known.

    Args:
        schedule: on the "random" or the "nested" grid.
        sums: (n_images, n_prompts, n_trials) running sums of the errors over trials, NaN from the first unknown one.

    Returns:
        (n_images,) prompts.
    """
    alive = np.ones(sums.shape[:2], dtype=bool)
    unknown = np.zeros(len(sums), dtype=bool)
    for n, keep in zip(schedule.trials, schedule.keep, strict=True):
        means = sums[:, :, n - 1]
        unknown |= (np.isnan(means) & alive).any(axis=1)
        best = np.argsort(np.where(alive & ~np.isnan(means), means, np.inf), axis=1, kind="stable")[:, :keep]
        alive = np.zeros_like(alive)
        np.put_along_axis(alive, best, True, axis=1)
    return np.where(unknown, -1, best[:, 0])


def best_fixed(
    task: Task, bank: ErrorBank, data: ImageSet, reference: np.ndarray, margin: float = MARGIN
) -> tuple[Staged, dict[str, float]]:
    """Return the cheapest fixed schedule that is not worse than the reference, and its difference to it.

    Schedules are tried from the cheapest to the dearest; the bank computes what they miss.

    Args:
        task: says how many classes a stage may keep.
        bank: of the tune images.
        data: these images.
        reference: (n_images,) bool, which of them the reference classifies correctly.
        margin: by how much a schedule may be worse.

    Raises:
        ValueError: none of the grid is good enough.
    """
    n_classes = len(data.classnames)

    def running_sums() -> np.ndarray:
        return np.cumsum(bank.errors(data.images)[:, :n_classes, : LADDER[-1]], axis=2, dtype=np.float64)

    sums = running_sums()
    for tried, schedule in enumerate(fixed_schedules(n_classes, LADDER, task.keeps), 1):
        winners = staged_winners(schedule, sums)
        if (winners < 0).any():
            replays.fill_on_demand(Among(tuple(range(n_classes)), schedule), bank, data.images)
            sums = running_sums()
            winners = staged_winners(schedule, sums)
        right = winners == data.labels
        if right.mean() - reference.mean() <= -margin:  # a bound lies no higher: most schedules need none
            continue
        difference = stats.non_inferior(right, reference, data.groups, n_resamples=2000)
        if difference.low > -margin:
            return schedule, {"value": difference.value, "low": difference.low, "tried": tried}
    raise ValueError(f"schedules must include one that is not worse by {margin}, got none among {tried}")


def _auroc(values: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the probability that a positive's value exceeds a negative's, ties counting half; None without both."""
    from scipy.stats import mannwhitneyu

    above, below = values[positive], values[~positive]
    if not len(above) or not len(below):
        return None
    return float(mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def _estimate(estimate: stats.Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


class _Runs:
    """Strategies on some images of one task."""

    def __init__(self, bank: ErrorBank, data: ImageSet) -> None:
        self.bank, self.data = bank, data
        self.n_classes = len(data.classnames)
        self.right: dict[str, np.ndarray] = {}
        self.spent: dict[str, np.ndarray] = {}
        self.tables: dict[str, np.ndarray] = {}

    def run(self, name: str, strategy: Pruning) -> None:
        """Replay a strategy; the nodes of a tree are the bank's last rows."""
        leaves = tuple(range(self.n_classes))
        if isinstance(strategy, Shortlist):
            pixels = [to_pixels(image, self.bank.model.image_size) for image in load_images(self.data.images)]
            each = [strategy.for_image(image, self.n_classes) for image in pixels]
        elif isinstance(strategy, Tree):
            each = [strategy] * len(self.data)
        else:
            each = [Among(leaves, strategy)] * len(self.data)
        with progress(desc=name, unit="image") as bar:
            tables = replays.fill_each(each, self.bank, self.data.images, progress=lambda *done: bar.update(1))
        self.tables[name] = tables
        self.right[name] = replays.decisions(tables[:, : self.n_classes]) == self.data.labels
        self.spent[name] = replays.evaluations(tables)

    def summary(self, reference: str) -> dict[str, Any]:
        """Return accuracy, evaluations and the difference to the reference of every strategy."""
        groups, found = self.data.groups, {}
        for name, right in self.right.items():
            found[name] = {
                "accuracy": _estimate(stats.mean(right, groups=groups)),
                "evaluations": {"value": float(self.spent[name].mean())},
                "difference": _estimate(stats.non_inferior(right, self.right[reference], groups)),
            }
        return found


def cheapest_race(race: Racing, tune: _Runs, margin: float = MARGIN) -> Racing:
    """Return the race with the smallest threshold that is not worse, on tune images, than the run named reference.

    Thresholds are tried downwards from the race's own to the first that fails; the bank computes what they miss.

    Args:
        race: its own threshold stays if no smaller one will do; an uncalibrated race is returned as it is.
        tune: runs on the tune images, the reference among them.
        margin: by how much the race may be worse.
    """
    for threshold in (t for t in THRESHOLDS if race.threshold is not None and t < race.threshold):
        tried, name = replace(race, threshold=threshold), f"z = {threshold}"
        tune.run(name, tried)
        right, reference = tune.right[name], tune.right["reference"]
        if stats.non_inferior(right, reference, tune.data.groups, n_resamples=2000).low <= -margin:
            break
        race = tried
    return race


def _confidence(tables: np.ndarray, right: np.ndarray, spent: np.ndarray) -> dict[str, Any]:
    """Return how well cost, and score, tell right decisions from wrong ones: areas under the ROC curve."""
    scores = np.sort([prompt_scores(table) for table in tables], axis=1)
    quarter = np.array_split(np.argsort(spent, kind="stable"), 4)
    return {
        "auroc_of_evaluations": _auroc(-spent, right),
        "auroc_of_margin": _auroc(scores[:, -1] - scores[:, -2], right),
        "accuracy_by_quarter_of_cost": [float(right[part].mean()) for part in quarter],
    }


def _remaining(race: Racing, tables: np.ndarray) -> dict[str, list[float]]:
    """Return the share of rivals that are still in after each look, a mean over images."""
    looks = race.looks()
    left = np.zeros(len(looks))
    for table in tables:
        for place, look in enumerate(race.rounds(table)):
            left[place] += len(look.survivors) - 1
    return {"trials": looks, "rivals_left": (left / len(tables) / (tables.shape[1] - 1)).tolist()}


def _exhaustive(errors: np.ndarray, data: ImageSet) -> list[dict[str, float]]:
    """Return the accuracy of every class on n trials, as far as the strategies have had all of these computed."""
    unknown = np.isnan(errors).any(axis=(0, 1))
    n_known = int(unknown.argmax()) if unknown.any() else len(unknown)
    budgets = [n for n in (1, 2, *LADDER) if n <= n_known]
    found = hits.accuracy(hits.prefix_hits(errors[:, :, :n_known], data.labels, budgets), data.groups)
    rows = zip(budgets, found, strict=True)
    return [{"evaluations": n * errors.shape[1], **_estimate(estimate)} for n, estimate in rows]


def _choose(task: Task, race: Racing, tune: _Runs, margin: float) -> tuple[Staged, Racing, dict[str, Any]]:
    """Return the best fixed schedule and the cheapest race on tune images, and what the study's file says of these."""
    tune.run("reference", task.reference)
    fixed, difference = best_fixed(task, tune.bank, tune.data, tune.right["reference"], margin)
    frugal = cheapest_race(race, tune, margin)
    said = {
        "best fixed schedule": difference
        | {
            "schedule": replays.schedule_label(fixed),
            "images": len(tune.data),
            "reference": replays.schedule_label(task.reference),
        },
        "race, by accuracy": frugal.threshold,
    }
    return fixed, frugal, said


def study_task(
    task: Task, model: DiffusionModel, folder: Path, *, pool: int | None = None, margin: float = MARGIN
) -> dict[str, Any]:
    """Choose the best fixed schedule on tune images and score all strategies on test images.

    Args:
        task: the task.
        model: the model.
        folder: of the banks.
        pool: labelled images the shortlist learns from; None: all.
        margin: by how much the fixed schedule may be worse than the task's reference.

    Returns:
        What the study's file holds of a task.
    """
    race = calibrated(Racing(), model)
    data, bank = open_task(task, model, "tune", task.n_tune, folder)
    fixed, frugal, chosen = _choose(task, race, _Runs(bank, data), margin)

    data, bank = open_task(task, model, "test", task.n_test, folder)
    runs = _Runs(bank, data)
    runs.run("paper's schedule", task.schedule)
    runs.run("best fixed schedule", fixed)
    for name, search in races(task, race).items():
        runs.run(name, search.bind(data.classnames) if isinstance(search, Hierarchical) else search)
    if frugal != race:
        runs.run("race, by accuracy", frugal)
    if not task.tree:  # among sixty classes it would take most of the study's time
        runs.run("race, cautious", Racing())
    runs.run("shortlist, race", Shortlist(task.k, nearest_mean_scorer(task.dataset, model.image_size, pool), race))
    n_classes = runs.n_classes
    tables = runs.tables["race"][:, :n_classes]
    return {
        "classes": n_classes,
        "images": len(data),
        "paper's schedule": replays.schedule_label(task.schedule),
        **chosen,
        "race": repr(race),
        "shortlist": task.k,
        "strategies": runs.summary("paper's schedule"),
        "exhaustive": _exhaustive(bank.errors(data.images)[:, :n_classes], data),
        "confidence": _confidence(tables, runs.right["race"], runs.spent["race"]),
        "remaining": _remaining(race, tables),
    }


def write_study(model: DiffusionModel, folder: Path) -> None:
    """Study all tasks and keep what was found beside the weights of a built-in model."""
    path = data_dir() / "models" / model.name / STUDY
    tasks = {name: study_task(task, model, folder) for name, task in TASKS.items()}
    write_json(path, {"fingerprint": model.fingerprint, "tasks": tasks, "tried": try_all(model, folder)})


def read_study(model: DiffusionModel) -> Mapping[str, Any] | None:
    """Return the study that lies with a built-in model; None where there is none for these weights."""
    try:
        stored = json.loads((data_dir() / "models" / model.name / STUDY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return stored if stored["fingerprint"] == model.fingerprint else None


def study_table(task: Mapping[str, Any]) -> "pd.DataFrame":
    """Return the strategies of a task beside the paper's schedule: cost, accuracy, difference, whether it is not worse.

    The difference's interval is the one whose lower end is the one-sided 95% bound of "not worse".
    """
    import pandas as pd

    def points(entry: Mapping[str, float], level: float = 0.95) -> stats.Estimate:
        return 100 * stats.Estimate(entry["value"], entry["low"], entry["high"], level)

    official = task["strategies"]["paper's schedule"]["evaluations"]["value"]
    rows = {
        name: {
            "evaluations": row["evaluations"]["value"],
            "times fewer": official / row["evaluations"]["value"],
            "accuracy (%)": points(row["accuracy"]),
            "difference (points)": points(row["difference"], 0.9) if name != "paper's schedule" else "",
            "not worse by 2 points": ("shown" if row["difference"]["low"] > -MARGIN else "not shown")
            if name != "paper's schedule"
            else "",
        }
        for name, row in task["strategies"].items()
    }
    return pd.DataFrame(rows).T
