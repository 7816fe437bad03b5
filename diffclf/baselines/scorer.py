"""What every baseline is: a function of one image's pixels that returns a score per prompt."""

from typing import Protocol

from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Scorer"]


class Scorer(Protocol):
    """Scores an image against prompts that are fixed when the scorer is made; a `Shortlist` takes it as its scorer."""

    name: str

    def __call__(self, pixels: Tensor) -> NDArray:
        """Return (n_prompts,) scores, higher is better, of preprocessed pixels (3, S, S) in [-1, 1]."""
