"""Table 1: a diffusion classifier and its opponents on several tasks; and what its probabilities are worth.

    accuracy of a task          = share of right answers, or the mean of that share over the classes
    mean difference of a and b  = mean over the tasks of (accuracy of a - accuracy of b), on the same images

Images of different tasks may show the same photograph; the intervals of means over tasks resample photographs.

Probabilities, from the mean errors e_c of an image with D latent elements:

    Eq. 6 as printed            softmax_c (-D e_c)          the squared error is summed over the elements
    the official code           softmax_c (-e_c)            it is averaged over the elements
    fitted                      softmax_c (-D e_c / T)      T chosen on tune images (`diffclf.temperature`)

    NLL    mean of -log p(label)
    Brier  mean of sum_c (p(c) - [c is the label])^2
    ECE    sum over bins of (share of images in the bin) x |mean confidence - accuracy|; confidence is max_c p(c), and
           each bin has the same number of images

Sources:
    Li et al. 2023, arXiv 2303.16203, Table 1 and section 5.1.
    Guo, Pleiss, Sun, Weinberger 2017, arXiv 1706.04599 (ECE). Brier 1950, "Verification of forecasts".
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.baselines.contrastive import ContrastiveClassifier, load_contrastive
from diffclf.baselines.features import FeatureClassifier, load_features
from diffclf.baselines.supervised import load_supervised
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.field import Field
from diffclf.experiments.sweep import Outcome, run_once
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Hierarchical, Racing, Strategy
from diffclf.stats import Estimate, bootstrap, clopper_pearson, holm, mcnemar, mean, paired_difference
from diffclf.temperature import fit_temperature, log_probabilities
from diffclf.trials import BLOCK

__all__ = [
    "Answers",
    "CLAIMS",
    "COVERAGES",
    "OURS",
    "Opponent",
    "PROBABILITIES",
    "accuracy",
    "accuracy_rows",
    "answer",
    "brier",
    "calibration_gain",
    "calibration_reading",
    "calibration_rows",
    "confidences",
    "coverage_curve",
    "ece",
    "ensemble_gain",
    "evaluations",
    "fitted_temperature",
    "head_rows",
    "heights",
    "load_opponents",
    "log_loss",
    "mean_difference",
    "paired_rows",
    "paper_heights",
    "probabilities",
    "reading",
    "reliability",
    "scorer",
    "strategy",
    "template_accuracies",
    "template_answers",
    "with_class",
    "with_template",
]

OURS = "Diffusion Classifier"
"""The paper's name of the row; the rows of its opponents are keys of the setting `opponents`."""
CLAIMS = {
    "above-synthetic-data": "Synthetic SD data",
    "above-features": "SD features",
    "near-the-small-clip": "CLIP ResNet-50",
    "below-the-large-clip": "OpenCLIP ViT-H/14",
}
"""Claims about the mean over the tasks, and the row that each of them compares with."""
PROBABILITIES = ("Eq. 6 as printed", "official code", "fitted temperature")
ENSEMBLE = "ensemble"
COVERAGES = np.arange(0.1, 1.01, 0.1)


class Opponent(Protocol):
    """A classifier that is compared: a CLIP, a network, or a head on features."""

    name: str

    def predict(self, data: ImageSet) -> NDArray[np.int64]:
        """Return (n_images,) positions of the chosen classes."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What all classifiers answered on one task.

    Attributes:
        outcome: of the diffusion classifier, with its scores.
        field: answers by the paper's name of the row.
        per_class: whether the accuracy is the mean over classes.
    """

    data: ImageSet
    outcome: Outcome
    field: Field
    per_class: bool


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations, about: they depend on the images.

    A race is taken to cost 8 trials of every class and all trials of one more; with a label tree, 16 trials of ten
    nodes, 8 of twelve classes and all of one. Templates are raced on the first task, and the temperature needs its
    tune images.
    """
    n_trials, total, first = settings["race_trials"], 0, None
    for task in settings["tasks"].values():
        n = task["n_classes"]
        cost = (160 + BLOCK * 12 if n > 20 else BLOCK * n) + n_trials - BLOCK
        first = first or cost
        total += settings["n_images"] * cost
    more = len(settings["templates"]) * settings["n_images"] + settings["n_tune"]
    return total + more * (first or 0)


def head_rows(opponents: Mapping[str, Opponent], table11: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return Table 11 with a row for the head of this run, if there is one; "-" where a network has no such layer."""
    rows = {name: dict(zip(table11["columns"], layers, strict=True)) for name, layers in table11["rows"].items()}
    for opponent in opponents.values():
        if isinstance(opponent, FeatureClassifier):
            rows["this run"] = opponent.head.layers()
    return [{"network": name} | {key: own.get(key) or "-" for key in table11["columns"]} for name, own in rows.items()]


def strategy(n_trials: int, data: ImageSet) -> Strategy:
    """Return a race, along the label tree where the data set has one."""
    race = Racing(n_trials)
    return Hierarchical(data.tree, then=race, race=race) if data.tree else race


def load_opponents(names: Mapping[str, str], trained: str, model: DiffusionModel) -> dict[str, Opponent]:
    """Return the opponents by the paper's names of their rows.

    Args:
        names: row -> built-in name, folder or hub id; "{}" in it stands for `trained`.
        trained: what the networks of a task were trained on, "items".
        model: diffusion model whose features are used.
    """
    loaders: dict[str, Callable[[str], Opponent]] = {
        "Synthetic SD data": load_supervised,
        "SD features": partial(load_features, model=model),
    }
    return {row: loaders.get(row, load_contrastive)(name.format(trained)) for row, name in names.items()}


def scorer(
    bank: Callable[..., ErrorBank], model: DiffusionModel, n_trials: int
) -> Callable[[ImageSet], NDArray[np.float64]]:
    """Return a function: data set -> (n_images, n_classes) scores of the diffusion classifier; see `answer`."""
    return lambda data: answer(bank, model, data, n_trials, {}).outcome.scores


def answer(
    bank: Callable[..., ErrorBank],
    model: DiffusionModel,
    data: ImageSet,
    n_trials: int,
    opponents: Mapping[str, Opponent],
    per_class: bool = False,
) -> Answers:
    """Let everybody answer on a task; `bank` is as `Workbook.bank`."""
    how = strategy(n_trials, data)
    prompts = [*data.prompts_for(model), *how.more_prompts()]
    own = bank(model, prompts, how.trial_list(len(model.schedule)), losses=("l2",))
    outcome = run_once(own, data, how, data.name)
    chosen = {OURS: outcome.chosen} | {row: opponent.predict(data) for row, opponent in opponents.items()}
    return Answers(data, outcome, Field(data.labels, data.groups, chosen), per_class)


def _weights(answers: Answers) -> NDArray[np.float64]:
    """Return (n,) weights with the sum 1 that make a sum of right answers the accuracy of the task."""
    labels = answers.field.labels
    if not answers.per_class:
        return np.full(len(labels), 1 / len(labels))
    counts = np.bincount(labels, minlength=len(answers.data.classnames))
    return 1 / (np.count_nonzero(counts) * counts[labels])


def accuracy(answers: Answers, row: str) -> Estimate:
    """Return the accuracy in points: Clopper and Pearson's interval, or a bootstrap for a mean over classes."""
    right = answers.field.right(row)
    if answers.per_class:
        found = 100 * mean(right * _weights(answers) * len(right), groups=answers.field.groups)
        return found.within(0, 100)
    return 100 * clopper_pearson(int(right.sum()), len(right))


def paper_heights(table1: Mapping[str, Any], rows: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the paper's accuracy of each row on each of its data sets, in points."""
    return {row: dict(zip(table1["columns"], table1["rows"][row], strict=True)) for row in rows}


def heights(tasks: Mapping[str, Answers], row: str) -> dict[str, float]:
    """Return the accuracy of a classifier on each task, in points."""
    return {name: accuracy(answers, row).value for name, answers in tasks.items()}


def accuracy_rows(tasks: Mapping[str, Answers], rows: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table: classifier, the accuracy on each task, and their mean."""
    found = []
    for row in rows:
        accuracies = {name: accuracy(answers, row) for name, answers in tasks.items()}
        found.append({"classifier": row, **accuracies, "mean": np.mean([each.value for each in accuracies.values()])})
    return found


def mean_difference(tasks: Mapping[str, Answers], first: str, second: str, level: float = 0.95) -> Estimate:
    """Return the accuracy of one classifier minus that of another, a mean over tasks, in points."""
    values, groups = [], []
    n = sum(len(answers.field.labels) for answers in tasks.values())
    for answers in tasks.values():
        gap = answers.field.right(first).astype(float) - answers.field.right(second)
        values.append(gap * _weights(answers) * n / len(tasks))
        groups.append(answers.field.groups)
    return 100 * mean(np.concatenate(values), groups=np.concatenate(groups), signed=True, level=level)


def paired_rows(tasks: Mapping[str, Answers], rows: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table: the diffusion classifier against the others on each task, McNemar's exact test with Holm."""
    found, p_values = [], []
    for name, answers in tasks.items():
        ours = answers.field.right(OURS)
        for row in (row for row in rows if row != OURS):
            theirs = answers.field.right(row)
            difference = answers.field.difference(OURS, row)
            only = {"only we are right": int((ours & ~theirs).sum()), "only they are": int((theirs & ~ours).sum())}
            p_values.append(mcnemar(ours, theirs))
            found.append({"task": name, "opponent": row, "difference": difference, **only, "p": p_values[-1]})
    adjusted = holm(p_values)
    return [entry | {"p, Holm": p} for entry, p in zip(found, adjusted, strict=True)]


def with_template(data: ImageSet, template: str) -> ImageSet:
    """Return a data set whose prompts are a template with the class name in the place of {}."""
    return replace(data, prompts={name: template.format(name) for name in data.classnames})


def with_class(data: ImageSet, name: str, prompt: str) -> ImageSet:
    """Return a data set with one more class, the last one, that no image has; without its label tree."""
    return replace(data, classnames=(*data.classnames, name), prompts=data.prompts | {name: prompt}, tree={})


def template_answers(
    score: Callable[[ImageSet], NDArray],
    data: ImageSet,
    templates: Sequence[str],
    opponents: Mapping[str, Opponent],
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return classifier -> template -> which images are classified correctly; the last template is the ensemble.

    The ensemble of the diffusion classifier has the mean scores over templates, a CLIP's the mean text embeddings.

    Args:
        score: data set -> (n_images, n_classes) scores of the diffusion classifier.
        data: the task.
        templates: with {} in the place of the class name.
        opponents: by their rows; only CLIPs take part.
    """
    scores = {template: score(with_template(data, template)) for template in templates}
    found = {OURS: scores | {ENSEMBLE: np.mean(list(scores.values()), axis=0)}}
    prompts = {template: [[template.format(name)] for name in data.classnames] for template in templates}
    prompts[ENSEMBLE] = [[template.format(name) for template in templates] for name in data.classnames]
    for row, clip in opponents.items():
        if isinstance(clip, ContrastiveClassifier):
            images = clip.embed_images(data.images)
            found[row] = {name: (images @ clip.class_embeddings(texts).T).numpy() for name, texts in prompts.items()}
    return {row: {name: own.argmax(axis=1) == data.labels for name, own in each.items()} for row, each in found.items()}


def template_accuracies(
    right: Mapping[str, Mapping[str, NDArray[np.bool_]]], groups: NDArray
) -> dict[str, dict[str, Estimate]]:
    """Return classifier -> template -> accuracy in points."""
    return {row: {name: 100 * mean(own, groups=groups) for name, own in each.items()} for row, each in right.items()}


def ensemble_gain(right: Mapping[str, NDArray[np.bool_]], groups: NDArray, level: float) -> Estimate:
    """Return the accuracy of the ensemble minus that of the first template, in points."""
    first = next(iter(right.values()))
    return 100 * paired_difference(right[ENSEMBLE], first, groups, level=level)


def probabilities(scores: NDArray, n_elements: int, temperature: float) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities by `PROBABILITIES`: of (n, n_classes) scores, with D elements of the latent."""
    summed = scores * n_elements
    choices = zip(PROBABILITIES, (1.0, float(n_elements), temperature), strict=True)
    return {name: np.exp(log_probabilities(summed, t)) for name, t in choices}


def log_loss(p: NDArray, labels: NDArray) -> float:
    """Return the mean of -log p(label); a probability that is 0 in double precision counts as 1e-300."""
    return float(-np.log(np.maximum(p[np.arange(len(p)), labels], 1e-300)).mean())


def brier(p: NDArray, labels: NDArray) -> float:
    """Return Brier's score, between 0 and 2."""
    return float(np.square(p - np.eye(p.shape[1])[labels]).sum(axis=1).mean())


def _bins(confidence: NDArray, n_bins: int) -> list[NDArray[np.int64]]:
    """Return the images of each bin, from the least confident: equal numbers, up to one."""
    order = np.argsort(confidence, kind="stable")
    return [part for part in np.array_split(order, n_bins) if len(part)]


def ece(p: NDArray, labels: NDArray, n_bins: int = 10) -> float:
    """Return the expected calibration error with bins of equal mass."""
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    gaps = [len(part) * abs(confidence[part].mean() - right[part].mean()) for part in _bins(confidence, n_bins)]
    return float(sum(gaps) / len(labels))


def reliability(p: NDArray, labels: NDArray, n_bins: int = 10) -> tuple[NDArray[np.float64], list[Estimate]]:
    """Return the mean confidence of each bin and the accuracy in it, both in points."""
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    parts = _bins(confidence, n_bins)
    found = [100 * clopper_pearson(int(right[part].sum()), len(part)) for part in parts]
    return 100 * np.array([confidence[part].mean() for part in parts]), found


def calibration_rows(tables: Mapping[str, NDArray], labels: NDArray, groups: NDArray) -> list[dict[str, Any]]:
    """Return a table: kind of probability, mean confidence, ECE, NLL and Brier's score, with bootstrap intervals."""
    rows = []
    for name, p in tables.items():
        measures = {"ECE": ece, "NLL": log_loss, "Brier": brier}
        found = {key: bootstrap(measure, p, labels, groups=groups) for key, measure in measures.items()}
        rows.append({"probabilities": name, "mean confidence": float(p.max(axis=1).mean()), **found})
    return rows


def calibration_gain(tables: Mapping[str, NDArray], labels: NDArray, groups: NDArray, level: float) -> Estimate:
    """Return the calibration error of Eq. 6 as printed minus that with the fitted temperature, in points."""
    printed, _, fitted = (tables[name] for name in PROBABILITIES)

    def gain(p: NDArray, q: NDArray, own: NDArray) -> float:
        return ece(p, own) - ece(q, own)

    return 100 * bootstrap(gain, printed, fitted, labels, groups=groups, level=level)


def confidences(outcome: Outcome, p: NDArray) -> dict[str, NDArray[np.float64]]:
    """Return signals of confidence, (n,) each, higher is surer: the probability, the margin, the evaluations saved."""
    best = np.sort(outcome.scores, axis=1)
    return {
        "probability": p.max(axis=1),
        "margin of the errors": best[:, -1] - best[:, -2],
        "few evaluations": -outcome.spent.astype(float),
    }


def coverage_curve(confidence: NDArray, right: NDArray, groups: NDArray) -> list[Estimate]:
    """Return the accuracy in points of the most confident images, at each of `COVERAGES`.

    Images of equal confidence at the border count with equal parts: their mean accuracy.
    """
    n, found = len(right), []
    for share in COVERAGES:
        k = max(1, round(share * n))
        border = np.sort(confidence)[::-1][k - 1]
        above, tied = confidence > border, confidence == border
        weights = above + tied * (k - above.sum()) / tied.sum()
        kept = weights > 0
        value = float((weights * right).sum() / k)
        spread = mean(right[kept], groups=groups[kept])
        shift = value - spread.value
        found.append(100 * Estimate(value, spread.low + shift, spread.high + shift).within(0, 1))
    return found


def fitted_temperature(score: Callable[[ImageSet], NDArray], tune: ImageSet, n_elements: int) -> float:
    """Return the temperature that fits the scores of tune images; `n_elements` are those of the latent.

    Where no temperature fits, such as with images that are all answered rightly, it is 1, and a warning says so.
    """
    try:
        return fit_temperature(score(tune) * n_elements, tune.labels)
    except ValueError as error:
        warnings.warn(f"the temperature stays 1: {error}", stacklevel=2)
        return 1.0


def reading(tasks: Mapping[str, Answers], rows: Sequence[str], paired: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a run shows of Table 1, as sentences; `paired` are the rows of `paired_rows`."""
    grid = np.array([list(heights(tasks, row).values()) for row in rows])
    widest = int(np.ptp(grid, axis=0).argmax())
    rest = np.delete(grid, widest, axis=1)
    said = []
    for words, part in ((f"{len(tasks)} tasks", grid), (f"the tasks without {list(tasks)[widest]}", rest)):
        if part.size:
            means = zip(rows, part.mean(axis=1), strict=True)
            said.append(f"Means over {words}: " + ", ".join(f"{row} {mean:.1f}" for row, mean in means) + " points.")
    for row in (row for row in rows if row != OURS):
        own = [entry for entry in paired if entry["opponent"] == row]
        sure = [entry for entry in own if entry["p, Holm"] < 0.05]
        better = [entry["task"] for entry in sure if entry["difference"].value > 0]
        worse = [entry["task"] for entry in sure if entry["difference"].value < 0]
        parts = ("more accurate on " + ", ".join(better)) if better else ""
        parts += " and " * bool(better and worse) + ("less accurate on " + ", ".join(worse) if worse else "")
        said.append(f"Against {row} the diffusion classifier is {parts or 'not told apart on any task'} (Holm, 5%).")
    return said


def calibration_reading(tables: Mapping[str, NDArray], labels: NDArray, temperature: float) -> list[str]:
    """Return what a run shows of the probabilities, as sentences; the accuracy has Clopper and Pearson's interval."""
    right = clopper_pearson(int((tables[PROBABILITIES[0]].argmax(axis=1) == labels).sum()), len(labels))
    said = [f"The fitted temperature is {temperature:.3g}; the accuracy is {100 * right:.1f} points."]
    for name, p in tables.items():
        sure = p.max(axis=1).mean()
        kind = "not told apart from the accuracy"
        if not right.low <= sure <= right.high:
            kind = f"too {'unsure' if sure < right.low else 'sure'} on average"
        said.append(f"{name}: mean probability of the chosen class {sure:.1%}, {kind}.")
    return said
