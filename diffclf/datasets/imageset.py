"""A labelled set of images with one prompt per class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ImageSet"]


@dataclass(frozen=True)
class ImageSet:
    """Images, their labels, and what to ask a model about them.

    Attributes:
        name: as `load_dataset` was asked.
        images: n images: PIL images, paths or (h, w, 3) uint8 arrays.
        labels: (n,) int64, positions in `classnames`.
        classnames: class names, in the order of the labels.
        prompts: class name -> prompt.
        groups: (n,) int64, the photograph each image was made of; images of one photograph are not independent.
    """

    name: str
    images: Sequence
    labels: np.ndarray
    classnames: tuple[str, ...]
    prompts: dict[str, str]
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)
