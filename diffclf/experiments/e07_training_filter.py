"""The training filter: how much of a data set passes it, and what a model trained without it is better at.

    share     images of a test set that pass a part of the filter                                          (Table 2)
    gain      mean of r_unfiltered - r_filtered over seeds and images; r says which images a model answers correctly

The models of the second part are three arms of one experiment, three trainings each: trained on the images of a crawl
that pass the filter, on all of them, and on as many random ones (`diffclf.mini.crawl`). Their errors on crawled test
images are stored in data/scores/crawl.npz, which `diffclf score crawl` writes. Intervals are over trainings and images
(`diffclf.stats.crossed`).

Source: Li et al. 2023, arXiv 2303.16203, Section 6.1 and appendix F.1, which expect a gain and measure none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.crawl import FILTERS, crawled, passes
from diffclf.datasets.filters import MIN_QUALITY, MIN_RESOLUTION, load_checker, load_critic, measure_attributes
from diffclf.experiments.field import Field
from diffclf.mini.crawl import ARMS
from diffclf.mini.scores import N_CRAWLED
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.stats import Estimate, contrast_values, crossed, proportion
from diffclf.trials import TrialList, uniform

__all__ = ["GAINS", "FilteredSet", "Scores", "accuracies", "answers_on", "class_gains", "class_reading", "class_rows"]
__all__ += ["contrasts", "density", "disagreement", "evaluations", "examples", "field", "filter_sets", "gains"]
__all__ += ["load_scores", "paper_shares", "products", "reading", "recompute", "share_rows", "values"]

GAINS = {f"{arm} minus filtered": (arm, "filtered") for arm in ("unfiltered", "random")}
"""Name -> the arms whose accuracies are subtracted."""
UNFILTERED, RANDOM = GAINS


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: the scores of some images computed anew, for some of the models."""
    per_image = settings["n_classes"] * settings["n_trials"] * len(settings["checkpoints"])
    return min(settings["n_images"], N_CRAWLED) * per_image


@dataclass(frozen=True, eq=False)
class FilteredSet:
    """A test set and what of it passes the filter.

    Attributes:
        data: the images.
        passed: column of Table 2 -> (n,) which images pass.
    """

    data: ImageSet
    passed: Mapping[str, NDArray[np.bool_]]

    def shares(self, label: int | None = None) -> dict[str, Estimate]:
        """Return the share of images, or of those of one class, that pass each column in per cent; Wilson intervals."""
        some = slice(None) if label is None else self.data.labels == label
        return {name: 100 * proportion(int(own[some].sum()), len(own[some])) for name, own in self.passed.items()}


def filter_sets(settings: Mapping[str, Any]) -> dict[str, FilteredSet]:
    """Return data set -> what of its test images passes the filter.

    Where the settings name no networks (`filters`) every set is crawled anew, its number in the list being the seed.
    Else the attributes are measured. The settings are those of the notebook.
    """
    filters, judges, least, found = settings["filters"], (), {}, {}
    if filters:
        judges = load_critic(filters["aesthetic"]), load_checker(filters["safety"])
        least = {"resolution": MIN_RESOLUTION, "quality": MIN_QUALITY}
    for seed, name in enumerate(settings["tasks"]):
        data = load_dataset(name).first(settings["n_table"])
        attributes = measure_attributes(data.images, *judges, desc=name) if judges else crawled(data, seed)[1]
        found[name] = FilteredSet(data, {column: passes(attributes, own, **least) for column, own in FILTERS.items()})
    return found


def paper_shares(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return data set -> column -> share in per cent of Table 2, under the names of this module's columns."""
    return {name: dict(zip(FILTERS, row, strict=True)) for name, row in table["rows"].items()}


def share_rows(
    sets: Mapping[str, FilteredSet], paper: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, Estimate | float]]:
    """Return a row per data set, the paper's after those of this run: the share of each column in per cent."""
    rows = {name: own.shares() for name, own in sets.items()}
    return rows | {f"paper: {name}": dict(row) for name, row in paper.items()}


def products(shares: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return for each data set R times Q+F, which is R+Q+F if the parts are independent, and R+Q+F; in per cent."""
    return {
        name: {"R": row["R"], "Q+F": row["Q+F"], "R times Q+F": row["R"] * row["Q+F"] / 100, "R+Q+F": row["R+Q+F"]}
        for name, row in shares.items()
    }


def values(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, float]]:
    """Return the same rows without the intervals."""
    return {name: {column: own.value for column, own in row.items()} for name, row in rows.items()}


def class_reading(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the filter does to the first and to the last class of `class_rows`, a sentence each."""
    ends = {name: classes[name] for name in (next(iter(classes)), list(classes)[-1])}
    return [
        f"{name}: {row['Q']:.0f}% have enough quality, {row['R+Q+F']:.0f}% pass the whole filter; "
        f"{row['before']:.1f}% of the images before it, {row['after']:.1f}% after it"
        for name, row in ends.items()
    ]


def class_rows(own: FilteredSet) -> dict[str, dict[str, Estimate | float]]:
    """Return class -> its share of the images before and after the whole filter, and what of it passes each column.

    All numbers are in per cent. The class that the filter makes rarest comes first; one without images is left out.
    """
    labels, kept, rows = own.data.labels, own.data.labels[own.passed["R+Q+F"]], {}
    for label in np.unique(labels):
        shares = {"before": 100 * np.mean(labels == label), "after": 100 * (kept == label).sum() / max(1, len(kept))}
        rows[own.data.classnames[label]] = {name: float(share) for name, share in shares.items()} | own.shares(label)
    return dict(sorted(rows.items(), key=lambda row: row[1]["R+Q+F"].value))


def density(x: float, *, sharp: float, seen: Sequence[float], spread: float = 0.5) -> float:
    """Return the density at x of a class as training shows it: equal parts, one for each size that training has.

    A sharp image of the class has detail ~ N(sharp, spread^2); reduced to a part of its size, this part of it.
    """
    return float(np.mean([norm(size * sharp, size * spread).pdf(x) for size in seen]))


@dataclass(frozen=True, eq=False)
class Scores:
    """What all models answer on the crawled test images.

    Attributes:
        errors: (n_arms, n_seeds, n_images, n_classes) mean error of each class; the arms are those of `ARMS`.
        labels: (n_images,) true classes.
        attributes: (n_images,) of type `diffclf.datasets.crawl.ATTRIBUTES`.
    """

    errors: NDArray[np.float32]
    labels: NDArray[np.int64]
    attributes: NDArray

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The class that each model chooses, (n_arms, n_seeds, n_images)."""
        return self.errors.argmin(axis=3)

    def right(self, arm: str) -> NDArray[np.bool_]:
        """Return which images the models of an arm answer correctly, (n_seeds, n_images)."""
        return self.chosen[ARMS.index(arm)] == self.labels

    @property
    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Groups of images by what the filter does to them and why, (n_images,) each.

        The last three are those removed, without the few that only have a flag, which no pixel shows.
        """
        size, kept = self.attributes["resolution"], passes(self.attributes)
        ugly = (size == 32) & ~passes(self.attributes, ["quality"])
        found = {"all": np.ones(len(kept), bool), "kept": kept, "removed": ~kept}
        return found | {"16 pixels": size == 16, "8 pixels": size == 8, "low quality": ugly}

    def of(self, name: str) -> NDArray[np.float32]:
        """Return the errors (n_images, n_classes) of an embedded model, such as "mini-sd@crawl-filtered": of seed 1."""
        return self.errors[ARMS.index(name.rpartition("-")[2]), 0]


def load_scores() -> Scores:
    """Return the stored scores.

    Raises:
        FileNotFoundError: there are none.
    """
    path = data_dir() / "scores" / "crawl.npz"
    if not path.is_file():
        raise FileNotFoundError(f"stored scores not found: {path}; `diffclf score crawl` writes them")
    with np.load(path) as file:
        return Scores(file["errors"], file["labels"], file["attributes"])


def recompute(
    bank: Callable[..., ErrorBank], models: Sequence[DiffusionModel], data: ImageSet, n_trials: int
) -> dict[str, NDArray[np.float64]]:
    """Return model -> mean error of each class on images, (n_images, n_classes), computed anew.

    Args:
        bank: as `Workbook.bank`.
        models: whose names say the arm.
        data: crawled images.
        n_trials: of the stored scores.
    """
    found = {}
    for model in models:
        trials = TrialList(uniform(n_trials, len(model.schedule)))
        own = bank(model, data.prompts_for(model), trials, losses=("l2",))
        found[model.name] = own.errors(data.images, desc=model.name).mean(axis=2, dtype=np.float64)
    return found


def disagreement(scores: Scores, fresh: Mapping[str, NDArray]) -> float:
    """Return the largest relative difference between scores computed anew (model -> errors) and the stored ones."""
    pairs = [(scores.of(name)[: len(own)], own) for name, own in fresh.items()]
    return max(float(np.abs(own / stored - 1).max()) for stored, own in pairs)


def accuracies(scores: Scores) -> dict[str, dict[str, Estimate]]:
    """Return group -> arm -> accuracy in points, over seeds and images."""
    right = {arm: 100.0 * scores.right(arm) for arm in ARMS}
    return {
        group: {arm: crossed(own[:, some]).within(0, 100) for arm, own in right.items()}
        for group, some in scores.groups.items()
    }


def _gain(scores: Scores, name: str) -> NDArray[np.float64]:
    """Return the difference of two arms in points on each image, (n_seeds, n_images)."""
    more, less = GAINS[name]
    return 100.0 * scores.right(more) - 100.0 * scores.right(less)


def gains(scores: Scores) -> dict[str, dict[str, Estimate]]:
    """Return group -> name of a difference -> its size in points, over seeds and images."""
    found = {name: _gain(scores, name) for name in GAINS}
    return {
        group: {name: crossed(own[:, some]).within(-100, 100) for name, own in found.items()}
        for group, some in scores.groups.items()
    }


def contrasts(scores: Scores, level: Callable[[str], float]) -> dict[str, Estimate]:
    """Return claim -> estimate in points; `level` says at which level the interval of a claim is."""
    unfiltered, random = (_gain(scores, name) for name in GAINS)
    some = scores.groups
    values = {
        "unfiltered-gains-on-removed": unfiltered[:, some["removed"]],
        "unfiltered-gains-overall": unfiltered,
        "unfiltered-keeps-the-kept": unfiltered[:, some["kept"]],
        "selection-not-size": random[:, some["removed"]],
        "gain-is-where-the-filter-cuts": contrast_values(unfiltered, some["removed"], some["kept"]),
    }
    return {claim: crossed(own, level(claim)) for claim, own in values.items()}


def field(scores: Scores, data: ImageSet) -> Field:
    """Return the answers of all models; data are the crawled images, as many as have scores."""
    chosen = {
        f"{arm}-{seed}": own for arm, arms in zip(ARMS, scores.chosen, strict=True) for seed, own in enumerate(arms, 1)
    }
    return Field(data.labels, data.groups, chosen)


def examples(scores: Scores, data: ImageSet, classes: Sequence[str]) -> dict[str, list[NDArray]]:
    """Return group -> the first image of each class in it, black where there is none."""
    rows, numbers = {}, [data.classnames.index(name) for name in classes]
    for group in ("kept", "16 pixels", "8 pixels", "low quality"):
        some = scores.groups[group][: len(data)]
        found = [np.flatnonzero(some & (data.labels == number)) for number in numbers]
        rows[group] = [data.images[own[0]] if len(own) else np.zeros_like(data.images[0]) for own in found]
    return rows


def class_gains(scores: Scores, classnames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return class -> removed images, and the gain of training without the filter on removed and on kept images."""
    gain, rows = _gain(scores, UNFILTERED), {}
    for label, name in enumerate(classnames):
        masks = {group: scores.groups[group] & (scores.labels == label) for group in ("removed", "kept")}
        rows[name] = {"removed images": int(masks["removed"].sum())}
        rows[name] |= {
            f"gain, {group}": crossed(gain[:, some]).within(-100, 100) if some.sum() > 1 else None
            for group, some in masks.items()
        }
    return rows


def answers_on(scores: Scores, group: str, classnames: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return class -> share of a group's images that show it, and of each arm's answers that name it; per cent."""
    some, n = scores.groups[group], len(classnames)
    counts = {"shown": scores.labels[some]}
    counts |= {arm: own[:, some].ravel() for arm, own in zip(ARMS, scores.chosen, strict=True)}
    shares = {name: 100 * np.bincount(own, minlength=n) / own.size for name, own in counts.items()}
    return {name: {key: float(own[c]) for key, own in shares.items()} for c, name in enumerate(classnames)}


def reading(gains: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Return what the paired differences say, a sentence for each group of images."""
    lines = []
    for group, own in gains.items():
        said = []
        for name, gain in own.items():
            word = "more accurate" if gain.low > 0 else "less accurate" if gain.high < 0 else "not told apart"
            said.append(f"{name} {gain:.1f}, {word}")
        lines.append(f"{group}: {'; '.join(said)}")
    return lines
