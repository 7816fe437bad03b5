"""The recipes of all embedded models by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from diffclf.mini import dit, sd
from diffclf.mini.training import Job

__all__ = ["RECIPES", "Recipe"]


class Recipe(NamedTuple):
    """How an embedded model is made.

    Attributes:
        train: trains and exports it.
        draw_samples: folder of the model -> samples, in rows of ten.
        hours: that the training takes on one thread of a CPU, about.
    """

    train: Callable[[Job], None]
    draw_samples: Callable[[Path], list[Image]]
    hours: float


RECIPES = {
    "mini-sd": Recipe(sd.train_mini_sd, sd.draw_samples, hours=1.2),
    "mini-dit": Recipe(dit.train_mini_dit, dit.draw_samples, hours=1.6),
}
