"""The embedded caption sets: which of several captions describes this scene?

    mini-colour     one item, six captions that differ in the colour: "a photo of a red sneaker"
    mini-binding    two objects, the true caption and the one with the colours swapped
    mini-relation   two objects, the true caption and the one with the opposite relation (left - right, above - below)

The first caption of each image is the true one. The sets measure what a model knows of colour, binding and relation;
they play the part of Winoground's pairs.
"""

import numpy as np

from diffclf.datasets.embedded import single_scenes
from diffclf.datasets.imageset import ImageSet, n_taken
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import (
    COLOURS,
    LAYOUTS,
    OPPOSITE,
    Scenes,
    caption_pair,
    caption_single,
    render,
    sample_scenes,
)

__all__ = ["CAPTION_SETS", "load_captions"]

CAPTION_SETS = ("mini-colour", "mini-binding", "mini-relation")
BLOCK = 1000  # pairs are drawn in blocks of this size, so that a smaller set is the beginning of a larger one


def load_captions(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Return scenes with captions of their own.

    Args:
        name: one of `CAPTION_SETS`.
        split: "tune", "test", "v2" or "pool".
        n_images: how many, at most the photographs of the split; None for as many.
        seed: seed of the scenes.

    Raises:
        ValueError: unknown name or split, or too many images.
    """
    if name not in CAPTION_SETS:
        raise ValueError(f"caption set must be one of {CAPTION_SETS}, got {name!r}")
    photos, labels = load_photos(split)
    n_images = n_taken(n_images, len(labels))
    if name == "mini-colour":
        scenes = single_scenes(labels, n_images, seed, held_out=None)
    else:
        rng = np.random.default_rng([seed, 7])
        blocks = [sample_scenes(labels, 0, BLOCK, rng=rng) for _ in range(-(-n_images // BLOCK))]
        scenes = Scenes.concatenate(blocks)[:n_images]
    layouts = [LAYOUTS[code] for code in scenes.layout]  # of a single: unused
    captions = [_CAPTIONS[name](a, b, layout) for (a, b), layout in zip(scenes.objects(), layouts, strict=True)]
    true = np.zeros(n_images, dtype=np.int64)
    return ImageSet(name, list(render(scenes, photos)), true, (), {}, scenes.photo[:, 0], captions)


def _colour_captions(a: tuple[str, str], b: tuple[str, str], layout: str) -> list[str]:
    colour, item = a
    return [caption_single(item, c) for c in (colour, *(other for other in COLOURS if other != colour))]


def _binding_captions(a: tuple[str, str], b: tuple[str, str], layout: str) -> list[str]:
    return [caption_pair(a, layout, b), caption_pair((b[0], a[1]), layout, (a[0], b[1]))]


def _relation_captions(a: tuple[str, str], b: tuple[str, str], layout: str) -> list[str]:
    return [caption_pair(a, layout, b), caption_pair(a, OPPOSITE[layout], b)]


_CAPTIONS = {"mini-colour": _colour_captions, "mini-binding": _binding_captions, "mini-relation": _relation_captions}
