"""A labelled set of images and what a model is asked about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.prompts import label_indices

__all__ = ["ImageSet", "n_taken"]

IMAGENET = 1000


class _Taken(Sequence):
    """Some images of a sequence, which may make each image on demand."""

    def __init__(self, images: Sequence, positions: list[int]) -> None:
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        return len(self.positions)

    @override
    def __getitem__(self, place: int) -> Any:
        return self.images[self.positions[place]]


@dataclass(frozen=True)
class ImageSet:
    """Images and their labels. All images share one prompt per class, or each image has captions of its own.

    Attributes:
        name: as `load_dataset` was asked.
        images: n images: PIL images, paths or (h, w, 3) uint8 arrays.
        labels: (n,) int64, position of the true class in `classnames`, or of the true caption in the image's captions.
        classnames: class names, in the order of the labels; none in a caption set.
        prompts: class name -> prompt; none in a caption set.
        groups: (n,) int64, the photograph each image was made of; images of one photograph are not independent.
        captions: n lists of captions, all of the same length; None: the images share the classes' prompts.
        indices: index among the thousand of ImageNet -> position in `classnames` of the class that it is or belongs to;
            None: networks know the classes by name.
        tree: label tree, prompt of an inner node -> the class names below it; empty where the classes have none.
        source: repository and commit of a data set of the hub, "owner/name@commit"; "" for others.
    """

    name: str
    images: Sequence
    labels: np.ndarray
    classnames: tuple[str, ...]
    prompts: dict[str, str]
    groups: np.ndarray
    captions: list[list[str]] | None = None
    indices: dict[int, int] | None = None
    tree: dict[str, list[str]] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @override
    def __repr__(self) -> str:
        asked = f"{len(self.classnames)} classes" if self.captions is None else f"{len(self.captions[0])} captions each"
        return f"ImageSet({self.name!r}, {len(self)} images, {asked})"

    def take(self, positions: ArrayLike, name: str = "") -> "ImageSet":
        """Return the images at some positions (k,), in that order; a name replaces the set's."""
        kept = np.asarray(positions, dtype=np.int64)
        images = _Taken(self.images, kept.tolist())
        captions = None if self.captions is None else [self.captions[place] for place in kept]
        changes = {"labels": self.labels[kept], "groups": self.groups[kept], "captions": captions}
        return replace(self, name=name or self.name, images=images, **changes)

    def first(self, n: int) -> "ImageSet":
        """Return the first n images, or all of them if there are fewer."""
        return self.take(np.arange(min(n, len(self))))

    def prompts_for(self, model: DiffusionModel) -> list[str] | list[int]:
        """Return the classes' prompts as the model takes them: texts, or class indices of a class-conditional model.

        A class may be several classes of the model: see `owners`.

        Raises:
            ValueError: a class that the model does not have.
        """
        return list(self.prompts.values()) if model.labels is None else self.positions(model.labels)

    def positions(self, labels: Sequence[str]) -> list[int]:
        """Return the positions of the classes among the labels of a network; a class may be several, see `owners`.

        Raises:
            ValueError: a class that the network does not have; indices of ImageNet, and another number of labels.
        """
        if self.indices is not None and len(labels) != IMAGENET:
            raise ValueError(f"a network for {self.name} must have ImageNet's {IMAGENET} labels, got {len(labels)}")
        return label_indices(self.classnames if self.indices is None else self.indices, labels)

    def owners(self, labels: Sequence[str] | None) -> NDArray[np.int64]:
        """Return the class of each of the `positions` among a network's labels, of each prompt if it has none."""
        return np.array(list(self.indices.values() if labels and self.indices else range(len(self.classnames))))

    def best(self, scores: NDArray, labels: Sequence[str] | None) -> NDArray:
        """Return (n, n_classes) the best of the scores (n, n_prompts) of each class's prompts or positions."""
        found = np.full((len(scores), len(self.classnames)), -np.inf, dtype=scores.dtype)
        np.maximum.at(found, (slice(None), self.owners(labels)), scores)
        return found


def n_taken(n_images: int | None, n: int) -> int:
    """Return how many of n images to take, all of them for None; ValueError unless 1 <= n_images <= n."""
    if n_images is None:
        return n
    if not 1 <= n_images <= n:
        raise ValueError(f"n_images must lie in 1..{n}, got {n_images}")
    return n_images
