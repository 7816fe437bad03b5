"""The two tasks on which strategies are compared: one list of trials and one bank of errors for each.

    mini-items            10 classes, "a photo of a sneaker"
    mini-coloured-items   60 classes, "a photo of a red sneaker", below the ten items as the nodes of a label tree

The list holds 500 trials of a race, so that the default race and the paper's schedules of 500 share their first ones:
what two strategies both ask for is computed once, and their difference is not blurred by different noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from diffclf.bank import ErrorBank
from diffclf.datasets.embedded import load_embedded
from diffclf.datasets.imageset import ImageSet
from diffclf.hierarchy import Hierarchical
from diffclf.images import load_images, to_pixels
from diffclf.mini.world import COLOURS, ITEMS, caption_single
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.pruning import Pruning, Staged, takes_trials_of
from diffclf.racing import Racing

__all__ = ["TASKS", "Task", "complete_tables", "nearest_mean_scorer", "open_task", "races"]

N_TRIALS = 500


@dataclass(frozen=True)
class Task:
    """What is compared on one data set.

    Attributes:
        dataset: an embedded set.
        schedule: the paper's for about as many classes (Table 6: CIFAR-10's, and Food-101's).
        reference: what a fixed schedule must not be worse than, on tune images; it prunes little or nothing.
        n_tune: tune images that it takes.
        n_test: test images that all strategies are scored on.
        k: classes that a shortlist keeps.
        tree: inner nodes of a label tree -> classes; empty: none.
        keeps: numbers of classes that a stage of the fixed schedules tried may keep.
    """

    dataset: str
    schedule: Staged
    reference: Staged
    n_tune: int
    n_test: int
    k: int
    keeps: tuple[int, ...]
    tree: dict[str, list[str]] = field(default_factory=dict, hash=False)


TASKS = {
    "mini-items": Task(
        "mini-items",
        Staged((50, 500), (5, 1), "random"),
        Staged((128,), (1,), "random"),
        n_tune=1000,
        n_test=1000,
        k=5,
        keeps=(6, 5, 4, 3, 2),
    ),
    "mini-coloured-items": Task(
        "mini-coloured-items",
        Staged((20, 50, 100, 500), (20, 10, 5, 1), "random"),
        Staged((16, 32, 128), (12, 5, 1), "random"),
        n_tune=300,
        n_test=500,
        k=10,
        keeps=(30, 20, 12, 8, 5, 3, 2),
        tree={caption_single(item): [f"{colour} {item}" for colour in COLOURS] for item in ITEMS},
    ),
}


def open_task(
    task: Task, model: DiffusionModel, split: str, n_images: int, folder: Path, *, antithetic: bool = True
) -> tuple[ImageSet, ErrorBank]:
    """Return the first images of a split and their bank, whose rows are the classes' prompts, then the tree's nodes.

    Args:
        task: the task.
        model: the model.
        split: of the task's data set.
        n_images: of the split.
        folder: of the banks.
        antithetic: whether the noises are mirrored, as a race's are by default.
    """
    data = load_embedded(task.dataset, split, n_images)
    prompts = list(data.prompts.values())
    if task.tree:
        prompts += Hierarchical(task.tree).nodes()
    every = Racing(trials=N_TRIALS, antithetic=antithetic)
    timesteps = every.timesteps(len(model.alphas_cumprod))
    return data, ErrorBank(folder, model, prompts, timesteps, losses=("l2",), noises=every.noises())


def races(task: Task, race: Racing) -> dict[str, Pruning]:
    """Return the searches among all classes of a task that a race makes: alone, and along the label tree."""
    tree = {"label tree, race": Hierarchical(task.tree, then=race, race=race)} if task.tree else {}
    return {"race": race, **tree}


def complete_tables(bank: ErrorBank, data: ImageSet, race: Racing, desc: str = "") -> np.ndarray:
    """Return the errors of every prompt on every trial of a race, computing what is missing.

    Args:
        bank: of a task.
        data: its images.
        race: whose trials.
        desc: words before the progress bar.

    Returns:
        (n_images, n_prompts, n_trials).

    Raises:
        ValueError: the race's trials are not the first ones of the list.
    """
    n_timesteps = len(bank.model.alphas_cumprod)
    if not takes_trials_of(race, bank.timesteps, bank.noises, n_timesteps):
        raise ValueError(f"race must take the list's first trials, got {race}")
    n_trials = len(race.timesteps(n_timesteps))
    mask = np.broadcast_to(np.arange(len(bank.timesteps)) < n_trials, (len(bank.prompts), len(bank.timesteps)))
    with progress(total=len(data), desc=desc, unit="image") as bar:
        bank.fill(data.images, mask, progress=lambda done, total: bar.update(1))
    return bank.errors(data.images)[:, :, :n_trials]


def nearest_mean_scorer(
    dataset: str, image_size: int = 32, n_images: int | None = None
) -> Callable[[Tensor], np.ndarray]:
    """Return a cheap scorer for a shortlist: minus the squared distance to each class's mean image.

    The means are those of labelled images of the pool split, so that it is no zero-shot classifier; here it plays the
    part of CLIP in the paper's appendix B.

    Args:
        dataset: an embedded set.
        image_size: side of the pixels it will be given.
        n_images: images of the pool to learn from; None: all.
    """
    data = load_embedded(dataset, "pool", n_images)
    pixels = np.stack([to_pixels(image, image_size).numpy().ravel() for image in load_images(data.images)])
    means = np.stack([pixels[data.labels == label].mean(axis=0) for label in range(len(data.classnames))])

    def score(image: Tensor) -> np.ndarray:
        return -np.square(means - image.numpy().ravel()).sum(axis=1, dtype=np.float64)

    return score
