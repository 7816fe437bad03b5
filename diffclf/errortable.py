"""The error table of one image: prompts by trials, and what follows from it.

    score of a prompt  = minus its mean error                                            (Li et al. 2023, Eq. 4)
    posterior          = softmax over classes of -D x mean error / temperature             (Eq. 6; D latent elements)

A prompt dropped early has had fewer trials than the winner. Trials differ in difficulty, so that its mean cannot be
compared; its mean paired difference to the winner on its own trials can (Eq. 8). Its score is therefore minus (the
winner's mean + that mean difference). It is never above the score of a prompt that was not dropped: the strategy has
judged the dropped prompt to be worse, and a few trials are no reason to rank it higher.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffclf.trials import Trials

__all__ = ["ErrorTable", "prompt_scores"]


def prompt_scores(errors: np.ndarray) -> np.ndarray:
    """Return (n_prompts,) scores of (n_prompts, n_trials) errors, NaN where nothing was evaluated.

    A score is minus a mean error, comparable between prompts of unequal trials. The prompts with the most trials are
    the survivors; the winner is the best of them, and no other prompt scores above the worst of them. A prompt without
    any error scores minus infinity. Raises ValueError if no prompt has an error.
    """
    known = ~np.isnan(errors)
    counts = known.sum(axis=1)
    if not counts.any():
        raise ValueError("at least one prompt must have been evaluated, got none")
    errors = errors.astype(np.float64)
    means = np.where(known, errors, 0).sum(axis=1) / np.maximum(counts, 1)
    survivors = np.flatnonzero(counts == counts.max())
    winner = survivors[means[survivors].argmin()]
    shared = known & known[winner]
    difference = np.where(shared, errors - errors[winner], 0).sum(axis=1) / np.maximum(shared.sum(axis=1), 1)
    dropped, worst = means[winner] + difference, means[survivors].max()
    dropped = np.where(dropped < worst, np.nextafter(worst, np.inf), dropped)
    return np.where(counts == 0, -np.inf, -np.where(counts == counts.max(), means, dropped))


@dataclass(frozen=True)
class ErrorTable:
    """Prediction errors of one image under every prompt.

    Attributes:
        losses: loss -> (n_prompts, n_trials) float32 errors, NaN where nothing was evaluated; `loss` decides.
        prompts: (n_prompts,) texts, or class names of a class-conditional model.
        classnames: (n_prompts,) the class each prompt stands for.
        classes: (n_classes,) class names in the order given.
        undecided: (k,) names of the classes that a race could not tell apart; empty if it has one winner.
        position: position of the image among those that were searched together.
    """

    losses: dict[str, np.ndarray]
    loss: str
    trials: Trials
    prompts: Sequence[str]
    classnames: Sequence[str]
    classes: Sequence[str]
    n_evaluations: int
    undecided: tuple[str, ...] = ()
    position: int = 0

    def __repr__(self) -> str:
        size = "{} prompts x {} trials".format(*self.errors.shape)
        return f"ErrorTable({size}, {self.n_evaluations} evaluations, loss={self.loss!r})"

    @property
    def errors(self) -> np.ndarray:
        """(n_prompts, n_trials) errors of the deciding loss."""
        return self.losses[self.loss]

    @property
    def timesteps(self) -> np.ndarray:
        """(n_trials,) timestep of each trial."""
        return self.trials.timesteps

    def noise(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return eps of some trials, (n, C, H, W) float32: enough to recompute any entry by hand."""
        return self.trials.noise(indices)

    def scores(self) -> np.ndarray:
        """Return (n_classes,) scores, minus mean errors; a class scores as its best prompt."""
        by_prompt = prompt_scores(self.errors)
        names = np.asarray(self.classnames)
        return np.array([by_prompt[names == name].max() for name in self.classes])

    def proba(self, temperature: float = 1.0) -> np.ndarray:
        """Return (n_classes,) posterior probabilities under a uniform prior (Eq. 6 at temperature 1)."""
        logits = self.scores() * math.prod(self.trials.latent_shape) / temperature
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    @property
    def predicted(self) -> str:
        """Name of the class with the best score; the first of them in a tie."""
        return self.classes[int(self.scores().argmax())]

    @property
    def tie(self) -> tuple[str, ...]:
        """Names of the classes not told apart, undecided or of exactly the best score; empty if one has won."""
        if self.undecided:
            return self.undecided
        scores = self.scores()
        best = np.flatnonzero(scores == scores.max())
        return tuple(self.classes[i] for i in best) if len(best) > 1 else ()
