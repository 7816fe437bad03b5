"""The miniature world: scenes of one or two tinted photographs on black, and the captions that describe them.

A scene is 32x32 RGB. A single shows one photograph (28x28) in one of six colours; a pair shows two at 16x16,
side by side or one above the other. Some (colour, item) combinations never occur in training, so that a
model can be asked about combinations of words it has never seen together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "ITEMS",
    "LAYOUTS",
    "OPPOSITE",
    "SIZE",
    "Scenes",
    "caption_pair",
    "caption_single",
    "held_out_mask",
    "render",
    "sample_scenes",
]

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

LAYOUTS = ("left", "right", "above", "below")
"""Where the first item of a pair lies, seen from the second."""

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

SIZE = 32
_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_SINGLE, _HALF = 28, SIZE // 2


@dataclass(frozen=True)
class Scenes:
    """Many scenes in columns, all of length n; a single has layout -1 and repeats its item as the second.

    Attributes:
        photo: (n, 2) int64, index of the first and second photograph.
        item: (n, 2) int64, their labels, positions in `ITEMS`.
        colour: (n, 2) int64, positions in `COLOURS`.
        layout: (n,) int64, position of the first item in `LAYOUTS`, or -1 for a single.
    """

    photo: np.ndarray
    item: np.ndarray
    colour: np.ndarray
    layout: np.ndarray

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, index: slice | np.ndarray) -> "Scenes":
        return Scenes(self.photo[index], self.item[index], self.colour[index], self.layout[index])

    def objects(self) -> list[list[tuple[str, str]]]:
        """Return the names (colour, item) of the first and the second object of each scene."""
        colours = list(COLOURS)
        pairs = zip(self.colour, self.item, strict=True)
        return [[(colours[c], ITEMS[k]) for c, k in zip(*pair, strict=True)] for pair in pairs]

    @staticmethod
    def concatenate(parts: Sequence["Scenes"]) -> "Scenes":
        """Return the scenes of several in one."""
        columns = zip(*((part.photo, part.item, part.colour, part.layout) for part in parts), strict=True)
        return Scenes(*(np.concatenate(column) for column in columns))


def held_out_mask() -> np.ndarray:
    """Return (6 colours, 10 items) bool, True where the combination never occurs in training."""
    mask = np.zeros((len(COLOURS), len(ITEMS)), dtype=bool)
    for colour, item in HELD_OUT:
        mask[list(COLOURS).index(colour), ITEMS.index(item)] = True
    return mask


def sample_scenes(
    labels: np.ndarray,
    n_single: int,
    n_pair: int,
    *,
    rng: np.random.Generator,
    held_out: bool | None = False,
) -> Scenes:
    """Draw scenes at random: every photograph in turn (in random order), a uniform colour, a uniform layout.

    Args:
        labels: (n_photos,) int64 labels of the photographs to draw from.
        n_single: scenes of one item.
        n_pair: scenes of two items; the two differ in item and in colour, so that swapping colours changes the scene.
        rng: source of all randomness.
        held_out: False for combinations seen in training, True for held-out ones only, None for all.

    Returns:
        n_single + n_pair scenes, singles first.
    """
    mask = held_out_mask()
    allowed = np.ones_like(mask) if held_out is None else mask == held_out

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Photographs in random order, each photograph as often as any other, with an allowed colour."""
        usable = np.flatnonzero(allowed.any(axis=0)[labels])
        rounds = -(-n // len(usable)) if n else 0
        photo = np.concatenate([rng.permutation(usable) for _ in range(rounds)] or [usable[:0]])[:n]
        weight = allowed[:, labels[photo]].T * rng.random((n, len(COLOURS)))
        return photo, weight.argmax(axis=1)

    photo, colour = draw(n_single)
    first, first_colour = draw(n_pair)
    second, second_colour = draw(n_pair)
    clash = (labels[first] == labels[second]) | (first_colour == second_colour)
    while clash.any():
        index = np.flatnonzero(clash)
        second[index], second_colour[index] = draw(len(index))
        clash = (labels[first] == labels[second]) | (first_colour == second_colour)
    photos = np.concatenate([np.stack([photo, photo], 1), np.stack([first, second], 1)])
    colours = np.concatenate([np.stack([colour, colour], 1), np.stack([first_colour, second_colour], 1)])
    layout = np.concatenate([np.full(n_single, -1), rng.integers(len(LAYOUTS), size=n_pair)])
    return Scenes(photos, labels[photos], colours, layout)


def _tint(photos: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Multiply grey photographs (n, h, w) by their colours: (n, h, w, 3) uint8."""
    tints = np.array(list(COLOURS.values()), dtype=np.float32)[colour] / 255
    return (photos[..., None].astype(np.float32) * tints[:, None, None, :]).round().astype(np.uint8)


def render(scenes: Scenes, photos: np.ndarray) -> np.ndarray:
    """Draw scenes of photographs (n_photos, 28, 28) as (n, 32, 32, 3) uint8 images."""
    canvas = np.zeros((len(scenes), SIZE, SIZE, 3), dtype=np.uint8)
    single = scenes.layout < 0
    edge = (SIZE - _SINGLE) // 2
    canvas[single, edge : edge + _SINGLE, edge : edge + _SINGLE] = _tint(
        photos[scenes.photo[single, 0]], scenes.colour[single, 0]
    )
    if single.all():
        return canvas
    pair = np.flatnonzero(~single)
    middle = (SIZE - _HALF) // 2
    corner = {"left": (middle, 0), "right": (middle, _HALF), "above": (0, middle), "below": (_HALF, middle)}
    for which in (0, 1):
        small = adaptive_avg_pool2d(torch.from_numpy(photos[scenes.photo[pair, which]]).float(), _HALF).numpy()
        tinted = _tint(small, scenes.colour[pair, which])
        for code, layout in enumerate(LAYOUTS):
            row, column = corner[layout if which == 0 else OPPOSITE[layout]]
            here = scenes.layout[pair] == code
            canvas[pair[here], row : row + _HALF, column : column + _HALF] = tinted[here]
    return canvas


def caption_single(item: str, colour: str | None = None) -> str:
    """Describe a scene of one item: "a photo of a sneaker", "a photo of a red sneaker"."""
    return f"a photo of a {colour} {item}" if colour else f"a photo of a {item}"


def caption_pair(first: tuple[str, str], layout: str, second: tuple[str, str]) -> str:
    """Describe a scene of two (colour, item) objects: "a red sneaker to the left of a blue bag"."""
    return f"a {' '.join(first)} {_WORDS[layout]} a {' '.join(second)}"
