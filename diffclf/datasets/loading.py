"""One way to name any set of images."""

from pathlib import Path

from diffclf.datasets.embedded import EMBEDDED, load_embedded
from diffclf.datasets.folder import load_folder
from diffclf.datasets.hub import HUB, load_hub
from diffclf.datasets.imageset import ImageSet

__all__ = ["load_dataset"]


def load_dataset(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Load images to classify.

    Args:
        name: an embedded set ("mini-items", "mini-coloured-items"), one of the hub ("pets"), or a folder with one
            sub-folder per class.
        split: part of the embedded test file; sets of the hub and folders have only "test".
        n_images: how many; None for all. A smaller number is always a subset of a larger one.
        seed: seed of the choice.

    Returns:
        The images with labels, class names and prompts.

    Raises:
        ValueError: unknown name or split, too few classes, too many images.
    """
    if name in EMBEDDED:
        return load_embedded(name, split, n_images, seed)
    if name not in HUB and not Path(name).is_dir():
        raise ValueError(f"data set must be one of {[*EMBEDDED, *HUB]} or a folder, got {name!r}")
    if split != "test":
        raise ValueError(f"split of {name!r} must be 'test', got {split!r}")
    return load_hub(name, n_images, seed) if name in HUB else load_folder(Path(name), n_images, seed)
