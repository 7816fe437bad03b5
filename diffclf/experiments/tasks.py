"""The two tasks on which strategies are compared: one list of trials and one bank of errors for each.

    mini-items            10 classes, "a photo of a sneaker"
    mini-coloured-items   60 classes, "a photo of a red sneaker"; below them the ten items as nodes of a label tree

The list holds 500 trials of a race. The default race and the paper's schedules of 500 trials share its first trials:
what two strategies both ask for is computed once, and their difference is not blurred by different noise.
"""

from dataclasses import dataclass, field
from pathlib import Path

from diffclf.bank import ErrorBank
from diffclf.datasets.embedded import load_embedded
from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.world import COLOURS, ITEMS, caption_single
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Hierarchical, Racing, Staged, Strategy

__all__ = ["TASKS", "Task", "open_task", "races"]

N_TRIALS = 500


@dataclass(frozen=True)
class Task:
    """What is compared on one data set.

    Attributes:
        dataset: an embedded set.
        schedule: the paper's for about as many classes (Table 6: CIFAR-10's, and Food-101's).
        reference: a schedule that prunes little or nothing; a fixed schedule must not be worse on tune images.
        n_tune: number of tune images.
        n_test: number of test images, on which all strategies are scored.
        k: classes that a shortlist keeps.
        keeps: numbers of classes that a stage of a fixed schedule may keep.
        tree: inner nodes of a label tree -> classes; empty: none.
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
    """Return the first images of a split and their bank, whose prompts are the classes', then the tree nodes'.

    Args:
        task: the task.
        model: the model.
        split: of the task's data set.
        n_images: of the split.
        folder: of the banks.
        antithetic: whether the noises are mirrored, as a race's are by default.
    """
    data = load_embedded(task.dataset, split, n_images)
    nodes = Hierarchical(task.tree).more_prompts() if task.tree else []
    trials = Racing(trials=N_TRIALS, antithetic=antithetic).trial_list(len(model.schedule))
    return data, ErrorBank(folder, model, [*data.prompts_for(model), *nodes], trials, losses=("l2",))


def races(task: Task, race: Racing | None = None) -> dict[str, Strategy]:
    """Return the searches of a task that a race (None: the default race) makes: plain, and along the label tree."""
    race = race or Racing()
    tree = {"label tree, race": Hierarchical(task.tree, then=race, race=race)} if task.tree else {}
    return {"race": race, **tree}
