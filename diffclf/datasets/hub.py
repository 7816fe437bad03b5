"""Data sets of the Hugging Face hub."""

from dataclasses import dataclass

import numpy as np

from diffclf.datasets.folder import balanced_order
from diffclf.datasets.imageset import ImageSet

__all__ = ["HUB", "HubSource", "load_hub"]


@dataclass(frozen=True)
class HubSource:
    """Where a data set is and how its classes are asked about.

    Attributes:
        repo: id on the hub.
        split: which of its splits plays the test split.
        n: images in that split, checked when it is loaded.
        n_classes: classes, checked likewise.
        template: the prompt, {} standing for the class name.
        licence: as stated on the hub.
        image: name of the image column.
        label: name of the label column.
    """

    repo: str
    split: str
    n: int
    n_classes: int
    template: str
    licence: str
    image: str = "image"
    label: str = "label"


HUB = {
    "pets": HubSource(
        "timm/oxford-iiit-pet", "test", 3669, 37, "a photo of a {}, a type of pet", licence="CC-BY-SA-4.0"
    ),
}


def load_hub(name: str, n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Download (once) and return a data set of the hub, the classes in nearly equal numbers.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        ConnectionError: offline and not downloaded before.
        ValueError: not the images or classes that were expected, or too many images asked for.
    """
    source = HUB[name]
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"data set {name!r} needs the package `datasets`: pip install 'diffclf[data]'"
        ) from error
    try:
        table = datasets.load_dataset(source.repo, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConnectionError(
            f"data set {name!r} ({source.repo}, {source.licence}) could not be loaded: {error}. Go online once to "
            "download it, or give a folder of images with one sub-folder per class"
        ) from error
    names = [n.replace("_", " ") for n in table.features[source.label].names]
    if len(table) != source.n or len(names) != source.n_classes:
        raise ValueError(
            f"{source.repo} must hold {source.n} images of {source.n_classes} classes, got {len(table)} of {len(names)}"
        )
    labels = np.asarray(table[source.label])
    if n_images is not None and not 1 <= n_images <= len(labels):
        raise ValueError(f"n_images must lie in 1..{len(labels)}, got {n_images}")
    order = balanced_order(labels, seed)[:n_images]
    prompts = {n: source.template.format(n) for n in names}
    images = [table[int(i)][source.image] for i in order]
    return ImageSet(name, images, labels[order], tuple(names), prompts, order)
