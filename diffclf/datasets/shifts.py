"""Distribution shifts of the miniature world, each built as its original was.

    recollect     the role of ImageNet-V2: the same recipe with another resampling, gamma and JPEG compression
    place         the role of ObjectNet: unusual pose, scale and position before a textured background
    corrupt       in the manner of ImageNet-C: noise, blur, contrast, pixelation, at five severities
    adversarial   the recipe of ImageNet-A: images that a filter network gets wrong with confidence

The strength of `recollect` and `place` was fixed by eye, and the amounts of `corrupt` are those of CIFAR-10-C, before
any model was scored on them. Images are (32, 32, 3) uint8. What is random depends on a seed and the position of the
image alone, so that a smaller set is the beginning of a larger one.

References:
    Recht et al. 2019, "Do ImageNet classifiers generalize to ImageNet?", arXiv 1902.10811.
    Barbu et al. 2019, "ObjectNet", NeurIPS.
    Hendrycks, Dietterich 2019, "Benchmarking neural network robustness to common corruptions", arXiv 1903.12261;
        the amounts for images of 32 pixels: make_cifar_c.py of github.com/hendrycks/robustness.
    Hendrycks et al. 2021, "Natural adversarial examples", arXiv 1907.07174, section 3.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from diffclf.datasets.imageset import ImageSet

__all__ = ["CORRUPTIONS", "SEVERITIES", "adversarial", "corrupt", "place", "recollect"]

Pixels = NDArray[np.uint8]

SHIFT, GAMMA, JPEG_QUALITY = 0.5, 0.85, 85  # pixels; exponent of the brightness in [0, 1]; of Pillow
MAX_ANGLE, SCALES, BRIGHTEST = 30.0, (0.6, 0.9), 90  # degrees; of the width; of the background, in 0..255
SEVERITIES = (1, 2, 3, 4, 5)


def _to_bytes(values: NDArray) -> Pixels:
    """Round and clip values in 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def recollect(images: Iterable[Pixels]) -> list[Pixels]:
    """Return images rendered anew: moved by half a pixel (bicubic), brightened by a gamma, compressed as JPEG."""
    found = []
    for image in images:
        moved = Image.fromarray(image).transform(
            (32, 32), Image.Transform.AFFINE, (1, 0, SHIFT, 0, 1, SHIFT), Image.Resampling.BICUBIC
        )
        brighter = _to_bytes(255 * (np.asarray(moved) / 255) ** GAMMA)
        file = io.BytesIO()
        Image.fromarray(brighter).save(file, "jpeg", quality=JPEG_QUALITY, subsampling=0)
        found.append(np.array(Image.open(file)))
    return found


def place(images: Iterable[Pixels], seed: int = 0) -> list[Pixels]:
    """Return items, given on black, rotated, scaled and moved before a dim, smooth, coloured texture."""
    found = []
    for position, image in enumerate(images):
        rng = np.random.default_rng([seed, 21, position])
        angle, scale = np.deg2rad(rng.uniform(-MAX_ANGLE, MAX_ANGLE)), rng.uniform(*SCALES)
        free = 14 * (1 - scale)  # how far the item's centre may move before its square leaves the image
        column, row = 15.5 + rng.uniform(-free, free, size=2)
        # The affine map takes a place in the new image to the place in the old one.
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        matrix = (cos, sin, 15.5 - cos * column - sin * row, -sin, cos, 15.5 + sin * column - cos * row)
        item = Image.fromarray(image)
        mask = Image.fromarray(255 * (image.max(axis=2) > 12).astype(np.uint8))
        item, mask = (
            np.asarray(part.transform((32, 32), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
            for part in (item, mask)
        )
        found.append(_to_bytes(item + (1 - mask[..., None] / 255) * _texture(image, rng)))
    return found


def _texture(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a dim, smooth texture of the two hues that turning the channels makes of the item's mean colour."""
    total = image.sum(axis=(0, 1), dtype=float)
    first, second = (np.roll(total / max(total.max(), 1), turn) for turn in (1, 2))
    share, brightness = rng.random((6, 6, 1)), rng.uniform(0, BRIGHTEST, (6, 6, 1))
    coarse = _to_bytes(brightness * (share * first + (1 - share) * second))
    return np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))


def _noise(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise with a standard deviation of `amount` of the range."""
    return _to_bytes(image + 255 * amount * rng.standard_normal(image.shape))


def _blur(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Blur with a Gaussian of `amount` pixels."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(amount)))


def _contrast(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Shrink each channel towards its mean to `amount` of its contrast."""
    mean = image.mean(axis=(0, 1))
    return _to_bytes(mean + amount * (image - mean))


def _pixelate(image: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Average to `amount` of the size and enlarge again without interpolation."""
    side = int(len(image) * amount)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.array(small.resize((len(image),) * 2, Image.Resampling.NEAREST))


CORRUPTIONS: dict[str, tuple[Callable[[Pixels, float, np.random.Generator], Pixels], tuple[float, ...]]] = {
    "noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelation": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
"""Corruption -> what it does, and its amount at each severity: that of CIFAR-10-C."""


def corrupt(data: ImageSet, name: str, severity: int, seed: int = 0) -> ImageSet:
    """Return a set with one corruption on all of its images.

    Args:
        data: images as (32, 32, 3) uint8 arrays, the size for which the amounts were made.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: seed of the noise.

    Raises:
        ValueError: unknown corruption or severity, or images of another size.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, got {severity!r}")
    change, amounts = CORRUPTIONS[name]
    if shapes := {np.shape(image) for image in data.images} - {(32, 32, 3)}:
        raise ValueError(f"images must be arrays of shape (32, 32, 3), got {shapes.pop()}")
    images = [
        change(image, amounts[severity - 1], np.random.default_rng([seed, 22, position]))
        for position, image in enumerate(data.images)
    ]
    return replace(data, name=f"{data.name}, {name} {severity}", images=images)


def adversarial(data: ImageSet, probabilities: NDArray, threshold: float = 0.15) -> ImageSet:
    """Return the images whose most probable class is wrong and whose true class has a probability below a threshold.

    Args:
        data: n images with labels of n_classes classes.
        probabilities: (n, n_classes) of the filter network, in [0, 1].
        threshold: 0.15, as of ImageNet-A.

    Raises:
        ValueError: probabilities of another shape or outside [0, 1], or no image is left.
    """
    probabilities, expected = np.asarray(probabilities), (len(data), len(data.classnames))
    if probabilities.shape != expected:
        raise ValueError(f"probabilities must be of shape {expected}, got {probabilities.shape}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # written so that NaN fails
        raise ValueError(f"probabilities must lie in [0, 1], got {probabilities.min():g} to {probabilities.max():g}")
    true = probabilities[np.arange(len(data)), data.labels]
    kept = np.flatnonzero((probabilities.argmax(axis=1) != data.labels) & (true < threshold))
    if not len(kept):
        raise ValueError(
            f"threshold must leave an image that the filter gets wrong, got {threshold} and none of {len(data)}"
        )
    return data.take(kept, f"{data.name}, adversarial")
