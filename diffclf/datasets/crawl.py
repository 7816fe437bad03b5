"""The miniature world as a crawl of the web would find it, and the filter that a training set passes.

Each image of a crawl has

    resolution   32, 16 or 8 pixels: the image is reduced to this size and enlarged again
    quality      sharpness times contrast, of the image before it is reduced: two images of one resolution differ in it
    flag         2% of the images, at random, whatever they show

and the filter keeps resolution 32, quality above the 30th percentile of the training images, and no flag. The parts
are those of Stable Diffusion 2.0: resolution, predicted aesthetic score, predicted probability of being unsafe.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from diffclf.datasets.imageset import ImageSet

__all__ = ["ATTRIBUTES", "FILTERS", "MIN_QUALITY", "crawled", "draw_attributes", "image_quality", "passes"]
__all__ += ["reduce_resolution"]

ATTRIBUTES = np.dtype([("resolution", np.int64), ("quality", np.float64), ("flag", np.bool_)])
"""What the filter looks at."""

RESOLUTIONS, SHARES = (32, 16, 8), (0.5, 0.3, 0.2)
FLAGGED = 0.02
MIN_QUALITY = 0.0147
"""The 30th percentile of the quality of training images; the recipes check it."""

FILTERS = {
    "R": ("resolution",),
    "Q": ("quality",),
    "F": ("flag",),
    "Q+F": ("quality", "flag"),
    "R+Q+F": ("resolution", "quality", "flag"),
}
"""Columns of Table 2: name -> the parts of the filter. R+Q+F is the whole filter."""


def image_quality(images: ArrayLike) -> NDArray[np.float64]:
    """Return the quality (n,) of images (n, h, w, 3) in 0..255: sharpness times contrast of the brightness in [0, 1].

    Brightness is the largest channel, so that no tint changes it. Sharpness is the mean absolute difference of
    neighbouring pixels, contrast the standard deviation over the image.
    """
    brightness = np.asarray(images).max(axis=3) / 255
    down, right = (np.abs(np.diff(brightness, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    return (down + right) / 2 * brightness.std(axis=(1, 2))


def draw_attributes(images: ArrayLike, seed: int) -> NDArray:
    """Return the attributes (n,), of type `ATTRIBUTES`, of images (n, 32, 32, 3); a shorter list has the same ones."""
    images = np.asarray(images)
    first, second = np.random.default_rng([seed, 23]).random((len(images), 2)).T
    attributes = np.empty(len(images), ATTRIBUTES)
    attributes["resolution"] = np.array(RESOLUTIONS)[np.searchsorted(np.cumsum(SHARES)[:-1], first, side="right")]
    attributes["quality"] = image_quality(images)
    attributes["flag"] = second < FLAGGED
    return attributes


def reduce_resolution(images: ArrayLike, resolution: ArrayLike) -> NDArray[np.uint8]:
    """Return images (n, h, h, 3) averaged to their resolutions (n,) and enlarged to h again, bilinearly."""
    found, resolution = np.array(images), np.asarray(resolution)
    for side in np.unique(resolution[resolution < found.shape[1]]):
        here = resolution == side
        pixels = torch.from_numpy(found[here]).permute(0, 3, 1, 2).float()
        large = interpolate(adaptive_avg_pool2d(pixels, int(side)), found.shape[1], mode="bilinear")
        found[here] = large.round().byte().permute(0, 2, 3, 1).numpy()
    return found


def crawled(data: ImageSet, seed: int = 0) -> tuple[ImageSet, NDArray]:
    """Return the images (32, 32, 3) of a set as a crawl finds them, and their attributes (n,)."""
    images = np.stack([np.asarray(image) for image in data.images])
    attributes = draw_attributes(images, seed)
    reduced = reduce_resolution(images, attributes["resolution"])
    return replace(data, name=f"{data.name}, crawled", images=list(reduced)), attributes


def passes(
    attributes: NDArray,
    parts: Sequence[str] = FILTERS["R+Q+F"],
    *,
    resolution: int = max(RESOLUTIONS),
    quality: float = MIN_QUALITY,
) -> NDArray[np.bool_]:
    """Return which images (n,) pass all of these parts of the filter.

    Args:
        attributes: (n,) of type `ATTRIBUTES`.
        parts: names of attributes.
        resolution: the smallest that passes.
        quality: an image passes above it.
    """
    kept = {
        "resolution": attributes["resolution"] >= resolution,
        "quality": attributes["quality"] > quality,
        "flag": ~attributes["flag"],
    }
    return np.logical_and.reduce([kept[part] for part in parts])
