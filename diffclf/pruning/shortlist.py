"""Search among the prompts that a cheap scorer likes best.

The scorer sees the image and returns a score per prompt: similarities of CLIP, say. Its own work is not
counted as denoiser evaluations. Prompts that it leaves out are never evaluated and cannot win, so that the result is a
hybrid of both models.

Source: Li et al. 2023, arXiv 2303.16203, appendix B (CLIP ResNet-50 keeps 20 classes).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning.base import Strategy, Wrapped, check_count

__all__ = ["Shortlist"]


@dataclass(frozen=True)
class Shortlist(Wrapped):
    """Keep the k prompts with the highest scores and search among them.

    Attributes:
        k: prompts to keep, at least 1; all of them where there are no more.
        scorer: (3, S, S) pixels in [-1, 1], S the model's image size -> (n_prompts,) scores, higher is better.
        n_prompts: number of prompts, once the shortlist is prepared.
    """

    k: int
    scorer: Callable[[Tensor], NDArray]
    then: Strategy
    n_prompts: int | None = None

    def __post_init__(self) -> None:
        check_count("k", self.k)
        if not callable(self.scorer):
            raise ValueError(f"scorer must be a function of an image's pixels, got {self.scorer!r}")

    @override
    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> "Shortlist":
        return replace(super().prepare(model, classnames), n_prompts=len(classnames))

    @override
    def for_image(self, pixels: Tensor) -> Strategy:
        scores = np.asarray(self.scorer(pixels), dtype=np.float64)
        if scores.ndim != 1 or self.n_prompts not in (None, len(scores)) or not np.isfinite(scores).all():
            raise ValueError(
                f"scorer must return {self.n_prompts or ''} finite scores, one a prompt, got {scores!r:.80}"
            )
        best = np.argsort(-scores, kind="stable")[: self.k]
        return self.then.only(np.sort(best).tolist())

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        raise ValueError("a shortlist must be made for an image (for_image) before it is run")

    @override
    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        return self.then.evaluations(min(self.k, n_prompts), n_timesteps)
