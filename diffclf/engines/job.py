"""What a worker does: it loads a model by itself and brings the entries of images in a bank up to a strategy."""

import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.datasets.folder import unreadable
from diffclf.images import ImageLike
from diffclf.models import load_model
from diffclf.pruning import Strategy
from diffclf.search import BATCHES_AT_ONCE, IMAGES_IN_FLIGHT, search

__all__ = ["Done", "Item", "Job", "block_size"]

Item = tuple[int, ImageLike, str]
"""An image for a worker: its position among all images, the image or its path, its name in messages."""


class Done(NamedTuple):
    """What became of a block of images."""

    n_images: int
    n_evaluations: int  # that were not in the bank
    failed: dict[int, str]  # position of an image that cannot be used -> the reason


@dataclass(frozen=True)
class Job:
    """Filling a bank with the errors that a strategy asks for; it can be pickled.

    Attributes:
        load: arguments of `load_model`.
        bank: the bank's own folder, which the workers share; they refuse to fill another one.
        strategy: the strategy, prepared.
        options: seed, losses and batch_size of the bank; the first loss decides.
    """

    load: Mapping[str, Any]
    bank: Path
    prompts: Sequence[str | int]
    strategy: Strategy
    options: Mapping[str, Any]

    def open(self, device: str | None = None) -> ErrorBank:
        """Return the bank with a model loaded on a device (None: that of `load`).

        Raises ValueError if weights, precision or version of the package are others than where the job was made.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever made the job has seen the same warnings
            model = load_model(**self.load | ({} if device is None else {"device": device}))
            trials = self.strategy.trial_list(len(model.schedule))
            bank = ErrorBank(self.bank.parent, model, self.prompts, trials, **self.options)
        if bank.path.name != self.bank.name:
            own = {name: bank.identity[name] for name in ("weights", "dtype", "format")}
            raise ValueError(
                f"the worker on {socket.gethostname()} must fill bank {self.bank.name}, got {bank.path.name} with "
                f"{own}; install the same diffclf, model files and --dtype on all machines"
            )
        return bank

    def fill(self, bank: ErrorBank, items: Sequence[Item]) -> Done:
        """Compute what the bank lacks of a block of images; one that cannot be used stops no other."""
        before, bad = bank.n_evaluations, unreadable((image, name) for _, image, name in items)
        usable = [image for place, (_, image, _) in enumerate(items) if place not in bad]
        if usable:
            for _ in search(bank, usable, self.strategy, ordered=False, desc=None):
                pass
        return Done(len(items), bank.n_evaluations - before, {items[place][0]: bad[place] for place in bad})


def block_size(bank: ErrorBank, strategy: Strategy, n_images: int, n_workers: int) -> int:
    """Return how many images a worker takes at once.

    They are enough for `BATCHES_AT_ONCE` batches of what the strategy asks for first, so that the last, partly filled
    batches of a block weigh little; no more than a search has in flight, which is what a lost worker loses; and few
    enough that each worker gets sixteen blocks, so that all end at about the same time.
    """
    unknown = np.full((len(bank.prompts), len(bank.trials)), np.nan, dtype=np.float32)
    asked = int(strategy.next(unknown).sum())
    full = -(-BATCHES_AT_ONCE * bank.evaluator.batch_size // asked)
    return max(1, min(IMAGES_IN_FLIGHT, full, n_images // (16 * n_workers)))
