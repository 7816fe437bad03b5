"""The embedded class sets: scenes of one tinted Fashion-MNIST photograph, never seen in training."""

import numpy as np

from diffclf.datasets.imageset import ImageSet, n_taken
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import COLOURS, ITEMS, Scenes, caption_single, held_out_mask, render

__all__ = ["EMBEDDED", "load_embedded", "single_scenes"]

EMBEDDED = ("mini-items", "mini-coloured-items")


def single_scenes(labels: np.ndarray, n_images: int | None, seed: int, held_out: bool | None = False) -> Scenes:
    """Return scenes of one item each, every photograph at most once; the first n are the same for every larger n.

    Args:
        labels: (n_photos,) labels of the photographs.
        n_images: how many; None for all.
        seed: seed of the order and of the colours.
        held_out: False for combinations seen in training, True for held-out ones only, None for all.

    Raises:
        ValueError: more images than there are photographs with a possible colour.
    """
    rng = np.random.default_rng([seed, 5])
    photo = rng.permutation(len(labels))
    mask = held_out_mask()
    allowed = np.ones_like(mask) if held_out is None else mask == held_out
    colour = (allowed[:, labels[photo]].T * rng.random((len(photo), len(COLOURS)))).argmax(axis=1)
    possible = np.flatnonzero(allowed[colour, labels[photo]])
    chosen = possible[: n_taken(n_images, len(possible))]
    photo, colour = photo[chosen], colour[chosen]
    twice = (np.stack([column, column], axis=1) for column in (photo, labels[photo], colour))
    return Scenes(*twice, np.full(len(photo), -1))


def load_embedded(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Return one of the embedded class sets.

    "mini-items" has 10 classes, "a photo of a sneaker", colours seen with the item in training; "mini-coloured-items"
    has 60, "a photo of a red sneaker", held-out combinations included.

    Args:
        name: one of `EMBEDDED`.
        split: "tune", "test", "v2" or "pool".
        n_images: how many; None for all of the split.
        seed: seed of the choice of photographs and colours.

    Raises:
        ValueError: unknown name or split, or too many images.
    """
    if name not in EMBEDDED:
        raise ValueError(f"embedded data set must be one of {EMBEDDED}, got {name!r}")
    photos, labels = load_photos(split)
    coloured = name == "mini-coloured-items"
    scenes = single_scenes(labels, n_images, seed, held_out=None if coloured else False)
    if coloured:
        prompts = {f"{c} {item}": caption_single(item, c) for c in COLOURS for item in ITEMS}
        classes = scenes.colour[:, 0] * len(ITEMS) + scenes.item[:, 0]
    else:
        prompts = {item: caption_single(item) for item in ITEMS}
        classes = scenes.item[:, 0]
    return ImageSet(name, list(render(scenes, photos)), classes, tuple(prompts), prompts, scenes.photo[:, 0])
