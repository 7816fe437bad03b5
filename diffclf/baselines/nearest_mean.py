"""The nearest-mean classifier: minus the squared distance to each class's mean image.

It learns from labelled images, so it is no zero-shot classifier. In the miniature world it plays the part of CLIP in
the paper's appendix B: a cheap scorer that draws up a shortlist.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffclf.datasets.imageset import ImageSet
from diffclf.images import load_images, to_pixels

__all__ = ["NearestMean", "learn_nearest_mean"]


@dataclass(frozen=True, eq=False)
class NearestMean:
    """A `Scorer` by the mean pixels of each class, (n_classes, 3 S S) float32."""

    means: NDArray[np.float32]
    name: str = "nearest mean"

    def __call__(self, pixels: Tensor) -> NDArray[np.float64]:
        """Return (n_classes,) minus the squared distances of an image (3, S, S) to the means."""
        return -np.square(self.means - pixels.numpy().ravel()).sum(axis=1, dtype=np.float64)


def learn_nearest_mean(data: ImageSet, image_size: int = 32) -> NearestMean:
    """Return the classifier of images with labels; no image of them should be scored.

    Raises:
        ValueError: a class has no image.
    """
    counts = np.bincount(data.labels, minlength=len(data.classnames))
    if not counts.all():
        missing = [name for name, count in zip(data.classnames, counts, strict=True) if not count]
        raise ValueError(f"data must have an image of each class, got none of {', '.join(missing)}")
    pixels = np.stack([to_pixels(image, image_size).numpy().ravel() for image in load_images(data.images)])
    return NearestMean(np.stack([pixels[data.labels == label].mean(axis=0) for label in range(len(counts))]))
