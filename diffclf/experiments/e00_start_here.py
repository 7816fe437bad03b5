"""One image, step by step: what notebook 00 costs, and which trials its error maps use.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 1 and Figure 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["N_MAPS", "evaluations", "middle_half"]

N_MAPS = 5
"""Prompts whose error maps are drawn: the right one, and at most four others."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of the network: the table twice, the error maps, and Figure 1."""
    n_classes, n_trials = settings["n_classes"], settings["n_trials"]
    figure = n_classes * settings["n_slider"] * settings["n_noises"]
    return 2 * n_classes * n_trials + min(N_MAPS, n_classes) * len(middle_half(range(n_trials))) + figure


def middle_half(timesteps: ArrayLike) -> NDArray[np.int64]:
    """Return the timesteps without the first and the last quarter of them."""
    timesteps = np.asarray(timesteps)
    quarter = len(timesteps) // 4
    return timesteps[quarter : len(timesteps) - quarter]
