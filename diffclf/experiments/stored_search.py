"""Searches on stored errors: what a pruning strategy decides, and at what cost.

A strategy asks for entries of an error table and gets stored ones. Any number of strategies can thus be compared on the
same images and the same noise. Tables hold the entries that the strategy asked for and NaN elsewhere.
"""

import numpy as np
from numpy.typing import NDArray

from diffclf.errortable import prompt_scores
from diffclf.pruning import Strategy, run_stored
from diffclf.search import ErrorSource, search

__all__ = ["agreement", "decisions", "evaluations", "run_stored_images", "search_errors"]


def run_stored_images(strategy: Strategy, errors: NDArray) -> NDArray:
    """Run a strategy on stored errors, whose first trials are its own: (n_images, n_prompts, own trials)."""
    n_trials = len(strategy.trial_list())
    return np.stack([run_stored(strategy, table[:, :n_trials]) for table in errors])


def search_errors(source: ErrorSource, images: object, strategy: Strategy, desc: str = "images") -> NDArray[np.float32]:
    """Run a strategy on a bank or a network: (n_images, n_prompts, own trials)."""
    return np.stack([table.errors for table in search(source, images, strategy, desc=desc)])


def decisions(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the prompt that each table decides for."""
    return np.array([prompt_scores(table).argmax() for table in tables])


def evaluations(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the denoiser evaluations behind each table."""
    return (~np.isnan(tables)).sum(axis=(1, 2))


def agreement(live: NDArray, stored: NDArray, rtol: float = 1e-4) -> NDArray[np.bool_]:
    """Return (n_images,) whether two tables have the same entries, the same errors to rtol and the same decision."""
    same = [np.allclose(a, b, rtol=rtol, atol=0, equal_nan=True) for a, b in zip(live, stored, strict=True)]
    return np.array(same) & (decisions(live) == decisions(stored))
