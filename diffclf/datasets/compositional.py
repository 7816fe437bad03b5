"""Winoground's kind of example: two images and two captions of the same words; which caption belongs to which image?

In the miniature world, captions of image 0 and image 1 by what is swapped between them:

    object     the items      "a red sneaker to the left of a blue boot" / "a red boot to the left of a blue sneaker"
    colour     the colours    ...                                        / "a blue sneaker to the left of a red boot"
    position   the places     ...                                        / "a red sneaker to the right of a blue boot"
    both       items, places  ...                                        / "a red boot to the right of a blue sneaker"

Both images have the same two photographs, in colours seen with these items in training. Image 0 and caption 0 are the
same for all tags, so that the tags differ in nothing but the swap. "colour" and "both" also have the same image 1: to
swap the items and their places is to swap the colours, in other words.

Source: Thrush et al. 2022, "Winoground", arXiv 2204.03162.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from diffclf.datasets import world
from diffclf.datasets.download import Repository
from diffclf.datasets.imageset import n_taken
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import LAYOUTS, OPPOSITE, caption_pair
from diffclf.images import load_image

__all__ = ["MINI", "REVISION", "TAGS", "WINOGROUND", "Examples", "load_examples"]

TAGS = ("object", "colour", "position", "both")
"""What is swapped between the two captions of an example of the miniature world."""
MINI, WINOGROUND = "mini-compositional", "facebook/winoground"
BLOCK = 1000  # scenes are drawn in blocks of this size, so that a smaller set is the beginning of a larger one
REVISION = "b400e173549071916ad1b3d449293bc8d8b4b763"


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of two images and two captions.

    Attributes:
        name: as `load_examples` was asked.
        tags: (n,) what is swapped.
        images: the different images: arrays (h, w, 3) or PIL images.
        pair: (n, 2) positions in `images` of image 0 and image 1.
        captions: n pairs: caption 0, which describes image 0, and caption 1.
        groups: (n,) the photograph of image 0's first object; examples of one photograph are not independent.
    """

    name: str
    tags: NDArray[np.str_]
    images: Sequence
    pair: NDArray[np.int64]
    captions: list[tuple[str, str]]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tags)

    @override
    def __repr__(self) -> str:
        return f"Examples({self.name!r}, {len(self)} examples, {len(self.images)} images)"


def load_examples(name: str = MINI, split: str = "test", n: int | None = None, seed: int = 0) -> Examples:
    """Return examples.

    Args:
        name: "mini-compositional"; "facebook/winoground", which is downloaded; or a folder with Winoground's two files.
        split: of the photographs: "tune", "test", "v2", "pool". Winoground is a test set only.
        n: examples of each tag of the miniature world (None: as many as the split has photographs), or of Winoground
            in all (None: all). A smaller number is the beginning of a larger one.
        seed: of the choice of photographs and colours.

    Raises:
        ValueError: unknown name or split, or too many examples.
        ConnectionError: Winoground is not here and cannot be downloaded.
    """
    if name == MINI:
        return _mini(split, n, seed)
    if name != WINOGROUND and not Path(name).is_dir():
        raise ValueError(f"examples must be {MINI!r}, {WINOGROUND!r} or a folder, got {name!r}")
    if split != "test":
        raise ValueError(f"split of {name!r} must be 'test', got {split!r}")
    return _read_winoground(name, *(_download() if name == WINOGROUND else _files(Path(name))), n)


def _sample(labels: NDArray[np.int64], n: int, seed: int) -> NDArray:
    """Return n scenes of two objects of which neither colour is held out with either item."""
    rng, held_out, found = np.random.default_rng([seed, 25]), world.held_out_mask(), np.empty(0, world.SCENE)
    while len(found) < n:
        drawn = world.sample_scenes(labels, 0, BLOCK, rng=rng)
        swapped = held_out[drawn["colour"], drawn["item"][:, ::-1]].any(axis=1)
        found = np.concatenate([found, drawn[~swapped]])
    return found[:n]


def _swapped(scenes: NDArray, tag: str) -> NDArray:
    """Return the scenes that caption 1 describes."""
    found = scenes.copy()
    if tag in ("object", "both"):
        found["photo"], found["item"] = scenes["photo"][:, ::-1], scenes["item"][:, ::-1]
    if tag == "colour":
        found["colour"] = scenes["colour"][:, ::-1]
    if tag in ("position", "both"):
        opposite = np.array([LAYOUTS.index(OPPOSITE[layout]) for layout in LAYOUTS])
        found["layout"] = opposite[scenes["layout"]]
    return found


def _describe(scenes: NDArray) -> list[str]:
    """Return the caption of each scene, told from its first object."""
    objects = zip(world.named_objects(scenes), scenes["layout"], strict=True)
    return [caption_pair(first, LAYOUTS[layout], second) for (first, second), layout in objects]


def _mini(split: str, n: int | None, seed: int) -> Examples:
    photos, labels = load_photos(split)
    scenes = _sample(labels, n_taken(n, len(labels)), seed)
    n, pair, captions = len(scenes), [], []
    # The images 0, then the images 1 of the three tags that have images of their own.
    places = {"object": 1, "colour": 2, "position": 3, "both": 2}
    drawn = [scenes, *(_swapped(scenes, tag) for tag in ("object", "colour", "position"))]
    for tag in TAGS:
        pair.append(np.stack([np.arange(n), places[tag] * n + np.arange(n)], axis=1))
        captions += zip(_describe(scenes), _describe(_swapped(scenes, tag)), strict=True)
    images = list(world.render(np.concatenate(drawn), photos))
    groups = np.tile(scenes["photo"][:, 0], len(TAGS))
    return Examples(MINI, np.repeat(TAGS, n), images, np.concatenate(pair), captions, groups)


class _Archive(Sequence):
    """The pictures in an archive, each decoded when it is taken."""

    def __init__(self, path: Path, stems: list[str]) -> None:
        with ZipFile(path) as archive:
            members = {Path(member).stem: member for member in archive.namelist()}
        if missing := [stem for stem in stems if stem not in members]:
            raise ValueError(f"{path} must have the images of all examples, got none named {missing[0]}")
        self.path, self.members = path, [members[stem] for stem in stems]

    def __len__(self) -> int:
        return len(self.members)

    @override
    def __getitem__(self, place: int) -> Image.Image:
        with ZipFile(self.path) as archive, archive.open(self.members[place]) as file:
            return load_image(file, f"{self.members[place]} of {self.path}")


def _read_winoground(name: str, examples: Path, images: Path, n: int | None) -> Examples:
    """Return the examples of a file with a line of JSON each, and of an archive of images."""
    rows = [json.loads(line) for line in examples.read_text("utf-8").splitlines() if line.strip()]
    rows = rows[: n_taken(n, len(rows))]
    pictures = _Archive(images, [row[key] for row in rows for key in ("image_0", "image_1")])
    tags = np.array([row["collapsed_tag"].lower() for row in rows])
    captions = [(row["caption_0"], row["caption_1"]) for row in rows]
    places = np.arange(len(rows))
    return Examples(name, tags, pictures, np.stack([2 * places, 2 * places + 1], axis=1), captions, places)


def _files(folder: Path) -> tuple[Path, Path]:
    """Return the files of the examples and of their images in a copy of Winoground's repository."""
    found = folder / "data" / "examples.jsonl", folder / "data" / "images.zip"
    if missing := [path for path in found if not path.is_file()]:
        raise ValueError(f"{folder} must have data/examples.jsonl and data/images.zip, got no {missing[0].name}")
    return found


def _download() -> tuple[Path, Path]:
    """Download Winoground's two files, once. Its terms must have been accepted; its images must not be published."""
    repository = Repository(WINOGROUND, REVISION, gated=True, licence="research only")
    return repository.fetch("data/examples.jsonl"), repository.fetch("data/images.zip")
