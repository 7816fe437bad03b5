"""Who answers on which images: a class-conditional model and networks, on test images, shifted sets and corrupted ones.

A shifted set has a letter: V2, A or O. In distribution are the test images of the set's classes, among these classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.baselines.supervised import SupervisedClassifier
from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.shifts import adversarial, corrupt
from diffclf.experiments.field import Field, network_field, short, whole_field
from diffclf.experiments.sweep import run_once
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Strategy

__all__ = [
    "Judges",
    "answer_all",
    "corrupted",
    "left_by",
    "restricted",
    "shifted_sets",
]


@dataclass(frozen=True)
class Judges:
    """A class-conditional model and networks, all of which answer on the same images.

    Attributes:
        dit: the class-conditional model.
        bank: (model, prompts, trials, losses, seed) -> its errors, as `Workbook.bank`.
        networks: name -> network.
        strategy: how the model classifies.
        seeds: of the model's noise.
    """

    dit: DiffusionModel
    bank: Callable[..., ErrorBank]
    networks: Mapping[str, SupervisedClassifier]
    strategy: Strategy
    seeds: Sequence[int] = (0,)

    @property
    def name(self) -> str:
        """Name of the class-conditional model."""
        return short(self.dit.name)

    def networks_on(self, data: ImageSet) -> Field:
        """Return the answers of the networks."""
        return network_field(self.networks, data)

    def on(self, data: ImageSet, n_images: int = 0) -> Field:
        """Return everybody's answers on the first images (0: on all), once for each seed."""
        data = data.first(n_images or len(data))
        prompts, trials = data.prompts_for(self.dit), self.strategy.trial_list(len(self.dit.schedule))
        banks = [self.bank(self.dit, prompts, trials, losses=("l2",), seed=seed) for seed in self.seeds]
        runs = [run_once(bank, data, self.strategy, data.name) for bank in banks]
        return whole_field(self.name, runs, self.networks_on(data))


def restricted(data: ImageSet, other: ImageSet) -> ImageSet:
    """Return the images whose class is one of another set's, with the other set's classes only.

    The classes of a set are its `indices`, or its class names if it has none.
    """
    own, wanted = (each.indices or {name: i for i, name in enumerate(each.classnames)} for each in (data, other))
    if own == wanted:
        return data
    places = np.full(len(data.classnames), -1)
    for entry in own.keys() & wanted.keys():
        places[own[entry]] = wanted[entry]
    place = places[data.labels]
    kept = np.flatnonzero(place >= 0)
    classes = {"classnames": other.classnames, "prompts": other.prompts, "indices": other.indices, "tree": other.tree}
    return replace(data.take(kept), labels=place[kept], **classes)


def left_by(network: SupervisedClassifier, pool: ImageSet, threshold: float = 0.15) -> ImageSet:
    """Return the images of a pool that a filter leaves; see `diffclf.datasets.shifts.adversarial`."""
    return adversarial(pool, network.probabilities(pool), threshold)


def shifted_sets(
    names: Mapping[str, str],
    filters: Mapping[str, str],
    left: Mapping[str, ImageSet],
    load: Callable[..., ImageSet],
) -> dict[str, ImageSet]:
    """Return the shifted sets by letter.

    Args:
        names: letter -> data set, or the filter that leaves the set.
        filters: family -> filter.
        left: family -> what the filter leaves.
        load: (name=...) -> data set, as `Workbook.dataset`.
    """
    made = {name: left[family] for family, name in filters.items()}
    return {letter: made[name] if name in made else load(name=name) for letter, name in names.items()}


def answer_all(
    judges: Judges, test: ImageSet, shifted: Mapping[str, ImageSet], n_images: int
) -> tuple[Field, dict[str, Field], dict[str, Field]]:
    """Return the answers on the test images, and by letter those in distribution and on n_images of a shifted set.

    In distribution are the test images of the shifted set's classes, among these classes.
    """
    whole, references = judges.on(test), {}
    for letter, data in shifted.items():
        part = restricted(test, data)
        references[letter] = whole if part is test else judges.on(part)
    return whole, references, {letter: judges.on(data, n_images) for letter, data in shifted.items()}


def corrupted(
    judges: Judges, data: ImageSet, corruptions: Sequence[str], severities: Sequence[int]
) -> dict[tuple[str, int], Field]:
    """Return the answers on images with each corruption at each severity, and as they are: ("", 0)."""
    sets = {(name, severity): corrupt(data, name, severity) for name in corruptions for severity in severities}
    return {key: judges.on(changed) for key, changed in ({("", 0): data} | sets).items()}
