"""Any strategy with its timesteps in a part of the range, and how to choose that part on tune images.

    t -> floor(low T) + floor(t (high - low)),     0 <= low < high <= 1

Where the classes differ little at most timesteps, as for Stable Diffusion 3 on images unlike its training images, the
others add noise to the mean error and nothing else. The order, the noises and the even spread of the trials are kept.

Source: Jeong et al. 2025, "Diffusion classifiers understand compositionality, but conditions apply", arXiv 2505.17955.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning.base import Round, Strategy, Wrapped
from diffclf.trials import TrialList

__all__ = ["Within", "best_range"]


@dataclass(frozen=True)
class Within(Wrapped):
    """The strategy `then` with its timesteps between two shares of the model's T timesteps.

    A race in it takes no calibrated threshold of the model: thresholds are calibrated on the whole range.
    """

    low: float
    high: float
    then: Strategy

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"timesteps must be shares with 0 <= low < high <= 1, got {self.low} and {self.high}")

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        listed = self.then.trial_list(n_timesteps)
        timesteps = int(self.low * n_timesteps) + np.floor(listed.timesteps * (self.high - self.low)).astype(np.int64)
        return TrialList(timesteps, listed.noises)

    @override
    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> Self:
        then = self.then.prepare(SimpleNamespace(schedule=model.schedule, calibration=None), classnames)
        return replace(self, then=then)

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        return self.then.next(errors)

    @override
    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        return self.then.evaluations(n_prompts, n_timesteps)

    @override
    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        return self.then.undecided(errors)

    @override
    def rounds(self, errors: NDArray) -> Iterator[Round]:
        return self.then.rounds(errors)


def best_range(
    errors: NDArray, labels: ArrayLike, timesteps: ArrayLike, n_timesteps: int = 1000, parts: int = 10
) -> tuple[float, float]:
    """Return the range (low, high) of `Within` whose mean errors decide best on tune images.

    Candidates start and end at multiples of 1 / `parts`; the widest of equally accurate ranges wins. Use tune images,
    that no accuracy is measured on.

    Errors are (n_images, n_prompts, n_trials), of an error bank, say; labels (n_images,) the row of each image's true
    prompt; timesteps (n_trials,) those of the trials, spread over the whole range of `n_timesteps`.
    """
    place, labels = np.asarray(timesteps) * parts // n_timesteps, np.asarray(labels)
    found = []
    for low in range(parts):
        for high in range(low + 1, parts + 1):
            own = (low <= place) & (place < high)
            if own.any():
                right = errors[:, :, own].mean(axis=2, dtype=np.float64).argmin(axis=1) == labels
                found.append((float(right.mean()), high - low, -low))
    _, width, start = max(found)
    return -start / parts, (width - start) / parts
