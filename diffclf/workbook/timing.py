"""Seconds per image of a live classifier, measured where the notebook runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffclf.classifier import DiffusionClassifier
from diffclf.errortable import ErrorTable

__all__ = ["Timing", "time_images"]


@dataclass(frozen=True)
class Timing:
    """How long a classifier took.

    Attributes:
        seconds: (n_repeats, n_images) wall time of each image, one image at a time.
        tables: the error table of each image.
    """

    seconds: np.ndarray
    tables: list[ErrorTable]

    @property
    def median(self) -> float:
        """Median seconds per image, over images and repeats."""
        return float(np.median(self.seconds))

    @property
    def evaluations(self) -> float:
        """Mean denoiser evaluations per image."""
        return float(np.mean([table.n_evaluations for table in self.tables]))

    def summary(self) -> dict[str, float]:
        """Return evaluations and seconds per image: the median, the fastest and the slowest run."""
        return {
            "evaluations": self.evaluations,
            "seconds": self.median,
            "fastest": float(self.seconds.min()),
            "slowest": float(self.seconds.max()),
        }


def time_images(classifiers: dict[str, DiffusionClassifier], images: Sequence, repeats: int = 3) -> dict[str, Timing]:
    """Return name -> timing of each classifier.

    The classifiers take turns on every image, so that a machine that slows down slows all of them; each is warmed up
    on the first image.

    Args:
        classifiers: name -> classifier.
        images: n images.
        repeats: times that every image is classified.

    Raises:
        ValueError: no image, or fewer than one repeat.
    """
    if not len(images) or repeats < 1:
        raise ValueError(f"images and repeats must be at least 1, got {len(images)} and {repeats}")
    for classifier in classifiers.values():
        classifier.errors(images[0])
    seconds = {name: np.empty((repeats, len(images))) for name in classifiers}
    tables: dict[str, list[ErrorTable]] = {name: [] for name in classifiers}
    for repeat in range(repeats):
        for number, image in enumerate(images):
            for name, classifier in classifiers.items():
                began = time.perf_counter()
                table = classifier.errors(image)
                seconds[name][repeat, number] = time.perf_counter() - began
                if repeat == 0:
                    tables[name].append(table)
    return {name: Timing(seconds[name], tables[name]) for name in classifiers}
