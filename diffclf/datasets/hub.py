"""Data sets of the Hugging Face hub."""

from typing import NamedTuple

import numpy as np

from diffclf.datasets.folder import balanced_order
from diffclf.datasets.imageset import ImageSet, n_taken

__all__ = ["HUB", "HubSource", "load_hub"]


class HubSource(NamedTuple):
    """Where a data set is on the hub, what must be in it, and how its classes are asked about.

    Attributes:
        repo: id on the hub.
        splits: "tune" and "test" -> name of the hub's split and the images in it.
        n_classes: number of classes.
        template: the prompt, {} standing for the class name.
        licence: as stated on the hub.
    """

    repo: str
    splits: dict[str, tuple[str, int]]
    n_classes: int
    template: str
    licence: str


HUB = {
    "pets": HubSource(
        "timm/oxford-iiit-pet",
        splits={"tune": ("train", 3680), "test": ("test", 3669)},
        n_classes=37,
        template="a photo of a {}, a type of pet",
        licence="CC-BY-SA-4.0",
    )
}


def load_hub(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Download (once) and return a data set of the hub, the classes in nearly equal numbers.

    Arguments as for `load_dataset`; "tune" is the hub's training split, which a zero-shot classifier does not need.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        ConnectionError: offline and not downloaded before.
        ValueError: unknown split, not the images or classes that were expected, or too many images asked for.
    """
    source = HUB[name]
    if split not in source.splits:
        raise ValueError(f"split of {name!r} must be one of {list(source.splits)}, got {split!r}")
    hub_split, n = source.splits[split]
    try:
        import datasets
    except ModuleNotFoundError as error:
        message = f"data set {name!r} needs the package `datasets`: pip install 'diffclf[data]'"
        raise ModuleNotFoundError(message) from error
    try:
        table = datasets.load_dataset(source.repo, split=hub_split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConnectionError(
            f"data set {name!r} ({source.repo}, {source.licence}) could not be loaded: {error}. Go online once to "
            "download it, or give a folder of images with one sub-folder per class"
        ) from error
    names = tuple(n.replace("_", " ") for n in table.features["label"].names)
    if len(table) != n or len(names) != source.n_classes:
        raise ValueError(
            f"{source.repo} must hold {n} images of {source.n_classes} classes, got {len(table)} of {len(names)}"
        )
    labels = np.asarray(table["label"])
    order = balanced_order(labels, seed)[: n_taken(n_images, len(labels))]
    prompts = {n: source.template.format(n) for n in names}
    images = table.select(order)["image"]  # a lazy column: each image is decoded when it is taken
    return ImageSet(name, images, labels[order], names, prompts, order)
