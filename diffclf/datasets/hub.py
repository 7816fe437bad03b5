"""Data sets of the Hugging Face hub."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffclf.datasets.folder import balanced_order, halves
from diffclf.datasets.imagenet import IMAGENET_A, OBJECTNET
from diffclf.datasets.imageset import ImageSet, n_taken

__all__ = ["HUB", "HubSource", "load_hub"]


class HubSource(NamedTuple):
    """Where a data set is on the hub, what must be in it, and how its classes are asked about.

    Attributes:
        repo: id on the hub.
        splits: "tune" and "test" -> name of the hub's split and the images in it. Where both name the same split of
            the hub, they are its two fixed halves (`diffclf.datasets.folder.halves`).
        n_classes: number of classes in the repository.
        template: the prompt, {} standing for the class name.
        licence: as stated on the hub.
        image: name of the column of images.
        label: name of the column of labels, 0 to n_classes - 1.
        names: text file with one class name per line; "" if the column of labels has the names.
        files: files of the split, where a download of the whole repository is unwanted or ambiguous; "" for all.
        indices: index of each class among the thousand of ImageNet. A class with None is left out with its images.
    """

    repo: str
    splits: dict[str, tuple[str, int]]
    n_classes: int
    template: str
    licence: str
    image: str = "image"
    label: str = "label"
    names: str = ""
    files: str = ""
    indices: tuple[int | None, ...] | None = None


_TAR = {"label": "cls", "names": "classnames.txt"}
_TAR_FILES = {"template": "a photo of a {}", **_TAR, "files": "test/*.tar"}

HUB = {
    "pets": HubSource(
        "timm/oxford-iiit-pet",
        splits={"tune": ("train", 3680), "test": ("test", 3669)},
        n_classes=37,
        template="a photo of a {}, a type of pet",
        licence="CC-BY-SA-4.0",
    ),
    "food101": HubSource(
        "ethz/food101",
        splits={"tune": ("train", 75_750), "test": ("validation", 25_250)},
        n_classes=101,
        template="a photo of {}, a type of food",
        licence="fair use for research",
    ),
    "cifar10": HubSource(
        "uoft-cs/cifar10",
        splits={"tune": ("train", 50_000), "test": ("test", 10_000)},
        n_classes=10,
        template="a photo of a {}",
        licence="none stated",
        image="img",
    ),
    "aircraft": HubSource(
        "clip-benchmark/wds_fgvc_aircraft",
        splits={"test": ("test", 3333)},
        n_classes=100,
        template="a photo of a {}, a type of aircraft",
        licence="non-commercial research",
        image="webp",
        files="test/*.tar",
        **_TAR,
    ),
    "flowers": HubSource(
        "dpdl-benchmark/oxford_flowers102",
        splits={"tune": ("train", 1020), "test": ("test", 6149)},
        n_classes=102,
        template="a photo of a {}, a type of flower",
        licence="none stated",
    ),
    "stl10": HubSource(
        "tanganke/stl10",
        splits={"tune": ("train", 5000), "test": ("test", 8000)},
        n_classes=10,
        template="a photo of a {}",
        licence="none stated; made of ImageNet",
    ),
    "imagenet": HubSource(  # gated; 25 validation images of each class in either half
        "ILSVRC/imagenet-1k",
        splits={"tune": ("validation", 50_000), "test": ("validation", 50_000)},
        n_classes=1000,
        template="a photo of a {}",
        licence="ImageNet terms of access, non-commercial research",
        files="data/validation-*",
        indices=tuple(range(1000)),
    ),
    "imagenet-v2": HubSource(  # the matched-frequency variant
        "clip-benchmark/wds_imagenetv2",
        splits={"test": ("test", 10_000)},
        n_classes=1000,
        licence="MIT",
        image="webp",
        indices=tuple(range(1000)),
        **_TAR_FILES,
    ),
    "imagenet-a": HubSource(
        "clip-benchmark/wds_imagenet-a",
        splits={"test": ("test", 7500)},
        n_classes=200,
        licence="MIT",
        image="jpg",
        indices=IMAGENET_A,
        **_TAR_FILES,
    ),
    "objectnet": HubSource(  # 104 of the 113 classes; the images keep their red border, one pixel wide
        "clip-benchmark/wds_objectnet",
        splits={"test": ("test", 18_574)},
        n_classes=113,
        licence="ObjectNet's terms: never to tune a model",
        image="png",
        indices=OBJECTNET,
        **_TAR_FILES,
    ),
}


def load_hub(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Download (once) and return a data set of the hub, the classes in nearly equal numbers.

    Arguments as for `load_dataset`. "tune" is the hub's training split, which a zero-shot classifier does not need;
    "tune" and "test" of "imagenet" are the two halves of the validation images, because networks have seen the training
    images. "imagenet-v2", "imagenet-a", "objectnet" and "aircraft" are test sets only.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        ConnectionError: offline and not downloaded before, or terms not accepted.
        ValueError: unknown split, not the columns, images or classes that were expected, or too many images asked for.
    """
    source = HUB[name]
    if split not in source.splits:
        raise ValueError(f"split of {name!r} must be one of {list(source.splits)}, got {split!r}")
    hub_split, n = source.splits[split]
    table, listed = _download(name, source, hub_split)
    columns = list(table.features)
    if not {source.image, source.label} <= set(columns):
        raise ValueError(f"{source.repo} must have columns {source.image} and {source.label}, got {columns}")
    names = listed or table.features[source.label].names
    labels = np.asarray(table[source.label])
    if len(labels) != n or len(names) != source.n_classes:
        raise ValueError(
            f"{source.repo} must hold {n} images of {source.n_classes} classes, got {len(labels)} of {len(names)}"
        )
    if not np.array_equal(np.unique(labels), np.arange(source.n_classes)):
        raise ValueError(
            f"labels of {source.repo} must be 0 to {source.n_classes - 1}, each of them at least once, got "
            f"{labels.min()} to {labels.max()}, {len(np.unique(labels))} different"
        )
    indices = source.indices or (0,) * len(names)
    kept = np.array([position for position, index in enumerate(indices) if index is not None])
    shared = [other for other, _ in source.splits.values()].count(hub_split) > 1
    part = halves(labels)[split] if shared else np.arange(n)
    part = part[np.isin(labels[part], kept)]
    order = part[balanced_order(labels[part], seed)[: n_taken(n_images, len(part))]]
    classnames = tuple(np.array(_distinct(names), dtype=object)[kept])
    return ImageSet(
        name,
        table.select(order)[source.image],  # a lazy column: each image is decoded when it is taken
        np.searchsorted(kept, labels[order]),
        classnames,
        {n: source.template.format(n) for n in classnames},
        order,
        indices=tuple(indices[position] for position in kept) if source.indices else None,
    )


def _download(name: str, source: HubSource, split: str) -> tuple[Any, list[str]]:
    """Return the table of a split, and the class names of the file that lists them, if there is one."""
    try:
        import datasets
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        message = f"data set {name!r} needs the package `datasets`: pip install 'diffclf[data]'"
        raise ModuleNotFoundError(message) from error
    # The count of images is checked in `load_hub`; that of the library wants every split of the repository.
    chosen = {"data_files": {split: source.files}, "verification_mode": "no_checks"} if source.files else {}
    try:
        listed = []
        if source.names:
            listed = (
                Path(hf_hub_download(source.repo, source.names, repo_type="dataset")).read_text("utf-8").split("\n")
            )
        table = datasets.load_dataset(source.repo, split=split, **chosen)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConnectionError(
            f"data set {name!r} ({source.repo}, {source.licence}) could not be loaded: {error}. Go online once to "
            "download it (if the hub asks for its terms to be accepted: do so there and log in), or give a folder of "
            "images with one sub-folder per class"
        ) from error
    return table, [line.strip() for line in listed if line.strip()]


def _distinct(names: Sequence[str]) -> list[str]:
    """Return class names with spaces for underscores, and with the label where classes share a name: "crane (134)"."""
    plain = [name.replace("_", " ") for name in names]
    counts = Counter(plain)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(plain)]
