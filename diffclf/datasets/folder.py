"""A folder of images with one sub-folder per class."""

from pathlib import Path

import numpy as np

from diffclf.datasets.imageset import ImageSet
from diffclf.folder import ClassFolder
from diffclf.prompts import TEMPLATE, prompts_from_labels

__all__ = ["balanced_order", "load_folder"]


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return an order of the images in which every prefix has the classes in nearly equal numbers."""
    rng = np.random.default_rng([seed, 6])
    shuffled = rng.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rank[shuffled[labels[shuffled] == label]] = np.arange((labels == label).sum())
    return shuffled[np.argsort(rank[shuffled], kind="stable")]


def load_folder(folder: Path, n_images: int | None = None, seed: int = 0, template: str = TEMPLATE) -> ImageSet:
    """Return the images below `folder`; class names are the sub-folders' names, underscores read as spaces.

    Args:
        folder: the folder.
        n_images: how many, the classes in nearly equal numbers; None for all.
        seed: seed of the choice.
        template: the prompt, {} standing for the class name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image, fewer than two classes, or too many images asked for.
    """
    found = ClassFolder(folder)
    classnames = tuple(name.replace("_", " ") for name in found.classnames)
    prompts = {name: prompt for prompt, name in prompts_from_labels(classnames, template)}
    labels = np.array([found.classnames.index(image.label) for image in found.images])
    if n_images is not None and not 1 <= n_images <= len(labels):
        raise ValueError(f"n_images must lie in 1..{len(labels)}, got {n_images}")
    order = balanced_order(labels, seed)[:n_images]
    return ImageSet(str(folder), [found.images[i].path for i in order], labels[order], classnames, prompts, order)
