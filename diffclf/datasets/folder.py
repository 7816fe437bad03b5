"""A folder of labelled images: one sub-folder per class, named as the class."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffclf.datasets.imageset import ImageSet, n_taken
from diffclf.images import ImageLike, load_image
from diffclf.prompts import prompts_from_labels

__all__ = ["ClassFolder", "FolderImage", "balanced", "balanced_order", "halves", "load_folder", "shown", "unreadable"]


LEFTOVERS = ("__MACOSX", "Thumbs", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Sub-folders that operating systems leave behind."""
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


class FolderImage(NamedTuple):
    """An image: its path below the folder as messages show it, its file, and the name of its class (NFC)."""

    name: str
    path: Path
    label: str


class ClassFolder:
    """The images of a folder with one sub-folder per class, in the order of their names.

    Images may lie deeper than the class's own sub-folder. Hidden files and folders do not count. A link to a folder is
    followed unless it leads back into the folder or to one of its parents.

    Attributes:
        path: the folder.
        classnames: names of the sub-folders in Unicode's form NFC, sorted; a class may be empty.
        images: the images, sorted by class and path.
        ignored: files that are no images by their suffix, or lie in no class's sub-folder; sub-folders that are no
            classes: leftovers of operating systems, results of `diffclf evaluate`, links back into the folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file instead of a folder, no sub-folders, splits instead of classes, or no image in them.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"folder not found: {self.path}")
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, expected a folder with one sub-folder of images per class")
        visible = (entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        entries = sorted(visible, key=lambda entry: (_class_name(entry.name), entry.name))
        self.ignored = [entry for entry in entries if not entry.is_dir() or self._is_no_class(entry)]
        classes = [entry for entry in entries if entry not in self.ignored]
        if not classes:
            raise ValueError(f"{self.path} has no sub-folders, expected one of images per class")
        if all(folder.name.lower() in SPLITS for folder in classes):
            raise ValueError(f"{self.path} must have a sub-folder per class, got splits; did you mean {classes[0]}?")
        # Also formats that are not accepted: such an image is refused and not left out without a word.
        suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        suffixes |= {".heic", ".heif"}
        self.classnames = tuple(dict.fromkeys(_class_name(folder.name) for folder in classes))
        self.images: list[FolderImage] = []
        for file in (file for folder in classes for file in self._visible_files(folder)):
            name = file.relative_to(self.path)
            if file.suffix.lower() in suffixes:
                self.images.append(FolderImage(shown(name.as_posix()), file, _class_name(name.parts[0])))
            else:
                self.ignored.append(file)
        if not self.images:
            raise ValueError(f"{self.path} has no images in its sub-folders ({', '.join(self.classnames)})")
        if len(classes) == 1 and len(inner := [entry for entry in classes[0].iterdir() if entry.is_dir()]) > 1:
            names = ", ".join(sorted(shown(entry.name) for entry in inner)[:3])
            got = f"{shown(classes[0].name)} alone, with {names} in it"
            raise ValueError(f"{self.path} must have a sub-folder per class, got {got}; did you mean {classes[0]}?")

    def _is_no_class(self, folder: Path) -> bool:
        """Return whether a sub-folder is a leftover, holds the results of an earlier run, or links back."""
        has_results = (folder / "summary.json").is_file() and (folder / "bank").is_dir()
        return folder.name in LEFTOVERS or has_results or self._links_back(folder)

    def _links_back(self, folder: Path) -> bool:
        """Return whether a folder is a link into the data, or to a folder that holds the link."""
        target, root = folder.resolve(), self.path.resolve()
        return folder.is_symlink() and (target.is_relative_to(root) or folder.parent.resolve().is_relative_to(target))

    def _visible_files(self, folder: Path) -> Iterator[Path]:
        """Yield the files below a folder that are not hidden, sorted by path; links back become ignored."""
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield entry
            elif self._links_back(entry):
                self.ignored.append(entry)
            else:
                yield from self._visible_files(entry)


def shown(name: str | os.PathLike) -> str:
    """Return a file name as valid text: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _class_name(folder: str) -> str:
    """Return the name of a sub-folder as a class name; file systems differ in the form of Unicode that they keep."""
    return unicodedata.normalize("NFC", shown(folder))


def unreadable(images: Iterable[tuple[ImageLike, str]]) -> dict[int, str]:
    """Read every image, given with its name in messages, to its end.

    Returns the position of each image that is missing or cannot be used, and the reason.
    """
    reasons = {}
    for position, (image, name) in enumerate(images):
        try:
            load_image(image, name)
        except FileNotFoundError:
            reasons[position] = f"image not found: {name}"
        except (ValueError, OSError) as error:
            reasons[position] = str(error)
    return reasons


def _rank(labels: np.ndarray) -> np.ndarray:
    """Return (n,) how many images of its class come before each image."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return rank


def balanced(labels: np.ndarray) -> np.ndarray:
    """Return an order of the images (n,), first images of a class first, with the classes nearly equal in a prefix."""
    return np.argsort(_rank(labels), kind="stable")


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of the images (n,) in which every prefix has the classes in nearly equal numbers."""
    shuffled = np.random.default_rng([seed, 6]).permutation(len(labels))
    return shuffled[balanced(labels[shuffled])]


def halves(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the positions of the tune and the test half of each class, always the same; test has the odd image."""
    shuffled = np.random.default_rng(8).permutation(len(labels))
    odd = np.empty(len(labels), dtype=bool)
    odd[shuffled] = _rank(labels[shuffled]) % 2 == 1
    return {"tune": np.flatnonzero(odd), "test": np.flatnonzero(~odd)}


def load_folder(folder: Path, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Return images below `folder`; class names are the sub-folders' names, underscores read as spaces.

    Args:
        folder: the folder.
        split: "tune" or "test", one half of each class (`halves`), or "all".
        n_images: how many, the classes in nearly equal numbers; None for all of the split.
        seed: seed of the order. The halves do not depend on it.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: unknown split, no image in it, fewer than two classes, or too many images asked for.
    """
    if split not in ("tune", "test", "all"):
        raise ValueError(f"split of a folder must be 'tune', 'test' or 'all', got {split!r}")
    found = ClassFolder(folder)
    classnames = tuple(name.replace("_", " ") for name in found.classnames)
    prompts = {name: prompt for prompt, name in prompts_from_labels(classnames)}
    labels = np.array([found.classnames.index(image.label) for image in found.images])
    part = np.arange(len(labels)) if split == "all" else halves(labels)[split]
    if not len(part):
        raise ValueError(f"{folder} must have a class of two images or more for the split {split!r}, got one of each")
    order = part[balanced_order(labels[part], seed)[: n_taken(n_images, len(part))]]
    return ImageSet(str(folder), [found.images[i].path for i in order], labels[order], classnames, prompts, order)
