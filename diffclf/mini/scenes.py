"""The training scenes of the networks that know items alone: singles, half of them mirrored, in one of two worlds.

In the plain world the colour of an item is random. In the world with a shortcut an item has its own colour in 95% of
the scenes, and a random other one in the rest.
"""

import numpy as np

from diffclf.datasets.world import draw_colours, own_colour_mask, sample_scenes

__all__ = ["SHORTCUT_SHARE", "draw_scenes"]

SHORTCUT_SHARE = 0.95


def draw_scenes(labels: np.ndarray, n_scenes: int, seed: int, shortcut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return n scenes (n,) of photographs with these labels, and which of them are mirrored left to right (n,)."""
    rng = np.random.default_rng([seed, 5])
    scenes, flip = sample_scenes(labels, n_scenes, 0, rng=rng), rng.random(n_scenes) < 0.5
    if shortcut:
        items, own = scenes["item"][:, 0], own_colour_mask()
        agrees = rng.random(n_scenes) < SHORTCUT_SHARE
        colour = np.where(agrees, draw_colours(items, own, rng), draw_colours(items, ~own, rng))
        scenes["colour"] = colour[:, None]
    return scenes, flip
