"""The only loop over images: runs a pruning strategy on each of them, many images at the same time.

    image -> pixels -> key -> entries known already -> x0 -> trials -> errors -> error table

An `ErrorSource` says which prompts and trials the images are compared on; its errors come from the network. An error
bank (`diffclf.bank`) is a source that keeps them on disk as well. `search` drives any strategy over any number of
images. An image is decoded and encoded when its turn comes, and only encoded if the network is needed for it. As many
images are in flight as it takes to fill the batches, so that memory does not grow with the number of images.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.errortable import ErrorTable
from diffclf.evaluator import Evaluator, NonFiniteError
from diffclf.images import list_images, load_image, to_pixels
from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.pruning import Fixed, Round, Strategy
from diffclf.trials import TrialList, Trials, image_key

__all__ = ["ErrorSource", "Prompt", "compute_errors", "search", "stack_rows", "watch"]

BATCHES_IN_FLIGHT = 4  # of work kept ready, so that the last, partly filled batch weighs little
BATCHES_AT_ONCE = 64  # evaluated before the strategies are asked again
IMAGES_AT_ONCE = 32  # through the autoencoder
IMAGES_IN_FLIGHT = 48  # at most, which bounds the memory

Prompt = str | int  # a text, or the class index of a class-conditional model


class ErrorSource:
    """Prediction errors of images under prompts and trials, computed by the network.

    Args:
        prompts: n_prompts prompts that all images share, or one sequence of prompts per image (captions).
        losses: losses to compute, of `diffclf.evaluator.LOSSES`.
        batch_size: denoiser evaluations per forward pass; None chooses.

    Raises ValueError for no prompts, no trials, a timestep that the model does not have, or an unsupported loss.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompts: Sequence[Prompt] | Sequence[Sequence[Prompt]],
        trials: TrialList,
        *,
        seed: int = 0,
        losses: Sequence[str] = ("l2", "l1", "huber"),
        batch_size: int | None = None,
    ) -> None:
        n_timesteps, timesteps = len(model.schedule), trials.timesteps
        if not len(timesteps) or timesteps.min() < 0 or timesteps.max() >= n_timesteps:
            raise ValueError(f"timesteps must be one or more of 0..{n_timesteps - 1}, got {timesteps!r:.80}")
        self.model, self.trials, self.seed = model, trials, int(seed)
        self.per_image = len(prompts) > 0 and not isinstance(prompts[0], str | int | np.integer)
        lists = [np.array(own).tolist() for own in (prompts if self.per_image else [prompts])]  # JSON knows no np.int64
        if not all(lists):
            raise ValueError("prompts must have at least one entry, got none")
        self.prompts = lists if self.per_image else lists[0]
        self.rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(chain(*lists)))}  # of the conditionings
        self.evaluator = Evaluator(model, losses, batch_size)
        self.losses = self.evaluator.losses

    @property
    def n_evaluations(self) -> int:
        """Denoiser evaluations so far."""
        return self.evaluator.n_evaluations

    def prompts_of(self, position: int) -> Sequence[Prompt]:
        """Return the prompts of the image at a position."""
        return self.prompts[position] if self.per_image else self.prompts

    def trials_of(self, key: int) -> Trials:
        """Return the trials of the image with a key."""
        return Trials(self.trials, self.seed, key, self.model.latent_shape)

    def load(self, key: int, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """Return the errors of an image that are known already, (n_prompts, n_trials, n_losses), NaN elsewhere."""
        return np.full((len(prompts), len(self.trials), len(self.losses)), np.nan, dtype=np.float32)

    def save(self, key: int, prompts: Sequence[Prompt], errors: NDArray[np.float32]) -> None:
        """Keep the errors of an image, as `load` returns them; the network alone keeps nothing."""

    @cached_property
    def conditionings(self) -> Conditioning:
        """Conditionings of all prompts; equal prompts of different images are encoded once."""
        return self.model.encode_prompts(list(self.rows))


class _ImageSearch:
    """One image on its way.

    `stored` (n_prompts, n_trials, n_losses) has all errors known; `errors` (n_prompts, own trials) those of the
    deciding loss that the strategy has asked for and got; `missing` is the mask of entries that it asks for and that
    are not known, None when it is done. The pixels are there until the image is encoded, x0 from then on.
    """

    def __init__(self, source: ErrorSource, strategy: Strategy, loss: str, position: int, item: tuple) -> None:
        self.source, self.loss, self.position, self.name = source, loss, position, item[1]
        model = source.model
        self.pixels, self.x0 = to_pixels(load_image(*item), model.image_size, model.halves_large_images), None
        self.key = image_key(self.pixels)
        self.prompts, self.trials = source.prompts_of(position), source.trials_of(self.key)
        self.strategy, self.stored = strategy.for_image(self.pixels), source.load(self.key, self.prompts)
        n_trials = len(self.strategy.trial_list(len(source.model.schedule)))
        self.errors = np.full((len(self.prompts), n_trials), np.nan, dtype=np.float32)
        self.look()

    def look(self) -> None:
        """Ask the strategy for entries until one is not known, or the strategy is done."""
        known = self.stored[:, : self.errors.shape[1], self.source.losses.index(self.loss)]
        while (wanted := self.strategy.next(self.errors)) is not None:
            if not (wanted & np.isnan(self.errors)).any():
                raise ValueError(f"next must ask for unknown errors or return None, got neither from {self.strategy!r}")
            there = wanted & ~np.isnan(known)
            self.errors[there] = known[there]
            self.missing = wanted & ~there
            if self.missing.any():
                return
        self.missing = None

    def table(self, classnames: Sequence[str] | None) -> ErrorTable:
        """Return the error table of an image that is done."""
        labels = self.source.model.labels
        prompts = [own if isinstance(own, str) else labels[own] for own in self.prompts]
        names = prompts if classnames is None else list(classnames)
        asked = ~np.isnan(self.errors)
        stored = np.where(asked[..., None], self.stored[:, : asked.shape[1]], np.nan)[: len(names)]
        undecided = dict.fromkeys(names[row] for row in self.strategy.undecided(self.errors))
        return ErrorTable(
            losses={name: stored[..., index] for index, name in enumerate(self.source.losses)},
            loss=self.loss,
            trials=self.trials,
            prompts=prompts[: len(names)],
            classnames=names,
            classes=list(dict.fromkeys(names)),
            n_evaluations=int(asked.sum()),
            undecided=tuple(undecided) if len(undecided) > 1 else (),
            position=self.position,
        )


class _Search:
    """A strategy on its way over images, with errors from a source; `loss` decides."""

    def __init__(self, source: ErrorSource, images: object, strategy: Strategy, loss: str) -> None:
        self.source, self.strategy, self.loss = source, strategy, loss
        self.waiting = deque(enumerate(list_images(images)))
        self.flying: list[_ImageSearch] = []

    def ready(self, ordered: bool) -> list[_ImageSearch]:
        """Return the images whose tables can be handed out."""
        return list((takewhile if ordered else filter)(lambda image: image.missing is None, self.flying))

    def join(self, ordered: bool = True) -> None:
        """Let images join until there is work for several batches, no room for more images, or a table to hand out."""
        enough = BATCHES_IN_FLIGHT * self.source.evaluator.batch_size
        while self.waiting and not self.ready(ordered):
            busy = [int(image.missing.sum()) for image in self.flying if image.missing is not None]
            short, room = enough - sum(busy), min(IMAGES_IN_FLIGHT - len(busy), 2 * IMAGES_IN_FLIGHT - len(self.flying))
            if short <= 0 or room <= 0:
                return
            n_each = busy[-1] if busy else enough  # the next images miss about as much as the last one
            n_joining = min(room, IMAGES_AT_ONCE, len(self.waiting), -(-short // n_each))
            next_ones = [self.waiting.popleft() for _ in range(n_joining)]
            joining = [_ImageSearch(self.source, self.strategy, self.loss, *image) for image in next_ones]
            self.flying += joining
            if encoded := [image for image in joining if image.missing is not None]:
                latents = self.source.model.encode_images(torch.stack([image.pixels for image in encoded]))
                for image, x0 in zip(encoded, latents, strict=True):
                    image.x0, image.pixels = x0, None

    def evaluate(self) -> None:
        """Evaluate what the images in flight miss, together, and ask their strategies again.

        If other images wait, the last, partly filled batch is left for the next time. What would take very many batches
        is done in parts, so that memory does not grow with the number of prompts and trials.

        Raises NonFiniteError after the other images have got their errors.
        """
        source, batch_size = self.source, self.source.evaluator.batch_size
        images = [image for image in self.flying if image.missing is not None]
        left, parts = BATCHES_AT_ONCE * batch_size, []
        for number, image in enumerate(images):
            prompt, trial = np.argwhere(image.missing)[:left].T
            rows = np.array([source.rows[own] for own in image.prompts])[prompt]
            parts.append(np.stack([np.full_like(prompt, number), prompt, trial, rows], axis=1))
            left -= len(prompt)
        entries = np.concatenate(parts)
        if self.waiting and len(entries) > batch_size:
            entries = entries[: len(entries) // batch_size * batch_size]
        failure = None
        try:
            found = source.evaluator.errors(
                torch.stack([image.x0 for image in images]),
                source.conditionings,
                [image.trials for image in images],
                entries[:, [0, 3, 2]],
                [image.name for image in images],
            )
        except NonFiniteError as error:
            failure, found = error, error.errors
        for number in np.unique(entries[:, 0]):
            image, own = images[number], entries[:, 0] == number
            if not np.isfinite(found[own]).all():
                continue
            image.stored[entries[own, 1], entries[own, 2]] = found[own]
            image.look()
            if image.missing is None:
                source.save(image.key, image.prompts, image.stored)
        if failure is not None:
            raise failure


def search(
    source: ErrorSource,
    images: object,
    strategy: Strategy,
    *,
    loss: str | None = None,
    classnames: Sequence[str] | None = None,
    ordered: bool = True,
    desc: str | None = "images",
) -> Iterator[ErrorTable]:
    """Run a strategy on images and yield the error table of each.

    Args:
        source: where errors come from; its first trials must be the strategy's.
        images: one or many, as for `diffclf.images.load_images`.
        strategy: the strategy, prepared (`Strategy.prepare`) where it depends on the model or the classes.
        loss: the loss that decides; None: the source's first.
        classnames: (n_classes,) class of each of the first prompts; further prompts (nodes of a label tree) get no row
            in the tables. None: the prompts themselves.
        ordered: whether tables come in the order of the images, or as they finish.
        desc: words before the progress bar; None: no bar.

    Raises ValueError for other trials or losses than the source's, or not as many lists of prompts as images.
    """
    loss = loss or source.losses[0]
    if loss not in source.losses:
        raise ValueError(f"loss must be one of {source.losses}, got {loss!r}")
    if not source.trials.starts_with(strategy.trial_list(len(source.model.schedule))):
        raise ValueError(f"trials of the source must start with those of {strategy!r}")
    running = _Search(source, images, strategy, loss)
    n_images = len(running.waiting)
    if source.per_image and len(source.prompts) != n_images:
        raise ValueError(f"prompts must be given for each of {n_images} images, got {len(source.prompts)}")

    def tables() -> Iterator[ErrorTable]:
        with progress(total=n_images, desc=desc, unit="image", enabled=desc is not None) as bar:
            failure = None
            while running.waiting or running.flying:
                running.join(ordered)
                try:
                    if not running.ready(ordered):
                        running.evaluate()
                except NonFiniteError as error:
                    failure = error  # raised after the images that are done
                for image in running.ready(ordered):
                    running.flying.remove(image)
                    yield image.table(classnames)
                    bar.update(1)
                if failure is not None:
                    raise failure

    return tables()


def watch(source: ErrorSource, image: object, strategy: Strategy, loss: str) -> Iterator[Round]:
    """Run a strategy that has rounds on one image and yield them while it runs; the loss decides."""
    running = _Search(source, image, strategy, loss)
    running.join()
    only, n_shown = running.flying[0], 0
    while True:
        rounds = list(only.strategy.rounds(only.errors))
        yield from rounds[n_shown:]
        n_shown = len(rounds)
        if only.missing is None:
            return
        running.evaluate()


def compute_errors(
    source: ErrorSource, images: object, loss: str = "l2", n_trials: int | None = None, desc: str | None = "images"
) -> NDArray[np.float32]:
    """Return the errors of every prompt on the first n_trials trials (None: all), (n_images, n_prompts, n_trials).

    Images and desc are as for `search`. Raises ValueError if the source has not this loss, or fewer trials.
    """
    if n_trials is not None and not 1 <= n_trials <= len(source.trials):
        raise ValueError(f"n_trials must lie in 1..{len(source.trials)}, got {n_trials}")
    tables = search(source, images, Fixed(source.trials[:n_trials]), loss=loss, ordered=False, desc=desc)
    return stack_rows(tables, lambda table: table.errors)


def stack_rows(tables: Iterable[ErrorTable], row: Callable[[ErrorTable], NDArray]) -> NDArray:
    """Return one row per table, in the order of the images; no more than the rows is kept in memory."""
    rows = {table.position: row(table) for table in tables}
    return np.stack([rows[position] for position in range(len(rows))])
