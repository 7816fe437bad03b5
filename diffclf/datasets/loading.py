"""One way to name any set of images."""

from pathlib import Path

from diffclf.datasets.captions import CAPTION_SETS, load_captions
from diffclf.datasets.embedded import EMBEDDED, load_embedded
from diffclf.datasets.folder import load_folder
from diffclf.datasets.hub import HUB, load_hub
from diffclf.datasets.imageset import ImageSet

__all__ = ["load_dataset"]


def load_dataset(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Load images to classify.

    Args:
        name: an embedded class set ("mini-items", "mini-coloured-items") or caption set ("mini-colour", "mini-binding",
            "mini-relation"), one of the hub ("pets"), or a folder with one sub-folder per class.
        split: "tune" or "test", everywhere. Embedded sets also have "v2" and "pool". The two of a folder are fixed
            halves of it; "all" is the whole folder.
        n_images: how many; None for all. A smaller number is always the beginning of a larger one.
        seed: seed of the choice; no seed moves an image from one split to another.

    Returns:
        The images with labels, class names and prompts or captions.

    Raises:
        ValueError: unknown name or split, too few classes, too many images.
    """
    for names, load in ((EMBEDDED, load_embedded), (CAPTION_SETS, load_captions), (HUB, load_hub)):
        if name in names:
            return load(name, split, n_images, seed)
    if not Path(name).is_dir():
        raise ValueError(f"data set must be one of {[*EMBEDDED, *CAPTION_SETS, *HUB]} or a folder, got {name!r}")
    return load_folder(Path(name), split, n_images, seed)
