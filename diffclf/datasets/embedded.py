"""The embedded sets: scenes of Fashion-MNIST photographs never seen in training, and what is asked about them.

Class sets have one tinted photograph per image and a prompt per class:

    mini-items            10 classes, "a photo of a sneaker", in colours seen with the item in training
    mini-coloured-items   60 classes, "a photo of a red sneaker", held-out combinations included
    mini-held-out         the same 60 classes, images of held-out combinations only
    mini-colours          6 classes, "a photo of a red", an unfinished caption that leaves the item open
    mini-footwear         3 classes of mini-items that look alike, and its images of them
    mini-tops             5 classes of mini-items that look alike, and its images of them

Two sets show two objects side by side; their classes are the left and the right one, each among the 60 coloured items:

    mini-pairs            3600 classes, "a red sneaker to the left of a blue bag"
    mini-bag-pairs        360 classes, the right object is a bag of any colour

The sets of 60 classes and more have a label tree: coloured items lie below their items, pairs below their left objects.
The prompt of a left object is an unfinished caption, "a red sneaker to the left of a".

and shifted ones (`diffclf.datasets.shifts`), of the ten classes of mini-items:

    mini-v2               collected anew: photographs of split "v2" in the place of "test", rendered in another way
    mini-o                unusual pose, scale and position before a textured background
    mini-own-colour       each item in the colour that it mostly has in the world with a shortcut
    mini-other-colour     the same photographs in the same order, each in a random other colour

Caption sets ask which of several captions describes the scene; the first caption of each image is the true one. They
measure what a model knows of colour, binding and relation, and play the part of Winoground's pairs:

    mini-colour           one item, six captions that differ in the colour: "a photo of a red sneaker"
    mini-binding          two objects, the true caption and the one with the colours swapped
    mini-relation         two objects, the true caption and the one with the opposite relation (left - right, ...)
"""

from collections.abc import Collection

import numpy as np

from diffclf.datasets import world
from diffclf.datasets.imageset import ImageSet, n_taken
from diffclf.datasets.photos import SPLITS, load_photos
from diffclf.datasets.shifts import place, recollect
from diffclf.datasets.world import COLOURS, ITEMS, LAYOUTS, caption_pair, caption_single

__all__ = ["CAPTION_SETS", "CLASS_SETS", "PAIR_SETS", "load_embedded"]

SHIFTED_SETS = ("mini-v2", "mini-o", "mini-own-colour", "mini-other-colour")
PAIR_SETS = ("mini-pairs", "mini-bag-pairs")
ITEM_SETS = {
    "mini-footwear": ("sandal", "sneaker", "boot"),
    "mini-tops": ("t-shirt", "pullover", "dress", "coat", "shirt"),
}
"""Sets of similar items, by name."""
COLOUR_SETS = ("mini-coloured-items", "mini-held-out", "mini-colours")
CLASS_SETS = ("mini-items", *ITEM_SETS, *COLOUR_SETS, *PAIR_SETS, *SHIFTED_SETS)
CAPTION_SETS = ("mini-colour", "mini-binding", "mini-relation")
BLOCK = 1000  # pairs are drawn in blocks of this size, so that a smaller set is the beginning of a larger one


def load_embedded(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Return one of the embedded sets.

    Args:
        name: one of `CLASS_SETS` or `CAPTION_SETS`.
        split: "tune", "test", "v2" or "pool"; "test" of mini-v2 has the photographs of "v2".
        n_images: how many, at most the photographs of the split; None for as many.
        seed: seed of the choice of photographs and colours.

    Raises:
        ValueError: unknown name or split, or too many images.
    """
    if name not in (*CLASS_SETS, *CAPTION_SETS):
        raise ValueError(f"embedded data set must be one of {[*CLASS_SETS, *CAPTION_SETS]}, got {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split of {name} must be one of {list(SPLITS)}, got {split!r}")
    photos, labels = load_photos("v2" if (name, split) == ("mini-v2", "test") else split)
    if name in PAIR_SETS:
        return _pairs(name, photos, labels, n_images, seed)
    if name in ("mini-binding", "mini-relation"):
        scenes = _sample_pairs(labels, n_taken(n_images, len(labels)), seed)
    else:
        scenes = _singles(labels, seed, _allowed_colours(name), ITEM_SETS.get(name, ITEMS))
        scenes = scenes[: n_taken(n_images, len(scenes))]
    images, groups = list(world.render(scenes, photos)), scenes["photo"][:, 0]
    if name == "mini-v2":
        images = recollect(images)
    elif name == "mini-o":
        images = place(images, seed)
    if name in CAPTION_SETS:
        pairs = zip(world.named_objects(scenes), scenes["layout"], strict=True)
        captions = [_captions(name, *objects, LAYOUTS[layout]) for objects, layout in pairs]
        return ImageSet(name, images, np.zeros(len(images), dtype=np.int64), (), {}, groups, captions)
    item, colour = scenes["item"][:, 0], scenes["colour"][:, 0]
    tree: dict[str, list[str]] = {}
    if name == "mini-colours":
        classes, prompts = colour, {c: f"a photo of a {c}" for c in COLOURS}
    elif name in COLOUR_SETS:
        classes = colour * len(ITEMS) + item
        prompts = {f"{c} {i}": caption_single(i, c) for c in COLOURS for i in ITEMS}
        tree = {caption_single(i): [f"{c} {i}" for c in COLOURS] for i in ITEMS}
    else:
        asked = ITEM_SETS.get(name, ITEMS)
        classes = np.searchsorted([ITEMS.index(i) for i in asked], item)
        prompts = {i: caption_single(i) for i in asked}
    return ImageSet(name, images, classes, tuple(prompts), prompts, groups, tree=tree)


def _sample_pairs(labels: np.ndarray, n_images: int, seed: int) -> np.ndarray:
    """Return scenes of two objects: the first ones of whole blocks."""
    rng = np.random.default_rng([seed, 7])
    blocks = [world.sample_scenes(labels, 0, BLOCK, rng=rng) for _ in range(0, n_images, BLOCK)]
    return np.concatenate(blocks)[:n_images]


def _pairs(name: str, photos: np.ndarray, labels: np.ndarray, n_images: int | None, seed: int) -> ImageSet:
    """Return a set whose classes are a left and a right object."""
    named = [(colour, item) for colour in COLOURS for item in ITEMS]
    scenes = _sample_pairs(labels, len(labels), seed)
    scenes["layout"] = LAYOUTS.index("left")
    rights = range(len(named))
    if name == "mini-bag-pairs":
        bag = ITEMS.index("bag")
        scenes, rights = scenes[scenes["item"][:, 1] == bag], range(bag, len(named), len(ITEMS))
    scenes = scenes[: n_taken(n_images, len(scenes))]
    prompts = {
        f"{' '.join(left)}, {' '.join(named[right])}": caption_pair(left, "left", named[right])
        for left in named
        for right in rights
    }
    left, right = (scenes["colour"] * len(ITEMS) + scenes["item"]).T
    classes = left * len(rights) + np.searchsorted(np.array(rights), right)
    names, n = list(prompts), len(rights)
    tree = {f"a {' '.join(left)} to the left of a": names[i * n : (i + 1) * n] for i, left in enumerate(named)}
    images = list(world.render(scenes, photos))
    return ImageSet(name, images, classes, tuple(names), prompts, scenes["photo"][:, 0], tree=tree)


def _allowed_colours(name: str) -> np.ndarray:
    """Return (6 colours, 10 items) bool, which colours the items of a set may have."""
    if name in ("mini-own-colour", "mini-other-colour"):
        return world.own_colour_mask() == (name == "mini-own-colour")
    held_out = world.held_out_mask()
    if name == "mini-held-out":
        return held_out
    return ~held_out if name in ("mini-items", *ITEM_SETS, "mini-v2", "mini-o") else np.ones_like(held_out)


def _singles(labels: np.ndarray, seed: int, allowed: np.ndarray, items: Collection[str]) -> np.ndarray:
    """Return a scene of each photograph of these items in random order, in colours that `allowed` (6, 10) has.

    An item without any allowed colour is left out.
    """
    rng = np.random.default_rng([seed, 5])
    photo = rng.permutation(len(labels))
    wanted = allowed.any(axis=0) & np.isin(ITEMS, list(items))
    photo = photo[wanted[labels[photo]]]
    colour = world.draw_colours(labels[photo], allowed, rng)
    return world.make_scenes(np.stack([photo] * 2, 1), labels, np.stack([colour] * 2, 1), np.full(len(photo), -1))


def _captions(name: str, first: tuple[str, str], second: tuple[str, str], layout: str) -> list[str]:
    """Return the true caption of two (colour, item) objects, then the false ones; a single has its object twice."""
    (colour, item), (second_colour, second_item) = first, second
    if name == "mini-colour":
        return [caption_single(item, c) for c in (colour, *(other for other in COLOURS if other != colour))]
    true = caption_pair(first, layout, second)
    if name == "mini-binding":
        return [true, caption_pair((second_colour, item), layout, (colour, second_item))]
    return [true, caption_pair(first, world.OPPOSITE[layout], second)]
