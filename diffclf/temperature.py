"""The temperature that turns scores into probabilities.

    p(c | image) = softmax_c (z_c / T),   T = argmin  mean over images of -log p(label | image)

The posterior of Eq. 6 has T = 1 with z = -D x mean error, D the number of latent elements. The errors of the elements
are not independent, so that its probabilities may be far from the share of right answers.

Source: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", arXiv 1706.04599.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["fit_temperature", "log_probabilities"]


def log_probabilities(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log softmax(logits / temperature), (n_images, n_classes)."""
    from scipy.special import log_softmax

    return log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature with the smallest mean negative log probability of the labels.

    Args:
        logits: (n_images, n_classes) scores at temperature 1.
        labels: (n_images,) positions of the true classes.

    Raises:
        ValueError: shapes that do not fit, no image, a true class without a score, or no minimum: every image is right,
            or the true classes do not score above the average class.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits must be (n_images, n_classes) with a label each, got {logits.shape}, {labels.shape}")
    rows = np.arange(len(labels))
    if not np.isfinite(logits[rows, labels]).all():
        image = int(np.flatnonzero(~np.isfinite(logits[rows, labels]))[0])
        raise ValueError(f"the true class of each image must have a score, got none for image {image}")

    right = np.mean(logits.max(axis=1) == logits[rows, labels])
    above = logits[rows, labels] - np.where(np.isfinite(logits), logits, logits[rows, labels][:, None]).mean(axis=1)
    if right == 1 or above.mean() <= 0:
        kind = "answers both right and wrong" if right == 1 else "true classes that score above the average class"
        raise ValueError(f"images must have {kind}, got {right:.0%} right of {len(labels)}: no temperature is best")

    def loss(log_temperature: float) -> float:
        return -log_probabilities(logits, np.exp(log_temperature))[rows, labels].mean()

    middle = np.log(np.abs(above).mean())
    return float(np.exp(minimize_scalar(loss, bounds=(middle - 18, middle + 18), options={"xatol": 1e-6}).x))
