"""A folder of labelled images: one sub-folder per class, named as the class."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diffclf.images import load_images

__all__ = ["ClassFolder", "FolderImage", "check_images"]


@dataclass(frozen=True)
class FolderImage:
    """One image of a class folder.

    Attributes:
        name: path below the folder with forward slashes, odd bytes escaped: what lists and messages call the image.
        path: where the file is.
        label: name of the class.
    """

    name: str
    path: Path
    label: str


class ClassFolder:
    """The images of a folder with one sub-folder per class, in the order of their names.

    Images may lie deeper than the class's own sub-folder. Hidden files and folders do not count.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        classnames: names of the sub-folders, sorted; a class may be empty.
        images: the images, sorted by class and path.
        ignored: files that are no images by their suffix, or lie in no class's sub-folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file instead of a folder, no sub-folders, or no image in them.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"folder not found: {self.path}")
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, expected a folder with one sub-folder of images per class")
        entries = sorted(entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        classes = [entry for entry in entries if entry.is_dir()]
        if not classes:
            raise ValueError(f"{self.path} has no sub-folders, expected one of images per class")
        suffixes = _image_suffixes()
        self.classnames = tuple(shown(entry.name) for entry in classes)
        self.images: list[FolderImage] = []
        self.ignored = [entry for entry in entries if not entry.is_dir()]
        for folder, label in zip(classes, self.classnames, strict=True):
            for file in _visible_files(folder):
                if file.suffix.lower() in suffixes:
                    self.images.append(FolderImage(shown(file.relative_to(self.path).as_posix()), file, label))
                else:
                    self.ignored.append(file)
        if not self.images:
            raise ValueError(f"{self.path} has no images in its sub-folders ({', '.join(self.classnames)})")


def check_images(paths: Iterable[str | os.PathLike]) -> None:
    """Read every image to its end, so that a bad one is known before long work.

    Raises:
        ValueError: at least one image is missing or cannot be used; the message has the reason of the first few.
    """
    reasons = []
    for path in paths:
        try:
            load_images(path)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
    if reasons:
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise ValueError("; ".join(reasons[:5]) + more)


def shown(name: str | os.PathLike) -> str:
    """Return a file name as valid text: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden, sorted by path."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _visible_files(entry)
        else:
            yield entry


def _image_suffixes() -> set[str]:
    """Return the suffixes of the files that Pillow can open, lower case."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
