"""The Diffusion Classifier: Algorithm 1 of Li et al. 2023 (arXiv 2303.16203) behind scikit-learn's face."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral

import numpy as np
import torch

from diffclf.errortable import ErrorTable
from diffclf.evaluator import Evaluator, check_losses
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.pruning import Exhaustive, Pruning
from diffclf.trials import Trials, image_key

__all__ = ["DiffusionClassifier", "Prompts", "resolve_prompts"]

Prompts = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | Sequence[str] | Sequence[int] | None
"""Class name -> prompt or prompts; or (prompt, class name) pairs; or labels of a class-conditional model."""


def _text_prompts(prompts: Prompts) -> list[tuple[str, str]]:
    """Return (prompt, class name) pairs of a text-conditional model, checked."""
    if prompts is None:
        raise ValueError("prompts must map class names to texts for a text-conditional model, got None")
    if isinstance(prompts, Mapping):
        several = {
            name: [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
            for name, texts in prompts.items()
        }
        pairs = [(text, name) for name, texts in several.items() for text in texts]
        without = [name for name, texts in several.items() if not texts]
        if without:
            raise ValueError(f"every class must have at least one prompt, got none for {without[0]!r}")
    else:
        pairs = list(prompts) if isinstance(prompts, Iterable) else [prompts]
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"prompts must be a mapping or a list of (prompt, class name) pairs, got {prompts!r:.80}")
    seen: dict[str, str] = {}
    for text, name in pairs:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt of class {name!r} must be a text that is not empty, got {text!r}")
        if text in seen:
            raise ValueError(f"prompts must differ, got {text!r} for both {seen[text]!r} and {name!r}")
        seen[text] = name
    return pairs


def _label_prompts(prompts: Prompts, labels: Sequence[str]) -> list[tuple[int, str]]:
    """Return (class index, class name) pairs of a class-conditional model, checked."""
    if prompts is None:
        return list(enumerate(labels))
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
        raise ValueError(
            f"prompts must be None, label names or label indices for a class-conditional model, got {prompts!r:.80}"
        )
    indices = []
    for label in prompts:
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(labels):
            indices.append(int(label))
        elif isinstance(label, str) and label in labels:
            indices.append(list(labels).index(label))
        else:
            raise ValueError(f"label must be one of the model's {len(labels)} labels, got {label!r}")
    if len(set(indices)) != len(indices):
        raise ValueError(f"labels must differ, got {prompts!r:.80}")
    return [(index, labels[index]) for index in indices]


def resolve_prompts(prompts: Prompts, labels: Sequence[str] | None) -> tuple[list[str] | list[int], list[str]]:
    """Turn the user's prompts into what the model encodes, and the class name of each.

    Args:
        prompts: as the user gave them.
        labels: class names of a class-conditional model, None for a text-conditional one.

    Returns:
        What `encode_prompts` takes (texts or class indices), and as many class names.

    Raises:
        ValueError: fewer than two classes, empty or duplicate prompts, unknown labels.
    """
    pairs = _text_prompts(prompts) if labels is None else _label_prompts(prompts, labels)
    n_classes = len({name for _, name in pairs})
    if n_classes < 2:
        raise ValueError(f"prompts must name at least 2 classes, got {n_classes}")
    return [what for what, _ in pairs], [name for _, name in pairs]


def _check_types(model: object, pruning: object, seed: object) -> None:
    """Refuse what is easily passed by mistake, in words that say what is meant."""
    if isinstance(model, str | os.PathLike):
        raise TypeError(f"model must be a loaded model, load_model({os.fspath(model)!r}), got only its name")
    if pruning is not None and not hasattr(pruning, "timesteps"):
        raise TypeError(f"pruning must be Exhaustive(...), Staged(...) or None, got {pruning!r}")
    if not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")


class DiffusionClassifier:
    """Classify images by which prompt lets a diffusion model predict the noise best.

    Args:
        model: the diffusion model (`load_model`).
        prompts: class name -> prompt or list of prompts; a class scores as its best prompt. For a class-conditional
            model None (all its labels), label names or indices.
        pruning: which prompts to try next; None is `Exhaustive(100)`.
        loss: the error that decides: "l2", "l1", "huber", and "vlb" or "l2+vlb" where the variance is learned.
        seed: seed of the noise.
        batch_size: denoiser evaluations per forward pass; None chooses.
        temperature: of `predict_proba`; 1 is Eq. 6 as printed.
        progress: show a progress bar over images.

    Attributes:
        classes_: (n_classes,) class names, in the order given.

    Raises:
        ValueError: fewer than two classes, empty or duplicate prompts, an unknown or unsupported loss, more timesteps
            than the model has.
        TypeError: the name of a model instead of a model, a pruning that is no strategy, a seed that is no integer.

    Source: Li et al. 2023, Algorithms 1 and 2.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompts: Prompts = None,
        *,
        pruning: Pruning | None = None,
        loss: str = "l2",
        seed: int = 0,
        batch_size: int | None = None,
        temperature: float = 1.0,
        progress: bool = False,
    ) -> None:
        _check_types(model, pruning, seed)
        queries, self.classnames = resolve_prompts(prompts, model.labels)
        check_losses([loss], model.learns_variance)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.model = model
        self.pruning = pruning or Exhaustive()
        self.loss, self.seed, self.temperature, self.progress = loss, seed, temperature, progress
        self._timesteps = self.pruning.timesteps(len(model.alphas_cumprod))
        plain = ["l2", "l1", "huber"]
        self._evaluator = Evaluator(model, plain if loss in plain else [*plain, "vlb", "l2+vlb"], batch_size)
        self.classes_ = np.array(list(dict.fromkeys(self.classnames)))
        self.prompts = [str(q) if model.labels is None else model.labels[q] for q in queries]
        self._cond = model.encode_prompts(queries)

    def __repr__(self) -> str:
        return (
            f"DiffusionClassifier({self.model!r}, {len(self.classes_)} classes, pruning={self.pruning!r}, "
            f"loss={self.loss!r}, seed={self.seed})"
        )

    def predict(self, images: object) -> np.ndarray:
        """Return (n_images,) class names. Images: PIL images, paths, arrays or tensors, one or many."""
        return self.classes_[self.decision_function(images).argmax(axis=1)]

    def predict_proba(self, images: object) -> np.ndarray:
        """Return (n_images, n_classes) posterior probabilities under a uniform prior (Eq. 6)."""
        return np.stack([table.proba(self.temperature) for table in self.error_tables(images)])

    def decision_function(self, images: object) -> np.ndarray:
        """Return (n_images, n_classes) scores: minus the mean prediction error, not a calibrated likelihood."""
        return np.stack([table.scores() for table in self.error_tables(images)])

    def errors(self, image: object) -> ErrorTable:
        """Return the error table of one image.

        Raises:
            ValueError: more than one image.
        """
        images = load_images(image)
        if len(images) != 1:
            raise ValueError(f"errors takes one image, got {len(images)}; use error_tables for many")
        return next(self.error_tables(images))

    def error_tables(self, images: object) -> Iterator[ErrorTable]:
        """Yield the error table of each image, a few images at a time so that batches are full."""
        images = load_images(images)
        if not images:
            raise ValueError("images must hold at least one image, got none")
        in_flight = max(1, -(-4 * self._evaluator.batch_size // (len(self.prompts) * len(self._timesteps))))
        return self._stream(images, in_flight)

    def _stream(self, images: list, in_flight: int) -> Iterator[ErrorTable]:
        with progress(total=len(images), desc="images", unit="image", enabled=self.progress) as bar:
            for start in range(0, len(images), in_flight):
                pixels = [to_pixels(image, self.model.image_size) for image in images[start : start + in_flight]]
                yield from self._classify(pixels)
                bar.update(len(pixels))

    def _classify(self, pixels: list[torch.Tensor]) -> list[ErrorTable]:
        """Return the error tables of a few preprocessed images, whose triples share batches."""
        x0 = self.model.encode_images(torch.stack(pixels))
        trials = [Trials(self._timesteps, self.seed, image_key(p), x0.shape[1:]) for p in pixels]
        names = self._evaluator.losses
        shape = (len(pixels), len(names), len(self.prompts), len(self._timesteps))
        errors = np.full(shape, np.nan, dtype=np.float32)
        active = list(range(len(pixels)))
        while active:
            masks = {i: self.pruning.next(errors[i, names.index(self.loss)]) for i in active}
            active = [i for i in active if masks[i] is not None]
            if active:
                triples = np.concatenate([np.insert(np.argwhere(masks[i]), 0, i, axis=1) for i in active])
                image, prompt, trial = triples.T
                errors[image, :, prompt, trial] = self._evaluator.errors(x0, self._cond, trials, triples)
        return [
            ErrorTable(
                losses=dict(zip(names, table, strict=True)),
                loss=self.loss,
                trials=trial,
                prompts=self.prompts,
                classnames=self.classnames,
                classes=self.classes_.tolist(),
                n_evaluations=int((~np.isnan(table[0])).sum()),
            )
            for table, trial in zip(errors, trials, strict=True)
        ]
