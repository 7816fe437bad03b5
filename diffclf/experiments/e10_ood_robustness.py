"""Accuracy under distribution shift, and what the network that filters a test set does to it.

A filter network leaves those images of a pool that it gets wrong with confidence: the recipe of ImageNet-A. Whether
its family of networks is at a disadvantage on them says a contrast of contrasts,

    interaction = (ViTs - ResNets on the images that a ResNet leaves) - (ViTs - ResNets on those that a ViT leaves)

in mean accuracy of a family. The effective robustness is in `diffclf.experiments.robustness`.

Sources:
    Li et al. 2023, arXiv 2303.16203, Figure 6 and Table 4.
    Hendrycks et al. 2021, "Natural adversarial examples", arXiv 1907.07174 (ImageNet-A).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.baselines.supervised import SupervisedClassifier
from diffclf.datasets.imageset import ImageSet
from diffclf.experiments import e09_supervised
from diffclf.experiments.field import Field, short
from diffclf.images import load_images
from diffclf.stats import Estimate, bootstrap, mean, paired_difference

__all__ = [
    "accuracy_rows",
    "all_wrong",
    "corruption_curves",
    "evaluations",
    "family_means",
    "filter_interaction",
    "filter_rows",
    "gallery",
    "largest",
    "vits_ahead",
    "weights",
]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: those of the shifted sets, the corrupted images and the shortcut.

    Those of the test images are counted by notebook 09, and the cost of a race is taken to be what it is there.
    """
    shifted = settings["n_images"] * len({*settings["sets"].values(), *settings["filters"].values()})
    corrupted = len(settings["corruptions"]) * len(settings["severities"]) * settings["n_corrupted"]
    embedded = corrupted + 2 * len(settings["generative"]) * settings["n_shortcut"]
    race = settings | {"n_images": embedded, "n_seeds": 1, "n_classes": 10, "pruning": "race"}
    return e09_supervised.evaluations(settings | {"n_images": shifted}) + e09_supervised.evaluations(race)


def accuracy_rows(fields: Mapping[str, Field], families: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return a row of accuracies in points for each classifier (name -> family), a column for each set."""
    return {
        name: {"family": family} | {letter: field.accuracy(name) for letter, field in fields.items()}
        for name, family in families.items()
    }


def family_means(field: Field, families: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """Return family -> (n,) the share of the family's members that classify each image correctly."""
    kinds = dict.fromkeys(families.values())
    return {
        kind: np.mean([field.right(name) for name, family in families.items() if family == kind], axis=0)
        for kind in kinds
    }


def weights(field: Field, other: Field) -> NDArray[np.float64]:
    """Return (n,) weights of a field's images that give its classes the shares they have in another field."""
    n = 1 + max(field.labels.max(), other.labels.max())
    own, wanted = (np.bincount(each.labels, minlength=n) / len(each.labels) for each in (field, other))
    return (wanted / np.maximum(own, 1e-12))[field.labels]


def all_wrong(field: Field, names: Sequence[str]) -> Estimate:
    """Return the share of images that all of the classifiers get wrong, in points."""
    right = np.stack([field.right(name) for name in names], axis=1)
    return _share(~right.any(axis=1), field.groups)


def _share(values: NDArray, groups: NDArray) -> Estimate:
    """Return a mean of values in [0, 1] in points."""
    found = mean(values, groups=groups)
    return 100 * found.within(0, 1)


def filter_rows(
    fields: Mapping[str, Field], families: Mapping[str, str], filters: Mapping[str, str], twins: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return a row for the images that each filter leaves (family of the filter -> answers), in points.

    Columns are the mean of each family, the twin (another training of the filter's architecture), and the share of
    images that everybody gets wrong. A network that is a filter, too, is left out.
    """
    used = [short(name) for name in filters.values()]
    members, rows = {name: kind for name, kind in families.items() if name not in used}, {}
    for family, field in fields.items():
        row: dict[str, Any] = {"images": len(np.unique(field.groups))}
        row |= {kind: _share(values, field.groups) for kind, values in family_means(field, members).items()}
        twin = short(twins.get(family, ""))
        row["same architecture"] = field.accuracy(twin) if twin in members else None
        rows[f"{family} filter"] = row | {"all wrong": all_wrong(field, list(members))}
    return rows


def vits_ahead(field: Field, families: Mapping[str, str]) -> Estimate:
    """Return the mean accuracy of the ViTs minus that of the ResNets, in points."""
    means = family_means(field, families)
    return 100 * paired_difference(means["ViT"], means["ResNet"], field.groups)


def filter_interaction(fields: Mapping[str, Field], families: Mapping[str, str], level: float = 0.95) -> Estimate:
    """Return by how much ViTs beat ResNets on a ResNet's images, minus the same on a ViT's images, in points.

    `fields` are family of the filter -> answers on its images. A photograph in both sets is resampled in both.
    """
    ahead = {}
    for family, field in fields.items():
        means = family_means(field, families)
        ahead[family] = means["ViT"] - means["ResNet"]
    values = np.concatenate([ahead["ResNet"], ahead["ViT"]])
    by_resnet = np.arange(len(values)) < len(ahead["ResNet"])
    groups = np.concatenate([fields[family].groups for family in ("ResNet", "ViT")])

    def contrast(values: NDArray, by_resnet: NDArray) -> float:
        own, other = (values[chosen].sum() / max(1, chosen.sum()) for chosen in (by_resnet, ~by_resnet))
        return own - other

    return 100 * bootstrap(contrast, values, by_resnet, groups=groups, level=level)


def corruption_curves(
    fields: Mapping[tuple[str, int], Field], families: Mapping[str, str]
) -> dict[str, dict[str, tuple[list[int], list[Estimate]]]]:
    """Return corruption -> family -> severities and the mean accuracy of the family in points.

    `fields` are (corruption, severity) -> answers; ("", 0) are those on the images as they are.
    """
    found: dict[str, dict[str, tuple[list[int], list[Estimate]]]] = {}
    for corruption in dict.fromkeys(name for name, _ in fields if name):
        shown = {severity: field for (name, severity), field in fields.items() if name in ("", corruption)}
        means = {severity: family_means(field, families) for severity, field in shown.items()}
        found[corruption] = {
            kind: (list(shown), [_share(means[s][kind], field.groups) for s, field in shown.items()])
            for kind in dict.fromkeys(families.values())
        }
    return found


def largest(networks: Mapping[str, SupervisedClassifier], family: str) -> str:
    """Return the name of the network of a family that has most parameters."""
    return max(
        (n for n, network in networks.items() if network.family == family), key=lambda n: networks[n].n_parameters
    )


def gallery(
    data: ImageSet, field: Field, names: Mapping[str, str], n: int = 6
) -> list[tuple[Any, str, dict[str, str]]]:
    """Return the first n images with the true class and the answer of each classifier (role -> name).

    The field may have answers on fewer images: then these.
    """
    named, images = data.classnames, load_images(data.first(min(n, len(field.labels))).images)
    answers = {role: [named[choice] for choice in field.chosen[name][:n]] for role, name in names.items()}
    return [
        (image, named[data.labels[i]], {role: given[i] for role, given in answers.items()})
        for i, image in enumerate(images)
    ]
