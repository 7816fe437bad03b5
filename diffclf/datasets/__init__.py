"""Images to classify: embedded ones, folders, and data sets of the Hugging Face hub."""

from pathlib import Path

from diffclf.datasets.embedded import CAPTION_SETS, CLASS_SETS, load_embedded
from diffclf.datasets.folder import load_folder
from diffclf.datasets.hub import HUB, load_hub
from diffclf.datasets.imageset import ImageSet

__all__ = ["ImageSet", "load_dataset"]


def load_dataset(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Return images with labels, class names and prompts or captions.

    Args:
        name: an embedded set (`diffclf.datasets.embedded`: "mini-items", "mini-v2", "mini-colour", ...), one of the
            hub ("pets"), or a folder with one sub-folder per class.
        split: "tune" or "test", everywhere. Embedded sets also have "v2" and "pool", and "test" of mini-v2 is its
            "v2". The two of a folder are fixed halves of it; "all" is the whole folder.
        n_images: how many; None for all. A smaller number is always the beginning of a larger one.
        seed: seed of the choice; no seed moves an image from one split to another.

    Raises:
        ValueError: unknown name or split, too few classes, too many images.
    """
    if name in (*CLASS_SETS, *CAPTION_SETS):
        return load_embedded(name, split, n_images, seed)
    if name in HUB:
        return load_hub(name, split, n_images, seed)
    if Path(name).is_dir():
        return load_folder(Path(name), split, n_images, seed)
    raise ValueError(f"data set must be one of {[*CLASS_SETS, *CAPTION_SETS, *HUB]} or a folder, got {name!r}")
