"""The versions of one model on many tasks: accuracy along the training, and what predicts it.

All versions classify the same images with the same noise, so that a step from one version to another is a paired
difference. A task k of n_k images has the mean difference m_k; several tasks are combined with weights w_k:

    step on the average task      theta = sum_k w_k m_k,  w_k = 1 / n_tasks

The interval of theta is a bootstrap over photographs of the values N w_k / n_k (d - m_k) + theta, N the images of all
tasks. Their mean is theta, and their spread is that of theta if the number of images of each task is fixed.

Three numbers may predict accuracy, the last two measured on tune images with the trials of the task:

    training loss      of the log, at the samples that the version had seen; one number for all tasks
    denoising error    mean error under the true prompt
    gap                mean error under a false prompt minus that under the true prompt

Source: Li et al. 2023, arXiv 2303.16203, Table 10.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet, load_dataset
from diffclf.errortable import prompt_scores
from diffclf.experiments.e09_supervised import confusion
from diffclf.experiments.field import Field, short
from diffclf.mini.sd import VERSIONS
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.pruning import Staged
from diffclf.search import search
from diffclf.stats import Estimate, bootstrap, mean

__all__ = ["PREDICTORS", "Task", "accuracies", "accuracy_rows", "average", "combined", "contrasts", "evaluations"]
__all__ += ["gap_by_timestep", "logged_loss", "loss_at", "pair_rows", "paper_accuracies", "paper_marks"]
__all__ += ["predictor_rows", "predictors", "reading", "samples_seen", "share_reached", "steps", "strategy", "study"]
__all__ += ["trial_rows"]

FEW = 4
"""Trials after which the final answer is compared with the answer so far."""
NEAREST = 5
"""Logged losses that the training loss of a version is smoothed over."""
PREDICTORS = ("training loss", "denoising error", "gap")


def strategy(task: Mapping[str, Any]) -> Staged:
    """Return how all versions classify the images of a task, given the task's settings."""
    return Staged(tuple(task["trials"]), tuple(task["keep"]), "nested")


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of all versions on all tasks."""
    total = 0
    for task in settings["tasks"].values():
        total += min(task["images"], settings["n_images"]) * strategy(task).evaluations(task["classes"])
        total += task["tune"] * 2 * task["trials"][-1]
    return total * len(settings["checkpoints"])


@dataclass(frozen=True, eq=False)
class Task:
    """What all versions answered on one task.

    Attributes:
        classnames: of the labels; captions of an image have none.
        n_classes: classes, or captions of an image.
        field: the answers on test images by version.
        early: the answers after the first `FEW` trials of every class.
        spent: version -> mean evaluations for an image.
        timesteps: (n_trials,) of the trials.
        errors: version -> (n_tune, 2, n_trials) errors on tune images, under the true prompt and under a false one;
            empty for a task without tune images.
    """

    classnames: Sequence[str]
    n_classes: int
    field: Field
    early: Field
    spent: Mapping[str, float]
    timesteps: NDArray[np.int64]
    errors: Mapping[str, NDArray[np.float32]]

    @property
    def chance(self) -> float:
        """Accuracy of guessing in points."""
        return 100 / self.n_classes

    def values(self, name: str) -> NDArray[np.float64]:
        """Return 100 for each test image that a version classifies correctly, else 0."""
        return 100.0 * self.field.right(name)


def _prompts(data: ImageSet, model: DiffusionModel) -> Sequence:
    """Return the prompts of all images, or the captions of each image."""
    return data.captions or data.prompts_for(model)


def _true_and_false(data: ImageSet) -> list[list[str]]:
    """Return the true prompt of each image and a false one: the next class of the list, or the next caption."""
    lists = data.captions or [list(data.prompts.values())] * len(data)
    return [[own[label], own[(label + 1) % len(own)]] for own, label in zip(lists, data.labels, strict=True)]


def study(
    bank: Callable[..., ErrorBank], models: Mapping[str, DiffusionModel], settings: Mapping[str, Any]
) -> dict[str, Task]:
    """Return task -> the answers of all versions.

    Args:
        bank: as `Workbook.bank`.
        models: version -> model.
        settings: of the notebook; under `tasks` the numbers of images (images, tune), trials and keep of each task.
    """
    found = {}
    for name, task in settings["tasks"].items():
        staged, n = strategy(task), min(task["images"], settings["n_images"])
        data, tune = load_dataset(name, n_images=n), None
        if task["tune"]:
            tune = load_dataset(name, "tune", task["tune"])
        chosen, early, spent, errors = {}, {}, {}, {}
        for version, model in models.items():
            trials = staged.trial_list(len(model.schedule))
            own = bank(model, _prompts(data, model), trials, losses=("l2",))
            rows = [
                (prompt_scores(table.errors).argmax(), table.errors[:, :FEW].mean(axis=1).argmin(), table.n_evaluations)
                for table in search(own, data.images, staged, desc=f"{name}, {version}")
            ]
            chosen[version], early[version], cost = np.array(rows).T
            spent[version] = float(cost.mean())
            if tune is not None:
                pair = bank(model, _true_and_false(tune), trials, losses=("l2",))
                errors[version] = pair.errors(tune.images, desc=f"{name}, {version}, tune")
        labels, groups = data.labels, data.groups
        fields = Field(labels, groups, chosen), Field(labels, groups, early)
        found[name] = Task(data.classnames, task["classes"], *fields, spent, trials.timesteps, errors)
    return found


def combined(
    values: Sequence[ArrayLike],
    groups: Sequence[ArrayLike],
    weights: ArrayLike,
    level: float = 0.95,
    *,
    signed: bool = True,
) -> Estimate:
    """Return the weighted sum of the means of several tasks; see the module's docstring.

    Args:
        values: for each task (n_k,) numbers, which are differences or lie between 0 and 100.
        groups: for each task (n_k,) photographs; a number means the same photograph in all tasks.
        weights: (n_tasks,) weights w_k.
        level: coverage of the interval.
        signed: whether the numbers are differences.

    Raises:
        ValueError: not as many groups and weights as tasks, or an empty task.
    """
    arrays = [np.asarray(own, dtype=np.float64) for own in values]
    total, means = sum(map(len, arrays)), [own.mean() if len(own) else np.nan for own in arrays]
    theta = sum(w * m for w, m in zip(weights, means, strict=True))
    parts = zip(arrays, means, weights, strict=True)
    spread = [total * w / len(own) * (own - m) + theta for own, m, w in parts if len(own)]
    if len(spread) < len(arrays):
        raise ValueError(f"every task must have an image, got sizes {[len(own) for own in arrays]}")
    joined = np.concatenate([np.asarray(own) for own in groups])
    return mean(np.concatenate(spread), groups=joined, level=level, signed=signed)


def average(tasks: Mapping[str, Task], name: str) -> Estimate:
    """Return the accuracy of a version on the average task in points."""
    own = list(tasks.values())
    weights = np.full(len(own), 1 / len(own))
    found = combined([task.values(name) for task in own], [task.field.groups for task in own], weights, signed=False)
    return found.within(0.0, 100.0)


def _step(
    tasks: Mapping[str, Task], signs: Mapping[str, float], weights: Mapping[str, float], level: float = 0.95
) -> Estimate:
    """Return a contrast of versions (version -> factor) on the tasks that have a weight."""
    own = [tasks[name] for name in weights]
    values = [sum(sign * task.values(name) for name, sign in signs.items()) for task in own]
    return combined(values, [task.field.groups for task in own], list(weights.values()), level)


def _equal(names: Sequence[str], share: float = 1.0) -> dict[str, float]:
    return {name: share / len(names) for name in names}


def accuracies(tasks: Mapping[str, Task]) -> dict[str, dict[str, Estimate]]:
    """Return task, and "average", -> version -> accuracy in points."""
    names = next(iter(tasks.values())).field.chosen
    found = {name: {version: task.field.accuracy(version) for version in names} for name, task in tasks.items()}
    return found | {"average": {version: average(tasks, version) for version in names}}


def accuracy_rows(
    tasks: Mapping[str, Task], accuracy: Mapping[str, Mapping[str, Estimate]]
) -> dict[str, dict[str, Any]]:
    """Return a row per task and the average: test images, chance, accuracy of each version in points."""
    rows = {name: {"images": len(task.field.labels), "chance": task.chance} for name, task in tasks.items()}
    rows["average"] = {"images": sum(row["images"] for row in rows.values()), "chance": None}
    return {name: row | dict(accuracy[name]) for name, row in rows.items()}


def steps(tasks: Mapping[str, Task]) -> dict[str, dict[str, Estimate]]:
    """Return task, and "average", -> "a to b" -> gain in points of version b over the version a before it."""
    pairs = {f"{a} to {b}": (a, b) for a, b in pairwise(next(iter(tasks.values())).field.chosen)}
    everywhere = _equal(list(tasks))
    found = {
        name: {step: task.field.difference(b, a) for step, (a, b) in pairs.items()} for name, task in tasks.items()
    }
    found["average"] = {step: _step(tasks, {b: 1, a: -1}, everywhere) for step, (a, b) in pairs.items()}
    return {name: {step: gain.within(-100.0, 100.0) for step, gain in own.items()} for name, own in found.items()}


def contrasts(tasks: Mapping[str, Task], settings: Mapping[str, Any], level: float = 0.95) -> dict[str, Estimate]:
    """Return claim -> estimate in points, at a level; the settings name the versions and tasks that play each role."""
    (a, b), (c, d) = ([short(name) for name in settings[role]] for role in ("first_step", "last_step"))
    everywhere = _equal(list(tasks))
    contrast = _equal(settings["similar"]) | _equal(settings["dissimilar"], -1.0)
    return {
        "first-step-gains": _step(tasks, {b: 1, a: -1}, everywhere, level),
        "last-step-is-flat": _step(tasks, {d: 1, c: -1}, everywhere, level),
        "most-comes-first": _step(tasks, {b: 2, a: -1, d: -1}, everywhere, level),
        "similar-classes-gain-more": _step(tasks, {d: 1, a: -1}, contrast, level),
    }


def paper_accuracies(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return data set, and "average", -> version -> accuracy of Table 10 in points."""
    found = {
        name: {version: row[place] for version, row in table["rows"].items()}
        for place, name in enumerate(table["columns"])
    }
    return found | {"average": {version: float(np.mean(row)) for version, row in table["rows"].items()}}


def paper_marks(paper: Mapping[str, Mapping[str, float]], settings: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return "a to b" -> the paper's step -> its gain on the average data set, for the first and the last step.

    `paper` is as `paper_accuracies` returns it.
    """
    own, found = paper["average"], {}
    for role, (a, b) in {"first_step": ("1.1", "1.2"), "last_step": ("1.4", "1.5")}.items():
        first, second = (short(name) for name in settings[role])
        found[f"{first} to {second}"] = {f"{a} to {b}": own[b] - own[a]}
    return found


def share_reached(accuracy: Mapping[str, Estimate]) -> dict[str, float]:
    """Return version -> part of the gain from the first to the last version that it has reached, in per cent.

    0 if there is no gain. Parts below 0 and above 100 are possible: accuracies need not rise.
    """
    values = {name: estimate.value for name, estimate in accuracy.items()}
    first, *_, last = values.values()
    return {name: 100 * (value - first) / (last - first) if last != first else 0.0 for name, value in values.items()}


def loss_at(samples: ArrayLike, losses: ArrayLike, at: float) -> float:
    """Return the loss after some samples: a straight line through the logarithms of the nearest logged losses.

    Args:
        samples: (n,) samples seen at each entry of the log, at least 2.
        losses: (n,) mean losses since the entry before.
        at: samples.
    """
    x, y = np.log(np.asarray(samples, dtype=float)), np.log(np.asarray(losses, dtype=float))
    near = np.argsort(np.abs(x - np.log(at)), kind="stable")[:NEAREST]
    return float(np.exp(np.polyval(np.polyfit(x[near] - np.log(at), y[near], 1), 0.0)))


def _log(names: Sequence[str]) -> NDArray[np.float64]:
    """Return the samples and the losses of the training log to which versions belong, (n, 2); empty if none is here."""
    path = data_dir() / "models" / names[-1].partition("@")[0] / "training" / "denoiser.csv"
    if not path.is_file():
        return np.empty((0, 2))
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([(float(row["samples"]), float(row["loss"])) for row in csv.DictReader(file)])


def samples_seen(names: Sequence[str]) -> dict[str, int]:
    """Return version -> training samples that it has seen; empty unless the versions are those of an embedded model."""
    log = _log(names)
    if not len(log):
        return {}
    return {name: VERSIONS[int(name.partition("@")[2])] if "@" in name else int(log[-1, 0]) for name in names}


def logged_loss(names: Sequence[str]) -> dict[str, float]:
    """Return version -> training loss, smoothed (`loss_at`); empty unless they are those of an embedded model."""
    return {name: loss_at(*_log(names).T, seen) for name, seen in samples_seen(names).items()}


def predictors(tasks: Mapping[str, Task], losses: Mapping[str, float]) -> dict[str, dict[str, list[float]]]:
    """Return predictor -> task -> its value for each version; without training loss where `losses` is empty."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in PREDICTORS}
    for name, task in ((name, task) for name, task in tasks.items() if task.errors):
        means = {version: errors.mean(axis=(0, 2), dtype=np.float64) for version, errors in task.errors.items()}
        found[PREDICTORS[0]][name] = [losses[version] for version in means] if losses else []
        found[PREDICTORS[1]][name] = [float(true) for true, _ in means.values()]
        found[PREDICTORS[2]][name] = [float(false - true) for true, false in means.values()]
    return {name: own for name, own in found.items() if any(own.values())}


def _rank_correlation(x: NDArray, y: NDArray) -> float:
    """Return Spearman's rank correlation of two arrays of any shape; 0 where one of them is constant."""
    x, y = rankdata(np.ravel(x)), rankdata(np.ravel(y))
    x, y = x - x.mean(), y - y.mean()
    length = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / length) if length else 0.0


def predictor_rows(
    tasks: Mapping[str, Task], measured: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, dict[str, Any]]:
    """Return predictor -> rank correlations with accuracy, over all steps of all tasks and over all versions of a task.

    A fall of the loss or of the error counts as an improvement, in logarithms. The interval is over tasks. Within a
    task the mean over the tasks is given: four versions that improve in the same order have a correlation of 1.
    """
    own = [tasks[name] for name in measured[PREDICTORS[1]]]
    accuracy = np.array([[task.values(version).mean() for version in task.errors] for task in own])
    gains, rows = np.diff(accuracy, axis=1), {}
    for predictor, values in measured.items():
        table = np.array(list(values.values()))
        score = table if predictor == PREDICTORS[2] else -np.log(table)
        within = np.mean([_rank_correlation(x, y) for x, y in zip(score, accuracy, strict=True)])
        across = bootstrap(_rank_correlation, np.diff(score, axis=1), gains, n_resamples=1000)
        everywhere = bootstrap(_rank_correlation, score, accuracy, n_resamples=1000)
        rows[predictor] = {"order within a task": float(within), "all tasks and versions": everywhere}
        rows[predictor]["size of a step"] = across
    return rows


def reading(gains: Mapping[str, Mapping[str, Estimate]], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the steps and the predictors of this run say, in sentences."""
    said = []
    for step, whole in gains["average"].items():
        own = {task: found[step] for task, found in gains.items() if task != "average"}
        more = [task for task, gain in own.items() if gain.low > 0]
        less = [task for task, gain in own.items() if gain.high < 0]
        line = f"{step}: {whole:.1f} points on the average task. "
        line += f"Reliably more accurate: {', '.join(more) or 'no task'}; "
        said.append(line + f"reliably less: {', '.join(less) or 'no task'}; the others are undecided.")
    strength = "; ".join(f"{predictor} {row['size of a step']:.2f}" for predictor, row in rows.items())
    return [*said, f"Rank correlation of the size of a step with the change of a predictor: {strength}."]


def pair_rows(task: Task, n_rows: int = 5) -> dict[str, dict[str, float]]:
    """Return pair of classes -> version -> share of the pair's images taken for the other class, in points.

    The pairs are those that the last version confuses most.
    """
    names, k = task.classnames, len(task.classnames)
    tables = {version: confusion(task.field, [version], k) for version in task.field.chosen}
    counts = np.bincount(task.field.labels, minlength=k)
    rows = {}
    for a, b in combinations(range(k), 2):
        n = counts[[a, b]]
        if n.any():
            taken = {v: np.nansum([n[0] * table[a, b], n[1] * table[b, a]]) / n.sum() for v, table in tables.items()}
            rows[f"{names[a]}, {names[b]}"] = {version: float(share) for version, share in taken.items()}
    return dict(sorted(rows.items(), key=lambda row: -list(row[1].values())[-1])[:n_rows])


def trial_rows(tasks: Mapping[str, Task]) -> dict[str, dict[str, float]]:
    """Return version -> mean over tasks, in points: accuracy after `FEW` trials, in the end, and equal answers."""
    own, rows = list(tasks.values()), {}
    for version in own[0].field.chosen:
        early = np.mean([100 * task.early.right(version).mean() for task in own])
        late = np.mean([task.values(version).mean() for task in own])
        same = np.mean([100 * (task.early.chosen[version] == task.field.chosen[version]).mean() for task in own])
        rows[version] = {f"after {FEW} trials": float(early), "in the end": float(late), "gain": float(late - early)}
        rows[version]["same answer"] = float(same)
    return rows


def gap_by_timestep(task: Task, edges: Sequence[int] = (0, 250, 500, 750, 1000)) -> dict[str, dict[str, Estimate]]:
    """Return version -> "0 to 249" -> gap on tune images, times 1000, in ranges of timesteps that have a trial."""
    rows: dict[str, dict[str, Estimate]] = {}
    for version, errors in task.errors.items():
        gaps = 1000.0 * (errors[:, 1] - errors[:, 0]).astype(np.float64)
        rows[version] = {}
        for low, high in pairwise(edges):
            own = (task.timesteps >= low) & (task.timesteps < high)
            if own.any():
                rows[version][f"{low} to {high - 1}"] = mean(gaps[:, own].mean(axis=1), signed=True)
    return rows
