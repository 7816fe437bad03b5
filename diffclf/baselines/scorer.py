"""What every baseline is: a function of one image's pixels that gives a score per prompt."""

from typing import Protocol, runtime_checkable

from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Scorer"]


@runtime_checkable
class Scorer(Protocol):
    """Scores an image against prompts that are fixed when the scorer is made; a `Shortlist` takes it as it is.

    Attributes:
        name: what tables and figures call it.
    """

    name: str

    def __call__(self, pixels: Tensor) -> NDArray:
        """Return (n_prompts,) scores, higher is better.

        Args:
            pixels: (3, S, S) float32 in [-1, 1], S as the scorer was made for.
        """
        ...
