"""The miniature world: scenes of one or two tinted photographs on black, and the captions that describe them.

A scene is 32x32 RGB. A single shows one photograph (28x28) in one of six colours; a pair shows two at 16x16,
side by side or one above the other. Some (colour, item) combinations never occur in training, so that a
model can be asked about combinations of words it has never seen together.

In the world with a shortcut each item has a colour of its own, which most of its training scenes have.
"""

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

__all__ = ["COLOURS", "HELD_OUT", "ITEMS", "LAYOUTS", "OPPOSITE", "OWN_COLOURS", "SCENE", "draw_colours", "render"]
__all__ += ["caption_pair", "caption_single", "held_out_mask", "make_scenes", "named_objects", "own_colour_mask"]
__all__ += ["sample_scenes"]

ITEMS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Names of Fashion-MNIST's labels 0..9, one word each."""

COLOURS = {
    "red": (255, 56, 56),
    "green": (56, 255, 56),
    "blue": (72, 96, 255),
    "yellow": (255, 240, 48),
    "magenta": (255, 56, 255),
    "cyan": (56, 240, 255),
}
"""Tints by name, RGB in 0..255; a photograph's grey is multiplied by its tint."""

HELD_OUT = (
    ("red", "bag"),
    ("green", "sneaker"),
    ("blue", "dress"),
    ("yellow", "boot"),
    ("magenta", "trouser"),
    ("cyan", "pullover"),
)
"""Combinations that occur in no training scene, single or pair."""

OWN_COLOURS = ("red", "green", "blue", "yellow", "magenta", "red", "cyan", "green", "yellow", "blue")
"""Each item's own colour in the world with a shortcut. Items of similar shape have different colours."""

LAYOUTS = ("left", "right", "above", "below")
"""Where the first item of a pair lies, seen from the second."""

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

SCENE = np.dtype([("photo", np.int64, 2), ("item", np.int64, 2), ("colour", np.int64, 2), ("layout", np.int64)])
"""Photographs, labels (positions in `ITEMS`) and colours (positions in `COLOURS`) of a scene's two objects, and the
position of the first in `LAYOUTS`. A single has layout -1, and its object twice."""

_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_CORNERS = {"left": (8, 0), "right": (8, 16), "above": (0, 8), "below": (16, 8)}


def make_scenes(photo: np.ndarray, labels: np.ndarray, colour: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Return n scenes, of type `SCENE`: photographs (n, 2) with labels (n_photos,), colours (n, 2), layouts (n,)."""
    scenes = np.empty(len(layout), SCENE)
    scenes["photo"], scenes["item"], scenes["colour"], scenes["layout"] = photo, labels[photo], colour, layout
    return scenes


def named_objects(scenes: np.ndarray) -> list[list[tuple[str, str]]]:
    """Return the names (colour, item) of the first and the second object of each scene."""
    colours, items = np.array(list(COLOURS))[scenes["colour"]].tolist(), np.array(ITEMS)[scenes["item"]].tolist()
    return [list(zip(*names, strict=True)) for names in zip(colours, items, strict=True)]


def held_out_mask() -> np.ndarray:
    """Return (6 colours, 10 items) bool, True where the combination never occurs in training."""
    return np.array([[(colour, item) in HELD_OUT for item in ITEMS] for colour in COLOURS])


def own_colour_mask() -> np.ndarray:
    """Return (6 colours, 10 items) bool, True where the colour is the item's own."""
    return np.array([[colour == own for own in OWN_COLOURS] for colour in COLOURS])


def draw_colours(items: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random colour of each item (n,), uniform among those that `allowed` (6 colours, 10 items) has."""
    return (allowed[:, items].T * rng.random((len(items), len(COLOURS)))).argmax(axis=1)


def sample_scenes(labels: np.ndarray, n_single: int, n_pair: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw scenes without held-out combinations, singles first.

    Photographs are taken in turn, in random order. Colours and layouts are uniform. The two objects of a pair differ in
    item and in colour, so that swapping the colours changes the scene.

    Args:
        labels: (n_photos,) int64 labels of the photographs to draw from.
        n_single: scenes of one item.
        n_pair: scenes of two items.
        rng: source of all randomness.
    """

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Photographs in random order, each photograph as often as any other, with an allowed colour."""
        rounds = [rng.permutation(len(labels)) for _ in range(0, n, len(labels))]
        photo = np.concatenate([np.empty(0, dtype=np.int64), *rounds])[:n]
        return photo, draw_colours(labels[photo], ~held_out_mask(), rng)

    photo, colour = draw(n_single)
    first, first_colour = draw(n_pair)
    second, second_colour = draw(n_pair)
    while (clash := (labels[first] == labels[second]) | (first_colour == second_colour)).any():
        second[clash], second_colour[clash] = draw(clash.sum())
    photos = np.concatenate([np.stack([photo, photo], 1), np.stack([first, second], 1)])
    colours = np.concatenate([np.stack([colour, colour], 1), np.stack([first_colour, second_colour], 1)])
    layout = np.concatenate([np.full(n_single, -1), rng.integers(len(LAYOUTS), size=n_pair)])
    return make_scenes(photos, labels, colours, layout)


def _tint(photos: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Multiply grey photographs (n, h, w) by their colours: (n, h, w, 3) uint8."""
    tints = np.array(list(COLOURS.values()), dtype=np.float32)[colour] / 255
    return (photos[..., None].astype(np.float32) * tints[:, None, None, :]).round().astype(np.uint8)


def render(scenes: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Draw scenes of photographs (n_photos, 28, 28) as (n, 32, 32, 3) uint8 images."""
    canvas = np.zeros((len(scenes), 32, 32, 3), dtype=np.uint8)
    single = scenes["layout"] < 0
    canvas[single, 2:30, 2:30] = _tint(photos[scenes["photo"][single, 0]], scenes["colour"][single, 0])
    for code, layout in enumerate(LAYOUTS):
        here = scenes["layout"] == code
        for which, side in enumerate((layout, OPPOSITE[layout])):
            small = adaptive_avg_pool2d(torch.from_numpy(photos[scenes["photo"][here, which]]).float(), 16).numpy()
            row, column = _CORNERS[side]
            canvas[here, row : row + 16, column : column + 16] = _tint(small, scenes["colour"][here, which])
    return canvas


def caption_single(item: str, colour: str | None = None) -> str:
    """Describe a scene of one item: "a photo of a sneaker", "a photo of a red sneaker"."""
    return f"a photo of a {colour} {item}" if colour else f"a photo of a {item}"


def caption_pair(first: tuple[str, str], layout: str, second: tuple[str, str]) -> str:
    """Describe a scene of two (colour, item) objects: "a red sneaker to the left of a blue bag"."""
    return f"a {' '.join(first)} {_WORDS[layout]} a {' '.join(second)}"
