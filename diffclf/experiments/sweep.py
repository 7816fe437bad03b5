"""Strategies on the images of a data set: one of them, or many on the same trials and noise.

A bank holds one error table per image. A sweep runs a strategy on the stored tables; where a table lacks an entry that
the strategy asks for, the entry is computed and stored. So what two strategies ask for is computed once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets.imageset import ImageSet
from diffclf.errortable import prompt_scores
from diffclf.experiments.accuracy import accuracies
from diffclf.images import load_images, to_pixels
from diffclf.pruning import Strategy, run_stored
from diffclf.search import search
from diffclf.stats import Estimate
from diffclf.trials import image_key

__all__ = ["Outcome", "Sweep", "run_once"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One strategy on n images.

    Attributes:
        chosen: (n,) the class that it chose.
        right: (n,) whether that is the label.
        spent: (n,) denoiser evaluations.
        scores: (n, n_classes) minus the mean errors; None where they were not kept.
    """

    chosen: NDArray[np.int64]
    right: NDArray[np.bool_]
    spent: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None

    @property
    def cost(self) -> float:
        """Mean denoiser evaluations per image."""
        return float(self.spent.mean())

    def accuracy(self, groups: NDArray) -> Estimate:
        """Return the accuracy in points; groups (n,) are the photographs that the images were made of."""
        return 100 * accuracies(self.right[:, None], groups)[0]


def run_once(bank: ErrorBank, data: ImageSet, strategy: Strategy, desc: str = "images") -> Outcome:
    """Run one strategy among the classes of a data set, whose prompts are the bank's; no table is kept in memory.

    A class of several prompts scores as the best of them.
    """
    rows, spent = [], []
    names = [data.classnames[place] for place in data.owners(bank.model.labels)]
    for table in search(bank, data.images, strategy.prepare(bank.model, names), classnames=names, desc=desc):
        rows.append(prompt_scores(table.errors)[: len(names)])
        spent.append(table.n_evaluations)
    scores = data.best(np.stack(rows), bank.model.labels)
    chosen = scores.argmax(axis=1)
    return Outcome(chosen, chosen == data.labels, np.array(spent), scores)


class Sweep:
    """Runs strategies on the images of a data set.

    Args:
        bank: bank of one loss, whose first prompts are those of the classes; further prompts are nodes of a label tree.
        data: the images.

    Attributes:
        tables: (n_images, n_prompts, n_trials) all errors that are known, NaN elsewhere.
    """

    def __init__(self, bank: ErrorBank, data: ImageSet) -> None:
        self.bank, self.data = bank, data
        how = bank.model.image_size, bank.model.halves_large_images
        self._pixels = [to_pixels(image, *how) for image in load_images(data.images)]
        self._keys = [image_key(pixels) for pixels in self._pixels]
        self.tables = np.stack([self._stored(place) for place in range(len(data))])

    def _stored(self, place: int) -> NDArray[np.float32]:
        return self.bank.load(self._keys[place], self.bank.prompts)[..., 0]

    def prepare(self, strategy: Strategy) -> Strategy:
        """Return a strategy as it is run here: with the bank's model, among the classes of the data set."""
        names = self.data.classnames
        return strategy.prepare(self.bank.model, names).only(range(len(names)))

    def _table(self, strategy: Strategy, place: int, n_trials: int) -> NDArray[np.float32] | None:
        """Return the entries that a prepared strategy asks for on one image; None if one of them is not known."""
        try:
            return run_stored(strategy.for_image(self._pixels[place]), self.tables[place, :, :n_trials])
        except ValueError:
            return None

    def run(self, strategy: Strategy, desc: str | None = None) -> Outcome:
        """Run a strategy on all images; desc stands before the progress bar where entries have to be computed."""
        strategy = self.prepare(strategy)
        n_trials = len(strategy.trial_list(len(self.bank.model.schedule)))
        tables = {place: self._table(strategy, place, n_trials) for place in range(len(self.data))}
        lacking = [place for place, table in tables.items() if table is None]
        if lacking:
            images = [self.data.images[place] for place in lacking]
            for found in search(self.bank, images, strategy, ordered=False, desc=desc or str(strategy)[:40]):
                place = lacking[found.position]
                self.tables[place] = self._stored(place)
                tables[place] = self._table(strategy, place, n_trials)
        chosen = [prompt_scores(tables[place][: len(self.data.classnames)]).argmax() for place in range(len(tables))]
        spent = [(~np.isnan(tables[place])).sum() for place in range(len(tables))]
        return Outcome(np.array(chosen), np.array(chosen) == self.data.labels, np.array(spent))
