"""The Diffusion Classifier: Algorithm 1 of Li et al. 2023 (arXiv 2303.16203) behind scikit-learn's face."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral

import numpy as np
import torch

from diffclf.errortable import ErrorTable
from diffclf.evaluator import Evaluator, check_losses
from diffclf.hierarchy import Hierarchical, Tree
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.pruning import Pruning
from diffclf.racing import Racing, Round, calibrated
from diffclf.shortlist import Among, Shortlist
from diffclf.trials import Trials, image_key

__all__ = ["DiffusionClassifier", "Prompts", "resolve_prompts"]

BATCHES_IN_FLIGHT = 4  # of work kept ready, so that the last, partly filled one weighs little
BATCHES_AT_ONCE = 64  # evaluated before the strategies are asked again
IMAGES_AT_ONCE = 32  # through the autoencoder

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
        raise TypeError(
            "pruning must be Racing(...), Exhaustive(...), Staged(...), Shortlist(...), Hierarchical(...) or None, "
            f"got {pruning!r}"
        )
    if not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")


def _bound(
    pruning: Pruning, classnames: Sequence[str], labels: Sequence[str] | None
) -> tuple[Pruning, list[str] | list[int]]:
    """Return the strategy with its label tree's nodes bound to rows, and what the model encodes for these rows."""
    if isinstance(pruning, Shortlist):
        then, nodes = _bound(pruning.then, classnames, labels)
        return replace(pruning, then=then), nodes
    if not isinstance(pruning, Hierarchical):
        return pruning, []
    nodes = pruning.nodes()
    if labels is not None:
        return pruning.bind(classnames), [index for index, _ in _label_prompts(nodes, labels)]
    for node in nodes:
        if not isinstance(node, str) or not node.strip():
            raise ValueError(f"node of the label tree must be a text that is not empty, got {node!r}")
    return pruning.bind(classnames), nodes


class DiffusionClassifier:
    """Classify images by which prompt lets a diffusion model predict the noise best.

    Args:
        model: the diffusion model (`load_model`).
        prompts: class name -> prompt or list of prompts; a class scores as its best prompt. For a class-conditional
            model None (all its labels), label names or indices.
        pruning: which prompts to try next; None races: `Racing()`, with the threshold that a built-in model brings.
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
        self.pruning = pruning or calibrated(Racing(), model)
        self.loss, self.seed, self.temperature, self.progress = loss, seed, temperature, progress
        self._timesteps = self.pruning.timesteps(len(model.alphas_cumprod))
        plain = ["l2", "l1", "huber"]
        self._evaluator = Evaluator(model, plain if loss in plain else [*plain, "vlb", "l2+vlb"], batch_size)
        self.pruning.evaluations(len(queries), len(model.alphas_cumprod))  # refuses what cannot be paid for
        self.classes_ = np.array(list(dict.fromkeys(self.classnames)))
        self.prompts = [str(q) if model.labels is None else model.labels[q] for q in queries]
        self._search, nodes = _bound(self.pruning, self.classnames, model.labels)
        self._cond = model.encode_prompts([*queries, *nodes])

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
        """Yield the error table of each image, in order.

        Several images are in flight at a time, as many as it takes to fill the batches: when one is done, or has few
        prompts left, the next one joins.
        """
        images = load_images(images)
        if not images:
            raise ValueError("images must hold at least one image, got none")
        return self._stream(images)

    def race(self, image: object) -> Iterator[Round]:
        """Yield the rounds of one image's race while it runs.

        Args:
            image: one image.

        Raises:
            ValueError: more than one image, or another pruning than `Racing`.
        """
        if not isinstance(self.pruning, Racing):
            raise ValueError(f"pruning must be Racing(...) for a race, got {self.pruning!r}")
        images = load_images(image)
        if len(images) != 1:
            raise ValueError(f"race takes one image, got {len(images)}")
        return self._race(images[0])

    def _race(self, image: object) -> Iterator[Round]:
        runner = self._start([image], 0)[0]
        shown = 0
        while runner.wanted is not None:
            self._evaluate([runner])
            rounds = list(self.pruning.rounds(runner.deciding))
            yield from rounds[shown:]
            shown = len(rounds)

    def _stream(self, images: list) -> Iterator[ErrorTable]:
        waiting, flying = iter(images), deque()
        enough = BATCHES_IN_FLIGHT * self._evaluator.batch_size
        n_started = 0
        n_first = 0  # entries that an image wants at first, known once there was one
        with progress(total=len(images), desc="images", unit="image", enabled=self.progress) as bar:
            while True:
                while (missing := enough - sum(runner.n_wanted for runner in flying)) > 0:
                    n_joining = min(IMAGES_AT_ONCE, -(-missing // n_first)) if n_first else 1
                    joining = self._start(list(islice(waiting, n_joining)), n_started)
                    if not joining:
                        break
                    n_started += len(joining)
                    n_first = joining[0].n_wanted
                    flying.extend(joining)
                if not flying:
                    return
                self._evaluate([runner for runner in flying if runner.n_wanted], whole_batches=missing <= 0)
                while flying and flying[0].wanted is None:
                    yield self._table(flying.popleft())
                    bar.update(1)

    def _start(self, images: list, first: int) -> list["_Runner"]:
        """Return the images, numbered from `first`, preprocessed and encoded together, at the start of their search."""
        if not images:
            return []
        pixels = [to_pixels(image, self.model.image_size) for image in images]
        shape = (len(self._evaluator.losses), len(self._cond), len(self._timesteps))
        deciding = self._evaluator.losses.index(self.loss)
        runners = []
        latents = self.model.encode_images(torch.stack(pixels))
        for number, (x0, image) in enumerate(zip(latents, pixels, strict=True), first):
            key, strategy = image_key(image), self._search
            if isinstance(strategy, Shortlist):
                strategy = strategy.for_image(image, len(self.prompts))
            errors = np.full(shape, np.nan, dtype=np.float32)
            trials = Trials(self._timesteps, self.seed, key, x0.shape, self.pruning.noises())
            runners.append(_Runner(number, x0, trials, errors, errors[deciding], strategy))
        return runners

    def _evaluate(self, runners: list["_Runner"], whole_batches: bool = False) -> None:
        """Evaluate what the images want, together, and ask their strategy what they want next.

        With whole_batches the last, partly filled batch is left for the next time, when others will fill it. What would
        take very many batches is done in parts, so that memory does not grow with the number of prompts and trials.
        """
        batch_size, left, parts = self._evaluator.batch_size, BATCHES_AT_ONCE * self._evaluator.batch_size, []
        for i, runner in enumerate(runners):
            flat = np.flatnonzero(runner.wanted)[:left]
            parts.append(np.column_stack([np.full_like(flat, i), *np.divmod(flat, len(self._timesteps))]))
            left -= len(flat)
        triples = np.concatenate(parts)
        if whole_batches:
            triples = triples[: len(triples) // batch_size * batch_size]
        x0 = torch.stack([runner.x0 for runner in runners])
        trials, numbers = [runner.trials for runner in runners], [runner.number for runner in runners]
        found = self._evaluator.errors(x0, self._cond, trials, triples, numbers=numbers)
        for i, runner in enumerate(runners):
            own = triples[:, 0] == i
            runner.errors[:, triples[own, 1], triples[own, 2]] = found[own].T
            runner.look()

    def _table(self, runner: "_Runner") -> ErrorTable:
        left = runner.strategy.survivors(runner.deciding) if isinstance(runner.strategy, Racing | Among | Tree) else ()
        undecided = tuple(dict.fromkeys(self.classnames[i] for i in left))
        return ErrorTable(
            losses=dict(zip(self._evaluator.losses, runner.errors[:, : len(self.prompts)], strict=True)),
            loss=self.loss,
            trials=runner.trials,
            prompts=self.prompts,
            classnames=self.classnames,
            classes=self.classes_.tolist(),
            n_evaluations=int((~np.isnan(runner.deciding)).sum()),
            undecided=undecided if len(undecided) > 1 else (),
        )


@dataclass
class _Runner:
    """One image on its way: what is known of it, and what its strategy wants next (None: nothing more)."""

    number: int
    x0: torch.Tensor
    trials: Trials
    errors: np.ndarray
    deciding: np.ndarray
    strategy: Pruning
    wanted: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Ask the strategy what it wants next."""
        self.wanted = self.strategy.next(self.deciding)

    @property
    def n_wanted(self) -> int:
        return 0 if self.wanted is None else int(self.wanted.sum())
