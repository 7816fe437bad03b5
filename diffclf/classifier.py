"""The Diffusion Classifier (Li et al. 2023, arXiv 2303.16203): scikit-learn's interface to `diffclf.search`.

The classifier works with scikit-learn's tools (`clone`, `cross_val_score`, `GridSearchCV`) and does not need it.
"""

import inspect
import math
import os
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffclf.errortable import ErrorTable
from diffclf.evaluator import LOSSES, PLAIN, check_losses
from diffclf.images import list_images
from diffclf.models.protocol import DiffusionModel
from diffclf.prompts import Prompts, check_texts, label_indices, nfc, resolve_prompts
from diffclf.pruning import Racing, Round, Strategy
from diffclf.search import ErrorSource, search, stack_rows, watch
from diffclf.temperature import fit_temperature

__all__ = ["DiffusionClassifier"]


class DiffusionClassifier:
    """Classifies images by the prompt under which a diffusion model predicts the noise best.

    Args:
        model: the diffusion model (`load_model`).
        prompts: class name -> prompt or list of prompts; a class scores as its best prompt. For a class-conditional
            model None (all its labels), label names or indices.
        pruning: the strategy; None: `Racing()`, with the model's calibrated threshold where it has one.
        loss: the error that decides: "l2", "l1", "huber", "velocity" (of the output itself, for flow models), and "vlb"
            or "l2+vlb" where the variance is learned.
        batch_size: denoiser evaluations per forward pass; None chooses.
        temperature: of `predict_proba`; 1 is Eq. 6 as printed, `calibrate` fits it.

    Attributes:
        classes_: (n_classes,) class names, in the order given. scikit-learn's scorers of probabilities, like
            "neg_log_loss", need an alphabetical order.
        strategy_: the strategy as it is run with this model and these prompts.

    Raises:
        ValueError: prompts, a loss, a temperature or a number of timesteps that cannot be used with the model.
        TypeError: the name of a model instead of a model, a pruning that is no strategy, a seed that is no integer.

    Source: Li et al. 2023, Algorithms 1 and 2.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompts: Prompts = None,
        *,
        pruning: Strategy | None = None,
        loss: str = "l2",
        seed: int = 0,
        batch_size: int | None = None,
        temperature: float = 1.0,
        progress: bool = False,
    ) -> None:
        self.model, self.prompts, self.pruning, self.loss, self.seed = model, prompts, pruning, loss, seed
        self.batch_size, self.temperature, self.progress = batch_size, temperature, progress
        _check_types(model, pruning, seed)
        queries, self._classnames = resolve_prompts(prompts, model.labels)
        check_losses([loss], model.learns_variance)
        known = tuple(each for each in LOSSES if model.learns_variance or "vlb" not in each)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
        self.strategy_ = (pruning or Racing()).prepare(model, self._classnames)
        self.strategy_.evaluations(len(queries), len(model.schedule))  # raises for a budget that is too small
        more = self.strategy_.more_prompts()
        if model.labels is None:
            check_texts([(text, "a node of the label tree") for text in more])
        else:
            more = label_indices(more, model.labels)
        self.classes_ = np.array(list(dict.fromkeys(self._classnames)))
        self._source = ErrorSource(
            model,
            [*queries, *more],
            self.strategy_.trial_list(len(model.schedule)),
            seed=seed,
            losses=tuple(PLAIN) if loss in PLAIN else known,
            batch_size=batch_size,
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; none of them has parameters of its own."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: object) -> Self:
        """Change parameters, checked as those of a new classifier; raise ValueError for a name that is none of them."""
        known = self.get_params()
        if unknown := [name for name in params if name not in known]:
            raise ValueError(f"parameter must be one of {', '.join(known)}, got {unknown[0]!r}")
        self.__dict__.update(type(self)(**known | params).__dict__)  # nothing changes if a check fails
        return self

    def __sklearn_clone__(self) -> Self:
        """Return a classifier with the same parameters, which shares the model."""
        return type(self)(**self.get_params())

    def __sklearn_tags__(self) -> object:
        """Return what scikit-learn needs to know: this is a classifier that can do without labels."""
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=False), classifier_tags=ClassifierTags())

    def __repr__(self) -> str:
        classes, options = f"{len(self.classes_)} classes", f"loss={self.loss!r}, seed={self.seed}"
        return f"DiffusionClassifier({self.model!r}, {classes}, pruning={self.strategy_!r}, {options})"

    def fit(self, images: object = None, labels: object = None) -> Self:
        """Check the labels and learn nothing; raise ValueError if a label is no class."""
        if unknown := sorted(set([] if labels is None else _names(labels)) - set(self.classes_.tolist())):
            raise ValueError(f"labels must be among the {len(self.classes_)} classes, got {unknown[0]!r}")
        return self

    def calibrate(self, images: object, labels: object) -> Self:
        """Fit the temperature of `predict_proba` to images with labels, and keep it as the parameter `temperature`.

        No class changes, only the probabilities. Use images that no accuracy or calibration is measured on.

        Raises:
            ValueError: as `diffclf.temperature.fit_temperature`, or a label that is no class.
        """
        self.fit(images, labels)
        names = _names(labels)
        scores = self.decision_function(images) * math.prod(self.model.latent_shape)
        positions = [self.classes_.tolist().index(name) for name in names]
        return self.set_params(temperature=fit_temperature(scores, positions))

    def predict(self, images: object) -> NDArray[np.str_]:
        """Return (n_images,) class names. Images: PIL images, paths, arrays or tensors, one or many."""
        return self.classes_[self.decision_function(images).argmax(axis=1)]

    def predict_proba(self, images: object) -> NDArray[np.float64]:
        """Return (n_images, n_classes) posterior probabilities under a uniform prior (Eq. 6).

        A class that was dropped early has a probability, too: that of its score, which rests on the few trials that
        the class has had (`diffclf.errortable`). The probability is never above that of a class that was not dropped.
        """
        tables = self.error_tables(images, ordered=False)
        return stack_rows(tables, lambda table: table.proba(self.temperature))

    def decision_function(self, images: object) -> NDArray[np.float64]:
        """Return (n_images, n_classes) scores: minus the mean prediction error, not a calibrated likelihood."""
        return stack_rows(self.error_tables(images, ordered=False), ErrorTable.scores)

    def score(self, images: object, labels: object) -> float:
        """Return the share of images whose predicted class is their label."""
        return float(np.mean(self.predict(images) == np.array(_names(labels))))

    def errors(self, image: object) -> ErrorTable:
        """Return the error table of one image; raise ValueError for several."""
        return next(self.error_tables(_single(image, "errors")))

    def error_tables(self, images: object, ordered: bool = True) -> Iterator[ErrorTable]:
        """Yield the error table of each image, in the order of the images or as they finish."""
        desc = "images" if self.progress else None
        options = {"loss": self.loss, "classnames": self._classnames, "ordered": ordered, "desc": desc}
        return search(self._source, images, self.strategy_, **options)

    def race(self, image: object) -> Iterator[Round]:
        """Yield the rounds of one image's race while it runs; raise ValueError for another pruning than `Racing`."""
        self.strategy_.rounds(np.empty((0, 0)))  # raises where there are no rounds
        return watch(self._source, _single(image, "race"), self.strategy_, self.loss)


def _names(labels: object) -> list[object]:
    """Return labels with their names in the form of Unicode that classes have."""
    return [nfc(label) for label in np.ravel(labels).tolist()]


def _single(image: object, method: str) -> object:
    """Return the image, if it is a single one."""
    n_images = len(list_images(image))
    if n_images != 1:
        raise ValueError(f"{method} takes one image, got {n_images}; use error_tables for many")
    return image


def _check_types(model: object, pruning: object, seed: object) -> None:
    """Raise TypeError for what is easily passed by mistake."""
    if isinstance(model, str | os.PathLike):
        raise TypeError(f"model must be a loaded model, load_model({os.fspath(model)!r}), got only its name")
    if not isinstance(model, DiffusionModel):
        raise TypeError(f"model must be what load_model(name or folder) returns, got {type(model).__name__}")
    if pruning is not None and not isinstance(pruning, Strategy):
        raise TypeError(f"pruning must be a strategy, like Racing(...) or Staged(...), or None, got {pruning!r}")
    if not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
