"""Errors on disk: a cache in front of the evaluator.

A bank is a folder named by a hash of all that determines its numbers: weights, prompts, trials, seed, losses,
preprocessing, precision and the format; not batch size, device or library versions. It holds `bank.json`, which states
all this, and one file per image, named by the image's key:

    16 bytes   BLAKE2b of the bank's name, the file's name and the rest
    the rest   errors, little-endian float32 (n_prompts, n_trials, n_losses), NaN where nothing was evaluated

A file is written whole and in one step, so that many processes and hosts may fill a bank at once without waiting for
each other, and a killed run loses at most the images in flight. A damaged file is noticed, reported and computed anew.
"""

import hashlib
import json
import platform
import re
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from diffclf.files import write_json, write_whole
from diffclf.images import list_images, load_image, to_pixels
from diffclf.models.precision import precision
from diffclf.models.protocol import DiffusionModel
from diffclf.search import ErrorSource, Prompt, compute_errors
from diffclf.trials import TrialList, image_key

if TYPE_CHECKING:
    import xarray

__all__ = ["ErrorBank", "StoredBank", "bank_name", "read_entry", "write_entry"]

FORMAT = 2
PREPROCESSING = "short side bicubic, centre crop, [-1, 1]"
CHECKSUM = 16  # bytes
MAX_DESCRIPTION = 256_000_000  # bytes of bank.json, most of them prompts


def _hash(text: str, data: bytes = b"", size: int = CHECKSUM) -> bytes:
    return hashlib.blake2b(text.encode() + data, digest_size=size).digest()


def bank_name(identity: dict[str, Any]) -> str:
    """Return the name of the bank with an identity, 16 hexadecimal digits."""
    return _hash(json.dumps(identity), size=8).hex()


def read_entry(path: Path) -> NDArray[np.float32] | None:
    """Return the errors in the file of an image, flat, NaN where there is none; None if the file is damaged.

    Raises OSError if the file cannot be read.
    """
    content = path.read_bytes()
    checksum, data = content[:CHECKSUM], content[CHECKSUM:]
    if checksum != _hash(path.parent.name + path.name, data) or len(data) % 4:
        return None
    return np.frombuffer(data, "<f4").astype(np.float32)


def write_entry(path: Path, errors: NDArray[np.float32]) -> None:
    """Write the file of an image in one step; raise OSError if it cannot be written."""
    data = errors.astype("<f4").tobytes()
    write_whole(path, _hash(path.parent.name + path.name, data) + data)


class StoredBank:
    """A bank's folder, read without its model.

    Attributes:
        path: the bank's own folder.
        identity, versions: what bank.json states.

    Raises:
        ValueError: bank.json is missing, damaged or of another bank.
        OSError: it cannot be read.
    """

    ENTRY = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?\.errors")

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve()
        try:
            stated = json.loads((path / "bank.json").read_text(encoding="utf-8"))
            self.identity, self.versions = dict(stated["identity"]), dict(stated["versions"])
            prompts, shared = self.identity["prompts"], ("timesteps", "losses")
            self.n_each = [len(self.identity[name]) for name in shared]
            self.n_prompts = len(prompts) if isinstance(prompts, list) else None  # None: each image has its own
        except FileNotFoundError:
            raise ValueError(f"{path} is no bank: it has no bank.json") from None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}/bank.json is damaged; the next run with this bank writes it anew") from error
        if bank_name(self.identity) != path.name:
            raise ValueError(
                f"{path}/bank.json must describe bank {path.name}, got that of {bank_name(self.identity)}; "
                "the folder was renamed or the file changed"
            )

    def entries(self) -> list[Path]:
        """Return the files of the images, sorted by name."""
        return sorted(path for path in self.path.iterdir() if self.ENTRY.fullmatch(path.name) and path.is_file())

    def read(self, path: Path) -> NDArray[np.float32] | None:
        """Return the errors in one of the bank's files, flat; None if the file is damaged."""
        n_row = self.n_each[0] * self.n_each[1]
        n = n_row if self.n_prompts is None else n_row * self.n_prompts
        size = path.stat().st_size - CHECKSUM
        if size <= 0 or size % (4 * n) or (self.n_prompts is not None and size != 4 * n):
            return None
        return read_entry(path)


class ErrorBank(ErrorSource):
    """Prediction errors of images under prompts and trials, computed once and kept on disk.

    The folder holds the folders of banks. The other arguments (options: seed, losses, batch_size) and the
    errors are those of `ErrorSource`.

    Attributes:
        path: the bank's own folder.
        identity: what its name is a hash of.
    """

    def __init__(
        self, folder: str | Path, model: DiffusionModel, prompts: Sequence, trials: TrialList, **options: object
    ) -> None:
        super().__init__(model, prompts, trials, **options)
        self.identity = {
            "format": FORMAT,
            "weights": model.fingerprint,
            "dtype": precision(model),
            "image_size": model.image_size,
            "preprocessing": PREPROCESSING,
            "prompts": "each image's own" if self.per_image else self.prompts,
            "timesteps": trials.timesteps.tolist(),
            "noises": trials.noises.tolist(),
            "seed": self.seed,
            "losses": list(self.losses),
        }
        self.path = Path(folder) / bank_name(self.identity)
        self._describe()

    def _describe(self) -> None:
        """Write bank.json; warn if it is damaged, or other versions of the libraries have written it."""
        versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
        versions["python"] = platform.python_version()
        path, own = self.path / "bank.json", {"identity": self.identity, "versions": versions}
        if not path.is_file():
            write_json(path, own)
            return
        identity = json.loads(json.dumps(self.identity))
        try:
            if path.stat().st_size > MAX_DESCRIPTION:
                raise ValueError("too long to be read")
            stored = json.loads(path.read_text(encoding="utf-8"))
            damaged = stored["identity"] != identity or stored["versions"].keys() != versions.keys()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no JSON, or of another shape
            damaged = True
        if damaged:
            warnings.warn(f"{path} is damaged; it is written anew", stacklevel=3)
            write_json(path, own)
            return
        found = stored["versions"].items()
        changed = [f"{name} {old} (here {versions[name]})" for name, old in found if versions[name] != old]
        if changed:
            warnings.warn(f"the errors in {self.path.name} were computed with {', '.join(changed)}", stacklevel=3)

    def _entry(self, key: int, prompts: Sequence[Prompt]) -> Path:
        """Return the file of an image; one with prompts of its own has a file per list of prompts."""
        own = f"-{_hash(json.dumps(list(prompts)), size=8).hex()}" if self.per_image else ""
        return self.path / f"{key:016x}{own}.errors"

    def _stored(self, key: int, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float32], bool]:
        """Return the errors of an image that its file has, NaN elsewhere, and whether the file is damaged."""
        unknown, path = super().load(key, prompts), self._entry(key, prompts)
        if not path.is_file():
            return unknown, False
        if path.stat().st_size != CHECKSUM + unknown.nbytes:  # of any size: not read
            return unknown, True
        errors = read_entry(path)
        return (unknown, True) if errors is None else (errors.reshape(unknown.shape), False)

    @override
    def load(self, key: int, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        errors, damaged = self._stored(key, prompts)
        if damaged:
            warnings.warn(f"{self._entry(key, prompts)} is damaged; its errors are computed anew", stacklevel=2)
        return errors

    @override
    def save(self, key: int, prompts: Sequence[Prompt], errors: NDArray[np.float32]) -> None:
        known, _ = self._stored(key, prompts)  # others may have stored some meanwhile; `load` has named any damage
        write_entry(self._entry(key, prompts), np.where(np.isnan(errors), known, errors))

    def errors(
        self, images: object, loss: str = "l2", n_trials: int | None = None, desc: str | None = "images"
    ) -> NDArray[np.float32]:
        """Return the errors of every prompt on the first n_trials trials; see `diffclf.search.compute_errors`."""
        return compute_errors(self, images, loss, n_trials, desc)

    def table(
        self, images: object, labels: Sequence[int] | None = None, classnames: Sequence[str] | None = None
    ) -> "xarray.DataArray":
        """Return the stored errors of images as a labelled array (image, prompt, trial, loss), NaN where there is none.

        Coordinates: image key, prompt, timestep of each trial, loss; label of each image and class name of each prompt
        where they are given. Raises ValueError if the images have prompts of their own.
        """
        import xarray

        if self.per_image:
            raise ValueError("a table needs prompts that all images share, got one list per image")
        how = self.model.image_size, self.model.halves_large_images
        keys = [image_key(to_pixels(load_image(*item), *how)) for item in list_images(images)]
        coords = {
            "image": np.array(keys, dtype=np.uint64),
            "prompt": self.prompts,
            "timestep": ("trial", self.trials.timesteps),
            "loss": list(self.losses),
        }
        if labels is not None:
            coords["label"] = "image", np.asarray(labels)
        if classnames is not None:
            coords["classname"] = "prompt", list(classnames)
        errors = np.stack([self.load(key, self.prompts) for key in keys])
        return xarray.DataArray(errors, coords, dims=("image", "prompt", "trial", "loss"), attrs=self.identity)
