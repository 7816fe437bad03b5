"""Fashion-MNIST photographs (Xiao, Rasul, Vollgraf 2017): 28x28 grey images of ten kinds of clothing.

The test file is cut by index, for good, into the splits of `SPLITS`; models are trained on the training file only.
"""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from diffclf.paths import data_dir

__all__ = ["SPLITS", "load_photos"]

SPLITS = {"tune": slice(0, 2000), "test": slice(2000, 4000), "v2": slice(4000, 5000), "pool": slice(5000, 10_000)}
"""Parts of the test file by index; nothing is ever chosen on "test"."""

_HUB_ID = "zalando-datasets/fashion_mnist"
_HELP = (
    "Fashion-MNIST was not found: got folder {folder!r}, expected it to hold {part}-images-idx3-ubyte[.gz] and "
    "{part}-labels-idx1-ubyte[.gz]. Pass the folder of the four IDX files (Debian's package dataset-fashion-mnist and "
    "the zalandoresearch/fashion-mnist repository have them), or install `datasets` and go online to take the training "
    "file from the hub as {hub!r}."
)


def _read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzip-compressed or not; ValueError for a damaged file."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} must be a whole gzip file, got a damaged one: {error}") from error
    header = 4 + 4 * raw[3] if len(raw) > 3 else 4
    if len(raw) < header or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an IDX file of bytes, got one that starts with {raw[:8]!r}")
    shape = np.frombuffer(raw, ">u4", raw[3], offset=4)
    data = np.frombuffer(raw, np.uint8, offset=header)
    if data.size != np.prod(shape):
        raise ValueError(f"{path} must hold {np.prod(shape)} bytes, got {data.size}")
    return data.reshape(shape)


def load_photos(split: str, folder: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return photographs (n, 28, 28) uint8 and their labels (n,) int64 in 0..9.

    Args:
        split: "train" (60,000 images), or a part of the test file: "tune", "test", "v2", "pool".
        folder: folder of the IDX files, gzip-compressed or not. By default the embedded test file, and for
            "train" the folder named by $DIFFCLF_FASHION_MNIST or else the Hugging Face hub.

    Raises:
        ValueError: unknown split, or a damaged file.
        FileNotFoundError: the files are neither in the folder nor on the hub; the message says how to get them.
    """
    if split != "train" and split not in SPLITS:
        raise ValueError(f"split must be one of {['train', *SPLITS]}, got {split!r}")
    if split == "train":
        folder = folder or os.environ.get("DIFFCLF_FASHION_MNIST")
        return _read_folder(Path(folder), "train") if folder else _load_from_hub()
    folder = Path(folder or data_dir() / "images")
    photos, labels = _read_folder(folder, "t10k")
    if len(photos) != SPLITS["pool"].stop:
        raise ValueError(f"the test file in {folder} must hold {SPLITS['pool'].stop} photographs, got {len(photos)}")
    return photos[SPLITS[split]], labels[SPLITS[split]]


def _read_folder(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the photographs and labels of a file, "train" or "t10k"."""
    found = []
    for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        path = next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(_HELP.format(folder=str(folder), part=part, hub=_HUB_ID))
        found.append(_read_idx(path))
    photos, labels = found
    if len(photos) != len(labels):
        raise ValueError(f"{folder} must hold one label each of {len(photos)} photographs, got {len(labels)} labels")
    return photos, labels.astype(np.int64)


def _load_from_hub() -> tuple[np.ndarray, np.ndarray]:
    """Return the photographs and labels of the training file."""
    try:
        from datasets import load_dataset

        table = load_dataset(_HUB_ID, split="train").with_format("numpy")
    except Exception as error:
        raise FileNotFoundError(_HELP.format(folder=None, part="train", hub=_HUB_ID)) from error
    return np.stack(table["image"]), np.asarray(table["label"]).astype(np.int64)
