"""A class-conditional diffusion model among networks that were trained to classify: accuracy, cost, shared errors.

All classifiers answer on the same images (`diffclf.experiments.field`). With r_a and r_b saying which images a and b
classify correctly,

    kappa = (p - q) / (1 - q),   p = P(r_a = r_b),   q the p of independent a and b with the same accuracies

Kappa is 0 if the errors of a and b are independent, and 1 if a and b err on the same images.

The cost of an image is the number of multiply-adds in convolutions and linear layers; those inside the attention are
left out (a few per cent).

Sources:
    Li et al. 2023, arXiv 2303.16203, Table 4.
    Cohen 1960, "A coefficient of agreement for nominal scales". Kappa of errors: Geirhos et al. 2020, arXiv 2006.16736.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from diffclf.baselines.supervised import SupervisedClassifier
from diffclf.experiments.field import Field, short
from diffclf.models.latent import LatentDiffusionModel
from diffclf.pruning import Exhaustive, Racing, Strategy
from diffclf.stats import Estimate, bootstrap, mean, proportion
from diffclf.trials import BLOCK

__all__ = [
    "Member",
    "accuracy_rows",
    "confusion",
    "confusion_rows",
    "cost_rows",
    "dit_member",
    "evaluations",
    "kappa_by_kind",
    "kappas",
    "majority",
    "multiply_adds",
    "network_member",
    "overlap_rows",
    "paper_accuracies",
    "roles",
    "strategy",
]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of the DiT.

    The cost of a race depends on the images; it is taken to be 8 trials of every class and all trials of two.
    """
    if settings["pruning"] == "race":
        first = min(BLOCK, settings["race_trials"])
        each = settings["n_classes"] * first + 2 * (settings["race_trials"] - first)
    else:
        each = settings["n_classes"] * settings["n_trials"]
    return settings["n_images"] * settings["n_seeds"] * each


def strategy(settings: Mapping[str, Any]) -> Strategy:
    """Return the strategy that the settings name; raise ValueError unless `pruning` is "race" or "exhaustive"."""
    if settings["pruning"] == "race":
        return Racing(trials=settings["race_trials"])
    if settings["pruning"] == "exhaustive":
        return Exhaustive(settings["n_trials"])
    raise ValueError(f"pruning must be race or exhaustive, got {settings['pruning']!r}")


@dataclass(frozen=True)
class Member:
    """What a classifier is and what it costs.

    Attributes:
        name: without the owner and the revision of a hub id.
        family: "ResNet", "ViT" or "DiT".
        n_parameters: weights that take part in a classification.
        passes: evaluations of the network per image, a mean over images.
        multiply_adds: per image, a mean over images.
    """

    name: str
    family: str
    n_parameters: int
    passes: float
    multiply_adds: float

    @property
    def tag(self) -> str:
        """Name without "mini" and the family: "s-8" of mini-vit-s-8."""
        return self.name.removeprefix("mini-").removeprefix(f"{self.family.lower()}-")


def multiply_adds(call: Callable[[], object]) -> int:
    """Return the multiply-adds of a call in convolutions and linear layers."""
    aten = torch.ops.aten
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        call()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(op, 0) for op in (aten.convolution, aten.addmm, aten.mm)) // 2


def network_member(network: SupervisedClassifier) -> Member:
    """Return the size and the cost of a discriminative network: one pass for an image."""
    cost = multiply_adds(lambda: network(torch.zeros(3, 32, 32)))  # the network's preprocessing resizes the image
    return Member(short(network.name), network.family, network.n_parameters, 1, cost)


def dit_member(model: LatentDiffusionModel, spent: NDArray) -> Member:
    """Return the size and the cost of a class-conditional model: one encoding and the evaluations spent on an image.

    `spent` are (n_images,) evaluations. Its decoder takes no part in a classification.
    """
    size, latent = model.image_size, torch.zeros(1, *model.latent_shape)
    cond, t = model.encode_prompts([0]), torch.zeros(1, dtype=torch.int64)
    encoding = multiply_adds(lambda: model.encode_images(torch.zeros(1, 3, size, size)))
    evaluation = multiply_adds(lambda: model.denoise(latent, t, cond))
    n = sum(weights.numel() for weights in model.network.parameters())
    n += sum(w.numel() for name, w in model.vae.named_parameters() if name.startswith(("encoder", "quant_conv")))
    passes = float(np.mean(spent))
    return Member(short(model.name), "DiT", n, passes, encoding + passes * evaluation)


def roles(members: Sequence[Member]) -> dict[str, str]:
    """Return the names of the networks in the claims, chosen by their numbers of parameters: role -> name."""

    def by_size(family: str) -> list[str]:
        return [m.name for m in sorted(members, key=lambda m: m.n_parameters) if m.family == family]

    resnets, vits = by_size("ResNet"), by_size("ViT")
    return {"smallest ResNet": resnets[0], "largest ResNet": resnets[-1], "largest ViT": vits[-1]}


def paper_accuracies(table: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the ImageNet column of Table 4 in points, with Wilson's intervals for its number of images."""
    n = table["n"]["ImageNet"]
    return {name: 100 * proportion(round(row[0] * n / 100), n) for name, row in table["rows"].items()}


def accuracy_rows(field: Field, every: Field, dit: str) -> list[dict[str, Any]]:
    """Return a row per classifier: accuracy on the field's images, on all images, and the DiT minus this, in points.

    `every` has the networks on all images; if these are the field's images, there is one column of accuracies.
    """
    rows, n, n_all = [], len(np.unique(field.groups)), len(np.unique(every.groups))
    for name in field.chosen:
        row = {"network": name, f"accuracy, {n} images": field.accuracy(name)}
        if n_all != n:
            row[f"accuracy, {n_all} images"] = every.accuracy(name) if name in every.chosen else None
        rows.append(row | {"DiT minus this": field.difference(dit, name) if name != dit else None})
    return rows


def cost_rows(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Return a row per classifier with its parameters, and its passes and million multiply-adds for an image."""
    cost = [{"passes": m.passes, "million multiply-adds": m.multiply_adds / 1e6} for m in members]
    return [{"network": m.name, "parameters": m.n_parameters} | row for m, row in zip(members, cost, strict=True)]


def kappas(right: NDArray) -> NDArray[np.float64]:
    """Return Cohen's kappa of the correctness of each pair of classifiers, (k, k), from (n, k) correct answers.

    It is 0 where both classifiers are right everywhere, or wrong everywhere.
    """
    right = np.asarray(right, dtype=np.float64)
    p = right.mean(axis=0)
    both = right.T @ right / len(right)
    same = 1 - p[:, None] - p[None, :] + 2 * both
    chance = np.outer(p, p) + np.outer(1 - p, 1 - p)
    return np.divide(same - chance, 1 - chance, out=np.zeros_like(same), where=chance < 1)


def kappa_by_kind(field: Field, members: Sequence[Member]) -> dict[str, tuple[list[float], Estimate]]:
    """Return the kappas of all pairs by the families of the pair, and their mean with its interval over photographs.

    Keys are such as "ResNet and ViT".
    """
    right = np.stack([field.right(m.name) for m in members], axis=1)
    kinds: dict[str, list[tuple[int, int]]] = {}
    for (i, a), (j, b) in combinations(enumerate(members), 2):
        kinds.setdefault(" and ".join(sorted((a.family, b.family))), []).append((i, j))
    table, found = kappas(right), {}
    for kind, pairs in kinds.items():
        place = tuple(np.array(pairs).T)
        estimate = bootstrap(lambda sample, place=place: kappas(sample)[place].mean(), right, groups=field.groups)
        found[kind] = table[place].tolist(), estimate
    return found


def overlap_rows(field: Field, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return a row per pair of classifiers: how many of the first's errors the second makes as well, in points.

    "Same wrong class" is the share of these common errors in which both choose the same class.
    """
    rows = []
    for first, second in pairs:
        wrong = ~field.right(first)
        both = wrong & ~field.right(second)
        same = (field.chosen[first] == field.chosen[second])[both]
        row = {
            "errors of": first,
            "number": int(wrong.sum()),
            "made by": second,
            "as well": field.overlap(first, second),
        }
        row["if independent"] = 100 - field.accuracy(second).value
        row["same wrong class"] = 100 * proportion(int(same.sum()), len(same)) if len(same) else None
        rows.append(row)
    return rows


def confusion(field: Field, names: Sequence[str], n_classes: int) -> NDArray[np.float64]:
    """Return (n_classes, n_classes) how often images of each class are taken for each class, in per cent of the class.

    A mean over the classifiers of these names; NaN in the row of a class without images.
    """
    counts = np.zeros((n_classes, n_classes))
    for name in names:
        np.add.at(counts, (field.labels, field.chosen[name]), 1 / len(names))
    n = counts.sum(axis=1, keepdims=True)
    return np.divide(100 * counts, n, out=np.full_like(counts, np.nan), where=n > 0)


def confusion_rows(
    field: Field, dit: str, networks: Sequence[str], classnames: Sequence[str], n_rows: int = 6
) -> list[dict[str, Any]]:
    """Return the pairs of classes that are most often taken for each other, by the DiT and the mean network together.

    A row has the share of the two classes' images that the DiT takes for the other class, the share of the mean network
    and their difference, in points. Pairs are chosen by the sum of both shares, which does not favour a difference.
    """
    found = []
    for a, b in combinations(range(len(classnames)), 2):
        own = np.isin(field.labels, (a, b))
        if not own.any():
            continue
        other = np.where(field.labels == a, b, a)[own]
        ours = field.chosen[dit][own] == other
        theirs = sum((field.chosen[name][own] == other).astype(int) for name in networks)  # how many networks
        row = {"classes": f"{classnames[a]}, {classnames[b]}", "images": int(own.sum())}
        row |= {"DiT": 100 * ours.mean(), "networks": 100 * theirs.mean() / len(networks)}
        found.append((ours.sum() + theirs.sum() / len(networks), row, len(networks) * ours - theirs, field.groups[own]))
    found = sorted(found, key=lambda entry: -entry[0])[:n_rows]
    scale = 100 / len(networks)
    return [row | {"difference": scale * mean(gaps, groups=own, signed=True)} for _, row, gaps, own in found]


def majority(field: Field, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class that most of the classifiers choose, (n,); in a tie that of the first of the tied ones."""
    votes = np.stack([field.chosen[name] for name in names])
    support = (votes[:, None] == votes[None, :]).sum(axis=1)
    return votes[support.argmax(axis=0), np.arange(votes.shape[1])]
