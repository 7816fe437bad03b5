"""Questions about scenes: which of several captions describes this image?

Each image has captions of its own, one of them true. They measure what a model has learned of colour, binding and
relation, and play the part of Winoground's pairs.
"""

from dataclasses import dataclass

import numpy as np

from diffclf.datasets.embedded import single_scenes
from diffclf.mini.photos import load_photos
from diffclf.mini.world import (
    COLOURS,
    ITEMS,
    LAYOUTS,
    OPPOSITE,
    caption_pair,
    caption_single,
    render,
    sample_scenes,
)

__all__ = ["TASKS", "CaptionTask", "caption_task"]

TASKS = ("colour", "binding", "relation")


@dataclass(frozen=True)
class CaptionTask:
    """Images with their own captions.

    Attributes:
        images: (n, 32, 32, 3) uint8.
        captions: n lists of the same length; the first caption of each is true.
        groups: (n,) int64, the (first) photograph each image was made of.
    """

    images: np.ndarray
    captions: list[list[str]]
    groups: np.ndarray


def caption_task(name: str, split: str = "test", n_images: int = 1000, seed: int = 0) -> CaptionTask:
    """Return images and their captions.

    "colour": one item, six captions that differ in the colour, "a photo of a red sneaker"; "binding": two objects, the
    true caption and the one with the colours swapped; "relation": two objects, the true caption and the one with the
    relation turned round (left and right, above and below).

    Args:
        name: one of `TASKS`.
        split: part of the test file.
        n_images: how many.
        seed: seed of the scenes.

    Raises:
        ValueError: unknown name or split, or more images of one item than there are photographs.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {TASKS}, got {name!r}")
    photos, labels = load_photos(split)
    colours = list(COLOURS)
    if name == "colour":
        scenes = single_scenes(labels, n_images, seed, held_out=None)
        captions = []
        for item, colour in zip(scenes.item[:, 0], scenes.colour[:, 0], strict=True):
            order = [colours[colour], *(c for c in colours if c != colours[colour])]
            captions.append([caption_single(ITEMS[item], c) for c in order])
        return CaptionTask(render(scenes, photos), captions, scenes.photo[:, 0])
    scenes = sample_scenes(labels, 0, n_images, rng=np.random.default_rng([seed, 7]))
    captions = []
    for items, (first, second), code in zip(scenes.item, scenes.colour, scenes.layout, strict=True):
        a, b, layout = ITEMS[items[0]], ITEMS[items[1]], LAYOUTS[code]
        true = caption_pair((colours[first], a), layout, (colours[second], b))
        if name == "binding":
            false = caption_pair((colours[second], a), layout, (colours[first], b))
        else:
            false = caption_pair((colours[first], a), OPPOSITE[layout], (colours[second], b))
        captions.append([true, false])
    return CaptionTask(render(scenes, photos), captions, scenes.photo[:, 0])
