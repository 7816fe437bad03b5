"""Images in any usual form -> RGB pictures -> the square of pixels in [-1, 1] that a model takes.

Preprocessing is that of the paper: short side to the model's size (bicubic, antialiased), centre crop, x / 127.5 - 1.
For DiT, images are first halved by averaging as long as the short side is twice the size or more.

Sources: Li et al. 2023, appendix F (implementation details) and the released code; rounding of the long side and of the
crop as torchvision's Resize and CenterCrop have it, for DiT as in Dhariwal & Nichol 2021, arXiv 2105.05233.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

__all__ = ["FORMATS", "MAX_PIXELS", "ImageError", "ImageLike", "list_images", "load_image", "load_images", "to_pixels"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that files may have, as Pillow calls them. Some of its other readers start programs (EPS)."""
MAX_PIXELS = 100_000_000
"""Pixels that an image may have."""

ImageLike = Image.Image | str | os.PathLike | bytes | BinaryIO | np.ndarray | torch.Tensor
"""What one image may be; an array or a tensor with one axis more holds several."""

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_CHANNELS = (1, 3, 4)
_LONGEST = 16
_LARGE, _LARGE_SIDE = 25_000_000, 2048
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftyphevx", b"ftypmif1", b"ftypmsf1")
_ACCEPTED = "a PIL image, a path, an image file as bytes, a numpy array or a torch tensor"


class ImageError(ValueError):
    """An image cannot be used: the message names it and says why."""


def list_images(images: ImageLike | Iterable[ImageLike]) -> list[tuple[ImageLike, str]]:
    """Return one or many images, as for `load_images` but not decoded yet, with their names in error messages.

    An image of a sequence that makes its items on demand is a function that returns it, which `load_image` calls.
    Raises ImageError if there is no image at all, and FileNotFoundError for a path that does not exist.
    """
    holds_objects = isinstance(images, np.ndarray) and images.dtype.kind in "OU"  # paths or pictures
    lone_array = isinstance(images, np.ndarray | torch.Tensor) and not holds_objects and images.ndim != 4
    if lone_array or isinstance(images, Image.Image | str | os.PathLike | bytes | io.IOBase):
        items, names = [images], [_name(images, "image")]
    elif isinstance(images, Iterable):
        lazy = isinstance(images, Sequence) and not isinstance(images, list | tuple)  # a column of a hub data set
        items = [partial(images.__getitem__, i) for i in range(len(images))] if lazy else list(images)
        names = [_name(item, f"images[{position}]") for position, item in enumerate(items)]
    else:
        raise ImageError(f"images must be {_ACCEPTED}, or several of these, got {type(images).__name__}")
    if not items:
        raise ImageError("images must hold at least one image, got none")
    for item in items:
        if isinstance(item, str | os.PathLike) and not os.path.exists(item):
            raise FileNotFoundError(f"image not found: {item}")
    return list(zip(items, names, strict=True))


def load_images(images: ImageLike | Iterable[ImageLike]) -> list[Image.Image]:
    """Return one or many images as fully decoded 8-bit RGB pictures.

    EXIF rotation is applied, transparent parts show white, grey becomes RGB, 16-bit grey is scaled to 8 bits. A JPEG
    file of more than 25 megapixels is scaled down while it is decoded, to a short side of 2048 pixels or more.

    Args:
        images: a PIL image, a path, the bytes of an image file or an open one, a numpy array (H, W), (H, W, C) or
            (n, H, W, C), a torch tensor (H, W), (C, H, W) or (n, C, H, W), or an iterable of single images of any of
            these kinds. C is 1, 3 or 4 (with alpha); arrays and tensors are uint8, uint16 (scaled to 8 bits), bool
            (black and white), or floating point in [0, 1] (rounded to 8 bits).

    Raises:
        ImageError: no image at all; a file in none of `FORMATS`, damaged, or with several pictures; more than
            `MAX_PIXELS` pixels; an array of another shape, dtype or range. The message names the file, or the position
            as images[i].
        FileNotFoundError: a path that does not exist.
    """
    return [load_image(item, name) for item, name in list_images(images)]


def load_image(item: ImageLike, name: str) -> Image.Image:
    """Return one image, called `name` in messages, as a fully decoded 8-bit RGB picture; see `load_images`."""
    if callable(item):
        item = item()
    if isinstance(item, str | os.PathLike):
        return _load_file(Path(item), name)
    if isinstance(item, bytes | io.IOBase):
        return _load_file(io.BytesIO(item) if isinstance(item, bytes) else item, name)
    if isinstance(item, Image.Image):
        return _decode(item, name)
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item  # numpy has no bfloat16
        if item.ndim == 3:
            if item.shape[0] not in _CHANNELS:
                raise ImageError(f"{name}: a tensor must be (H, W) or (C, H, W), C 1, 3 or 4, got {tuple(item.shape)}")
            item = item.permute(1, 2, 0)
        item = item.numpy()
    if isinstance(item, np.ndarray):
        return _from_array(item, name)
    raise ImageError(f"{name} must be {_ACCEPTED}, got {type(item).__name__}")


def to_pixels(image: Image.Image, size: int, halve: bool = False) -> torch.Tensor:
    """Return the centre square of an RGB image, `size` pixels a side, as float32 (3, size, size) in [-1, 1].

    `halve`: halve the image by averaging 2 x 2 pixels while its short side is 2 size or more, then go on; DiT's way.

    An image that is `size` x `size` already passes through unchanged. A strip longer than 16 times its width is first
    cut to its central part: what is cut off lies outside the square anyway, but scaled up it could fill the memory.

    Source: Li et al. 2023 (short side to `size`, bicubic, then centre crop).
    """
    short = min(image.size)
    if max(image.size) > _LONGEST * short:
        image = _central(image, min(image.width, _LONGEST * short), min(image.height, _LONGEST * short))
    while halve and short >= 2 * size:
        image = image.resize([side // 2 for side in image.size], Image.Resampling.BOX)
        short = min(image.size)
    if short != size:
        # torchvision's Resize truncates; for DiT sides are rounded
        scaled = [round(side * (size / short)) if halve else int(size * side / short) for side in image.size]
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(_central(image, size, size, halve), dtype=np.float32))
    return (values / 127.5 - 1).permute(2, 0, 1).contiguous()


def _central(image: Image.Image, width: int, height: int, down: bool = False) -> Image.Image:
    """Return the central part; a half pixel rounds to even, as in torchvision's CenterCrop, or down."""
    left, top = ((have - want) / 2 for have, want in zip(image.size, (width, height), strict=True))
    left, top = (int(left), int(top)) if down else (round(left), round(top))
    return image.crop((left, top, left + width, top + height))


def _name(item: object, otherwise: str) -> str:
    """Return how an error message calls this image."""
    if isinstance(item, Image.Image):
        return str(getattr(item, "filename", "") or otherwise)
    return str(item) if isinstance(item, str | os.PathLike) else otherwise


def _load_file(path: Path | BinaryIO, name: str) -> Image.Image:
    """Return the image in a file, given by its path or open, as RGB."""
    if isinstance(path, Path):
        _check_file(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_decode` has a limit of its own
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} must have at most {MAX_PIXELS:,} pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        if getattr(error, "errno", None) is not None:
            raise ImageError(f"{name} cannot be read: {error.strerror}") from error
        formats = ", ".join(FORMATS)
        raise ImageError(f"{name} is not an image in one of the formats {formats}{_advice(path)}") from error
    with image:
        if image.width * image.height > _LARGE:
            image.draft(None, (_LARGE_SIDE, _LARGE_SIDE))
        return _decode(image, name, in_place=True)


def _check_file(path: Path, name: str) -> None:
    """Raise ImageError for a path that is no file with content; reading a pipe could wait for ever."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is a pipe, a socket or a device, expected an image file")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty (0 bytes), expected an image file")


def _advice(path: Path | BinaryIO) -> str:
    """Return the end of a message about a file in no accepted format: what to do about it, where that is known."""
    with suppress(Exception), path.open("rb") if isinstance(path, Path) else nullcontext(path) as file:
        file.seek(4)
        if file.read(8) in _HEIC:
            return ": it is a HEIC image; convert it to PNG or JPEG, for example with the package pillow-heif"
    return ""


def _decode(image: Image.Image, name: str, in_place: bool = False) -> Image.Image:
    """Return a picture, perhaps not read to its end yet, as upright RGB; `in_place` saves the memory of a copy."""
    if 0 in image.size:
        raise ImageError(f"{name} is empty, got {image.width} x {image.height} pixels")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name} must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}")
    try:
        # An MPO is what many telephones and cameras write as .jpg: the photograph first, then a depth map or preview.
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if n_frames == 1:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ImageError(f"{name} is truncated or damaged: {error}") from error
    if n_frames > 1:
        raise ImageError(f"{name} is animated or has several pages ({n_frames} frames), expected a single image")
    with suppress(Exception):  # EXIF too damaged to hold an orientation; the pixels are fine
        image = ImageOps.exif_transpose(image, in_place=in_place) or image
    return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return an upright, decoded image as 8-bit RGB over white."""
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name}: 16-bit values must lie in [0, 65535], got {values.min()} to {values.max()}")
        return _from_array(_to_eight_bits(values), name)
    if image.mode == "F":
        return _from_array(np.asarray(image), name)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Return a picture with transparent parts over white, some rows at a time to save memory."""
    whole, n_rows = Image.new("RGB", image.size), max(1, 2**20 // image.width)
    for top in range(0, image.height, n_rows):
        rows = image.crop((0, top, image.width, min(top + n_rows, image.height))).convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", rows.size, "white"), rows).convert("RGB"), (0, top))
    return whole


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return values in 0..65535 as uint8, rounded."""
    rounded = values.astype(np.uint32)
    rounded += 128
    rounded //= 257
    return rounded.astype(np.uint8)


def _from_array(values: np.ndarray, name: str) -> Image.Image:
    """Return an array (H, W) or (H, W, C), uint8 or float in [0, 1], as RGB."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _CHANNELS) or values.size == 0:
        raise ImageError(f"{name}: an array must be (H, W) or (H, W, C), C 1, 3 or 4, not empty, got {values.shape}")
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise ImageError(f"{name}: floating-point values must lie in [0, 1], got {low:g} to {high:g}")
        values = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    elif values.dtype == np.uint16:
        values = _to_eight_bits(values)
    elif values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype != np.uint8:
        raise ImageError(f"{name} must be uint8, uint16, bool, or floats in [0, 1], got dtype {values.dtype}")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(values)), name)
