"""What `diffclf evaluate` classifies: the images of a folder or of a data set, with their classes and prompts."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from diffclf.commands.options import first_reasons, make_prompts
from diffclf.datasets import load_dataset
from diffclf.datasets.folder import ClassFolder, shown, unreadable
from diffclf.datasets.imageset import ImageSet
from diffclf.images import ImageLike, list_images
from diffclf.progress import progress
from diffclf.texttable import plural, printable

__all__ = ["Data", "Item", "named", "read_dataset", "read_folder", "say", "skipped_images", "unusable"]


class Item(NamedTuple):
    """An image of a run: its name in the results, the image or its path, and the name of its class."""

    name: str
    image: ImageLike
    label: str


class Data(NamedTuple):
    """What a run is about.

    `prompts` are (prompt, classname) pairs, `empty` classes without images; `images`, if it is a data set, finds its
    classes among a network's labels.
    """

    name: str
    items: list[Item]
    prompts: list[tuple[str, str]]
    empty: Sequence[str] = ()
    images: ImageSet | None = None


def read_dataset(args: argparse.Namespace) -> Data:
    """Return the data set that the options name; raise ValueError if they do not fit together."""
    if args.folder is not None or args.labels_from_folders:
        raise ValueError("--dataset is in place of FOLDER and --labels-from-folders, got both")
    data = load_dataset(args.dataset, args.split or "test", args.n_images)
    if data.captions is not None:
        raise ValueError(f"{args.dataset} has a list of captions per image, expected a data set with classes")
    if args.prompts is None and args.template is None:
        pairs = [(prompt, name) for name, prompt in data.prompts.items()]
    else:
        pairs = make_prompts(args, data.classnames)
        _check_classes(pairs, data.classnames, f"class of {args.dataset}", args)
    images = zip(list_images(data.images), data.labels, strict=True)
    items = [Item(shown(name), image, data.classnames[label]) for (image, name), label in images]
    return Data(args.dataset, items, pairs, images=data)


def read_folder(args: argparse.Namespace) -> Data:
    """Return the folder's images, and say what in it is none."""
    if args.folder is None:
        raise ValueError("one of FOLDER and --dataset NAME is required (see `diffclf evaluate --help`)")
    if not args.labels_from_folders and args.prompts is None:
        raise ValueError("one of the arguments --labels-from-folders --prompts is required with FOLDER")
    for name, value in (("--n-images", args.n_images), ("--split", args.split)):
        if value is not None:
            raise ValueError(f"{name} is for --dataset, got FOLDER; --dataset FOLDER takes a folder as a data set")
    folder = ClassFolder(args.folder)
    pairs = make_prompts(args, [name.replace("_", " ") for name in folder.classnames])
    if args.prompts is None:
        pairs = [(prompt, name) for (prompt, _), name in zip(pairs, folder.classnames, strict=True)]
    _check_classes(pairs, folder.classnames, f"sub-folder of {folder.path}", args)
    if folder.ignored:
        names = ", ".join(shown(path.name) for path in folder.ignored[:3])
        names += ", ..." if len(folder.ignored) > 3 else ""
        what = "entry that is" if len(folder.ignored) == 1 else "entries that are"
        say(f"ignoring {len(folder.ignored)} {what} no image of a class: {names}")
    labels = {image.label for image in folder.images}
    empty = [name for name in folder.classnames if name not in labels]
    return Data(args.folder, [Item(*image) for image in folder.images], pairs, empty)


def say(message: str) -> None:
    """Print a line about the folder on stderr."""
    print(f"diffclf: {printable(message)}", file=sys.stderr)


def unusable(items: Sequence[Item], data: Data, skip: bool) -> dict[str, str]:
    """Return the names of the images that cannot be used, with the reasons.

    Raises ValueError if there are some and `skip` is False, or no image can be used.
    """
    bad = unreadable(progress([named(item) for item in items], desc="checking images", unit="image"))
    return skipped_images(items, bad, skip, data.name)


def named(item: Item) -> tuple[ImageLike, str]:
    """Return an image with its name in messages."""
    return item.image, str(item.image) if isinstance(item.image, str | os.PathLike) else item.name


def skipped_images(items: Sequence[Item], bad: Mapping[int, str], skip: bool, source: str) -> dict[str, str]:
    """Return name -> reason of the images at bad positions; raise ValueError if they may not be skipped."""
    if bad and not skip:
        raise ValueError(f"{first_reasons(bad)}; --skip-unreadable leaves such images out")
    if len(bad) == len(items):
        raise ValueError(f"no image of {source} can be used: {first_reasons(bad)}")
    if bad:
        say(f"skipping {plural(len(bad), 'image')} that cannot be used: {first_reasons(bad)}")
    return {items[position].name: bad[position] for position in sorted(bad)}


def _check_classes(
    pairs: Sequence[tuple[str, str]], classnames: Sequence[str], what: str, args: argparse.Namespace
) -> None:
    """Raise ValueError if a class of the images has no prompt."""
    known = {classname for _, classname in pairs}
    if unknown := [name for name in classnames if name not in known]:
        raise ValueError(f"every {what} must be a classname in {args.prompts}, got {', '.join(map(repr, unknown))}")
