"""Networks from a world in which the colour of an item is a shortcut, asked where the shortcut holds and where not.

    agree      accuracy where an item has its class's own colour, as in 95% of the training scenes
    disagree   accuracy on the same photographs, each in another colour
    drop       agree - disagree, paired photograph by photograph
    worst      the lowest accuracy among the groups item x agree / disagree

A kind (generative or discriminative) is a set of networks, among them several trainings of one architecture. Its
accuracy on an image is the share of its networks that are right.

Source: Li et al., "Generative classifiers avoid shortcut solutions", ICLR 2025, arXiv 2512.25034.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.baselines.supervised import SupervisedClassifier
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.sweep import run_once
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Strategy
from diffclf.stats import Estimate, mean, paired_difference, proportion

__all__ = ["KINDS", "Shortcut", "architecture", "ask"]

KINDS = ("generative", "discriminative")


def architecture(name: str) -> str:
    """Return the name without the number of its training: "resnet-m" of shortcut-resnet-m-2."""
    return name.removeprefix("shortcut-").rpartition("-")[0]


@dataclass(frozen=True, eq=False)
class Shortcut:
    """Right answers of networks on the same photographs in two colours.

    Attributes:
        kinds: name -> "generative" or "discriminative".
        agree: name -> (n,) which images with their own colours are classified correctly.
        disagree: name -> (n,) the same of the images with other colours.
        labels: (n,) true classes.
        groups: (n,) photographs.
    """

    kinds: Mapping[str, str]
    agree: Mapping[str, NDArray[np.bool_]]
    disagree: Mapping[str, NDArray[np.bool_]]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def _mean(self, right: Mapping[str, NDArray], kind: str) -> NDArray[np.float64]:
        """Return (n,) the share of the networks of a kind that are right."""
        return np.mean([right[name] for name, own in self.kinds.items() if own == kind], axis=0)

    def difference(self, level: float = 0.95) -> Estimate:
        """Return generative minus discriminative accuracy where the colour disagrees, in points."""
        generative, discriminative = (self._mean(self.disagree, kind) for kind in KINDS)
        return 100 * paired_difference(generative, discriminative, self.groups, level=level)

    def drop_difference(self, level: float = 0.95) -> Estimate:
        """Return the discriminative networks' drop minus the generative ones', in points."""
        drops = [self._mean(self.agree, kind) - self._mean(self.disagree, kind) for kind in KINDS]
        return 100 * paired_difference(drops[1], drops[0], self.groups, level=level)

    def by_architecture(self) -> dict[str, dict[str, Any]]:
        """Return architecture -> kind, accuracies in points (agree, disagree), and those of each training (seeds)."""
        names: dict[str, list[str]] = {}
        for name in self.kinds:
            names.setdefault(architecture(name), []).append(name)
        found = {}
        for own, members in names.items():
            means = [np.mean([right[n] for n in members], axis=0) for right in (self.agree, self.disagree)]
            seeds = [[100 * float(right[n].mean()) for right in (self.agree, self.disagree)] for n in members]
            found[own] = {"kind": self.kinds[members[0]], "accuracy": [self._points(m) for m in means], "seeds": seeds}
        return found

    def _points(self, values: NDArray) -> Estimate:
        """Return the mean of values in [0, 1] in points."""
        found = mean(values, groups=self.groups)
        return 100 * found.within(0, 1)

    def rows(self, classnames: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Return a row per network: agree, disagree, drop and the worst group, in points."""
        rows = {}
        for name, kind in self.kinds.items():
            agree, disagree = self.agree[name], self.disagree[name]
            row: dict[str, Any] = {"kind": kind, "agree": self._points(agree), "disagree": self._points(disagree)}
            row["drop"] = 100 * paired_difference(agree, disagree, self.groups)
            rows[name] = row | self._worst(name, classnames)
        return rows

    def _worst(self, name: str, classnames: tuple[str, ...]) -> dict[str, Any]:
        """Return the group with the lowest accuracy, its accuracy in points, and the number of its images."""
        groups = {}
        for where, right in (("agree", self.agree[name]), ("disagree", self.disagree[name])):
            for label in np.unique(self.labels):
                groups[f"{classnames[label]}, {where}"] = right[self.labels == label]
        worst = min(groups, key=lambda group: groups[group].mean())
        right = groups[worst]
        return {
            "worst group": worst,
            "accuracy": 100 * proportion(int(right.sum()), len(right)),
            "n": len(right),
        }


def ask(
    generative: Mapping[str, DiffusionModel],
    discriminative: Mapping[str, SupervisedClassifier],
    agree: ImageSet,
    disagree: ImageSet,
    bank: Callable[..., ErrorBank],
    strategy: Strategy,
) -> Shortcut:
    """Return the answers of networks on the same photographs in two colours.

    Args:
        generative: name -> class-conditional model.
        discriminative: name -> network.
        agree: items in their own colours.
        disagree: the same photographs in the same order, in other colours.
        bank: (model, prompts, trials, losses) -> errors, as `Workbook.bank`.
        strategy: how the models classify.

    Raises:
        ValueError: the sets are not of the same photographs.
    """
    if not np.array_equal(agree.groups, disagree.groups):
        raise ValueError(f"photographs of {disagree.name} must be those of {agree.name} in their order, got others")

    def right(model: DiffusionModel, data: ImageSet, name: str) -> NDArray[np.bool_]:
        trials = strategy.trial_list(len(model.schedule))
        source = bank(model, data.prompts_for(model), trials, losses=("l2",))
        return run_once(source, data, strategy, f"{name}, {data.name}").right

    found = []
    for data in (agree, disagree):
        answers = {name: right(model, data, name) for name, model in generative.items()}
        found.append(answers | {name: network.predict(data) == data.labels for name, network in discriminative.items()})
    kinds = dict.fromkeys(generative, KINDS[0]) | dict.fromkeys(discriminative, KINDS[1])
    return Shortcut(kinds, *found, agree.labels, agree.groups)
