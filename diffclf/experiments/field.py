"""The answers of a class-conditional model and of networks on the same images.

accuracy     mean r_a                                             in points, r_a says which images a answers correctly
difference   mean (r_a - r_b)                                     in points, paired image by image
overlap      mean (1 - r_b) over the images with r_a = 0          share of a's errors that b makes as well
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffclf.baselines.supervised import SupervisedClassifier, load_supervised
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.accuracy import accuracies
from diffclf.experiments.sweep import Outcome
from diffclf.stats import Estimate, mean, paired_difference

__all__ = ["Field", "load_networks", "network_field", "short", "whole_field"]


def short(name: str) -> str:
    """Return a name without the owner and the revision of a hub id, but with a version along the training."""
    base, _, version = name.partition("@")
    return base.rpartition("/")[2] + (f"@{version}" if version.isdigit() else "")


def load_networks(names: Iterable[str]) -> dict[str, SupervisedClassifier]:
    """Return networks by their short names."""
    return {short(name): load_supervised(name) for name in names}


@dataclass(frozen=True, eq=False)
class Field:
    """The answers of all classifiers on the same images.

    Attributes:
        labels: (n,) true classes.
        groups: (n,) the photograph that each image was made of.
        chosen: name -> (n,) classes that a classifier chose.
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    chosen: Mapping[str, NDArray[np.int64]]

    def right(self, name: str) -> NDArray[np.bool_]:
        """Return which images a classifier classifies correctly, (n,)."""
        return self.chosen[name] == self.labels

    def columns(self, task: str) -> dict[str, NDArray]:
        """Return the answers as columns of a table with a row per classifier and image; `task` names the data set."""
        n, names = len(self.labels), list(self.chosen)
        shared = {"image": np.arange(n), "group": self.groups, "label": self.labels}
        columns = {"task": np.full(n * len(names), task), "method": np.repeat(names, n)}
        columns |= {name: np.tile(values, len(names)) for name, values in shared.items()}
        return columns | {"predicted": np.concatenate([self.chosen[name] for name in names])}

    def accuracy(self, name: str) -> Estimate:
        """Return the accuracy of a classifier in points."""
        return 100 * accuracies(self.right(name)[:, None], self.groups)[0]

    def difference(self, first: str, second: str, level: float = 0.95) -> Estimate:
        """Return the accuracy of a classifier minus that of another one, in points."""
        return 100 * paired_difference(self.right(first), self.right(second), self.groups, level=level)

    def overlap(self, first: str, second: str) -> Estimate | None:
        """Return the share of the first classifier's errors that the second makes as well, in points; None: no error.

        The interval is one over the images of these errors.
        """
        wrong = ~self.right(first)
        if not wrong.any():
            return None
        return 100 * mean(~self.right(second)[wrong], groups=self.groups[wrong])


def network_field(networks: Mapping[str, SupervisedClassifier], data: ImageSet) -> Field:
    """Return the answers of networks (name -> network) on a data set."""
    return Field(data.labels, data.groups, {name: network.predict(data) for name, network in networks.items()})


def whole_field(dit: str, runs: Sequence[Outcome], networks: Field) -> Field:
    """Return the answers of the DiT, once for each noise seed (runs), and of the networks, repeated for each seed.

    The images of the runs are the first ones of the networks' field.
    """
    n = len(runs[0].right)
    chosen = {short(dit): np.concatenate([run.chosen for run in runs])}
    chosen |= {name: np.tile(found[:n], len(runs)) for name, found in networks.chosen.items()}
    return Field(np.tile(networks.labels[:n], len(runs)), np.tile(networks.groups[:n], len(runs)), chosen)
