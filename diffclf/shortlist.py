"""A shortlist: only the prompts that a cheap scorer likes best are searched.

The scorer sees the image and says how well each prompt fits, at a cost of its own that is not counted here: CLIP's
similarities, say. What it leaves out is never evaluated and cannot win, so the result is a hybrid of both models and no
longer the diffusion model's own decision.

Source: Li et al. 2023, arXiv 2303.16203, appendix B (CLIP ResNet-50 keeps 20 classes).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffclf.hierarchy import Tree
from diffclf.pruning import LeadsTo, Pruning

__all__ = ["Among", "Shortlist"]


@dataclass(frozen=True)
class Among(LeadsTo):
    """A strategy for some of the prompts; the others are never evaluated.

    Attributes:
        prompts: their indices, in the order of the prompts.
        then: the strategy.
    """

    prompts: tuple[int, ...]
    then: Pruning

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the mask of entries to evaluate next, or None when done."""
        chosen = list(self.prompts)
        wanted = self.then.next(errors[chosen])
        if wanted is None:
            return None
        mask = np.zeros(errors.shape, dtype=bool)
        mask[chosen] = wanted
        return mask

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs (at most)."""
        return self.then.evaluations(min(len(self.prompts), n_prompts), n_timesteps)

    def survivors(self, errors: np.ndarray) -> NDArray[np.int64]:
        """Return the prompts that the strategy could not tell apart; empty where it always decides."""
        chosen = np.array(self.prompts)
        survivors = getattr(self.then, "survivors", None)
        return chosen[:0] if survivors is None else chosen[survivors(errors[chosen])]


@dataclass(frozen=True)
class Shortlist(LeadsTo):
    """Keep the k prompts with the highest scores and search among them.

    Attributes:
        k: prompts to keep, at least 1; all, where there are no more.
        scorer: (3, S, S) pixels in [-1, 1], S the model's image size -> (n_prompts,) scores, higher is better.
        then: the strategy for those that are kept.
    """

    k: int
    scorer: Callable[[Tensor], np.ndarray]
    then: Pruning

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ValueError(f"k must be a whole number of at least 1, got {self.k!r}")
        if not callable(self.scorer):
            raise ValueError(f"scorer must be a function of an image's pixels, got {self.scorer!r}")

    def for_image(self, pixels: Tensor, n_prompts: int) -> Among | Tree:
        """Return the strategy for one image.

        Raises:
            ValueError: the scorer did not return one finite score per prompt.
        """
        scores = np.asarray(self.scorer(pixels), dtype=np.float64)
        if scores.shape != (n_prompts,) or not np.isfinite(scores).all():
            raise ValueError(
                f"scorer must return {n_prompts} finite scores, one per prompt, got shape {scores.shape}"
                + ("" if np.isfinite(scores).all() else " with NaN or infinity")
            )
        best = np.argsort(-scores, kind="stable")[: self.k]
        kept = tuple(np.sort(best).tolist())
        return self.then.only(kept) if isinstance(self.then, Tree) else Among(kept, self.then)

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs (at most), the scorer's own work not counted."""
        return self.then.evaluations(min(self.k, n_prompts), n_timesteps)
