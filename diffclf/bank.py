"""Error tables of many images on disk, computed once and read by all.

A bank is a Zarr group of one array, image x prompt x trial x loss, one chunk per image, and the keys of the images that
are finished. An image's key is written last, so that a run killed at any moment finds, when started again, either a
whole image or one that it computes anew. The folder's name is a hash of all that determines the numbers: weights,
prompts, timesteps, seed, losses, preprocessing, precision and the format; not of batch size or device.
"""

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.trials import Trials, image_key

if TYPE_CHECKING:
    import xarray

__all__ = ["ErrorBank"]

FORMAT = 1
BATCHES_AT_ONCE = 16  # what a killed run loses at most, and how full the last batch must be to weigh little
IMAGES_AT_ONCE = 32  # through the autoencoder
PREPROCESSING = "short side bicubic, centre crop, [-1, 1]"


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    return {**packages, "python": platform.python_version()}


class _Todo(NamedTuple):
    """An image that misses entries: its place among those asked for, pixels, errors so far, prompts and trials."""

    number: int
    pixels: torch.Tensor
    table: np.ndarray
    missing: np.ndarray


class ErrorBank:
    """Errors of many images under the same prompts and trials.

    Args:
        folder: folder of banks; this one becomes a folder in it.
        model: the diffusion model.
        prompts: what `model.encode_prompts` takes: texts, or class indices.
        timesteps: (n_trials,) the trials' timesteps, in the order of their index.
        seed: seed of the noise.
        losses: which errors to keep.
        batch_size: denoiser evaluations per forward pass; None chooses.
        noises: (n_trials,) numbers of the trials' noises (`diffclf.trials.Trials`); None: each its own.

    Attributes:
        path: the bank's own folder.
        identity: what its name is a hash of.

    Raises:
        ValueError: no timesteps, or one that the model does not have; an unknown or unsupported loss.
    """

    def __init__(
        self,
        folder: Path,
        model: DiffusionModel,
        prompts: Sequence[str] | Sequence[int],
        timesteps: Sequence[int] | np.ndarray,
        *,
        seed: int = 0,
        losses: Sequence[str] = ("l2", "l1", "huber"),
        batch_size: int | None = None,
        noises: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        import zarr
        from filelock import FileLock

        self.model = model
        self.prompts = [prompt if isinstance(prompt, str) else int(prompt) for prompt in prompts]
        self.timesteps = np.asarray(timesteps, dtype=np.int64)
        self.seed = int(seed)
        self.noises = None if noises is None else np.asarray(noises, dtype=np.int64)
        n_timesteps = len(model.alphas_cumprod)
        if not len(self.timesteps) or self.timesteps.min() < 0 or self.timesteps.max() >= n_timesteps:
            raise ValueError(f"timesteps must be one or more of 0..{n_timesteps - 1}, got {timesteps!r:.80}")
        self._evaluator = Evaluator(model, losses, batch_size)
        self.losses = self._evaluator.losses
        self.identity = {
            "format": FORMAT,
            "weights": model.fingerprint,
            "dtype": str(model.dtype),
            "image_size": model.image_size,
            "preprocessing": PREPROCESSING,
            "prompts": self.prompts,
            "timesteps": self.timesteps.tolist(),
            "seed": self.seed,
            "losses": list(self.losses),
            **({} if self.noises is None else {"noises": self.noises.tolist()}),
        }
        name = hashlib.blake2b(json.dumps(self.identity).encode(), digest_size=8).hexdigest()
        self.path = Path(folder) / name
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock")
        if not (self.path / "image" / "zarr.json").exists():
            with self._lock:  # another process may be about to create it, too
                self._create()
        self._group = zarr.open_group(self.path, mode="r+")
        self._cond: torch.Tensor | None = None
        self._compare_versions()

    def _create(self) -> None:
        """Create the arrays of a new bank, the one that marks it as complete last."""
        import zarr

        group = zarr.open_group(self.path, mode="a")
        if "image" in group:
            return
        group.attrs.update({"identity": self.identity, "versions": _versions()})
        group.create_array(
            "errors",
            shape=(0, *self._shape),
            chunks=(1, *self._shape),
            dtype="float32",
            fill_value=np.nan,
            overwrite=True,
            dimension_names=("image", "prompt", "trial", "loss"),
        )
        group.create_array(
            "image", shape=(0,), chunks=(4096,), dtype="uint64", fill_value=0, dimension_names=("image",)
        )

    def _compare_versions(self) -> None:
        """Warn if other versions of the libraries filled the bank."""
        stored, now = self._group.attrs["versions"], _versions()
        changed = [f"{name} {old} (now {now[name]})" for name, old in stored.items() if now.get(name, old) != old]
        if changed:
            warnings.warn(f"the errors in {self.path.name} were computed with {', '.join(changed)}", stacklevel=3)

    def _rows(self) -> dict[int, int]:
        """Return image key -> row of the finished images."""
        return {int(key): row for row, key in enumerate(self._group["image"][:]) if key}

    def fill(
        self,
        images: object,
        mask: np.ndarray | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Compute the entries that are not there yet, those of several images in the same batches.

        Args:
            images: PIL images, paths, arrays or tensors, one or many.
            mask: (n_prompts, n_trials) or (n_images, n_prompts, n_trials) bool, the entries wanted; None for all.
            progress: called with (images done, images in all) for each image.

        Returns:
            The denoiser evaluations it took.
        """
        images = load_images(images)
        shape = (len(self.prompts), len(self.timesteps))
        wanted = np.asarray(True if mask is None else mask, dtype=bool)
        if mask is not None and wanted.shape not in (shape, (len(images), *shape)):
            raise ValueError(f"mask must have shape {shape} or {(len(images), *shape)}, got {wanted.shape}")
        wanted = np.broadcast_to(wanted, (len(images), *shape))
        before = self._evaluator.n_evaluations
        enough = BATCHES_AT_ONCE * self._evaluator.batch_size
        with self._lock:
            rows, done = self._rows(), 0
            todo: dict[int, _Todo] = {}
            for number, image in enumerate(images, 1):
                pixels = to_pixels(image, self.model.image_size)
                key = image_key(pixels)
                if key in todo:  # an image that is there twice
                    self._fill(todo, rows)
                    todo = {}
                table = self._group["errors"][rows[key]] if key in rows else np.full(self._shape, np.nan, np.float32)
                missing = np.argwhere(wanted[number - 1] & np.isnan(table[..., 0]))
                if len(missing):
                    todo[key] = _Todo(number - 1, pixels, table, missing)
                n_todo = sum(len(image.missing) for image in todo.values())
                if n_todo >= enough or len(todo) == IMAGES_AT_ONCE or number == len(images):
                    self._fill(todo, rows)
                    todo = {}
                while progress is not None and not todo and done < number:
                    done += 1
                    progress(done, len(images))
        return self._evaluator.n_evaluations - before

    @property
    def _shape(self) -> tuple[int, int, int]:
        return len(self.prompts), len(self.timesteps), len(self.losses)

    def _fill(self, todo: dict[int, "_Todo"], rows: dict[int, int]) -> None:
        """Compute what some images miss, in batches that they share."""
        if not todo:
            return
        if self._cond is None:
            self._cond = self.model.encode_prompts(self.prompts)
        x0 = self.model.encode_images(torch.stack([image.pixels for image in todo.values()]))
        trials = [Trials(self.timesteps, self.seed, key, x0.shape[1:], self.noises) for key in todo]
        triples = np.concatenate([np.insert(image.missing, 0, i, axis=1) for i, image in enumerate(todo.values())])
        numbers = [image.number for image in todo.values()]
        found = self._evaluator.errors(x0, self._cond, trials, triples, numbers=numbers)
        for i, (key, image) in enumerate(todo.items()):
            image.table[image.missing[:, 0], image.missing[:, 1]] = found[triples[:, 0] == i]
            self._store(key, image.table, rows)

    def _store(self, key: int, table: np.ndarray, rows: dict[int, int]) -> None:
        errors, keys = self._group["errors"], self._group["image"]
        if key in rows:
            errors[rows[key]] = table
            return
        # Finished rows are the first ones; what a killed run left behind them is written over.
        row = len(rows)
        if errors.shape[0] <= row:
            errors.resize((row + 1, *errors.shape[1:]))
        if keys.shape[0] <= row:
            keys.resize((row + 1,))
        errors[row] = table
        keys[row] = key
        rows[key] = row

    def table(
        self, images: object, labels: Sequence[int] | None = None, classnames: Sequence[str] | None = None
    ) -> "xarray.DataArray":
        """Return the errors of these images as a labelled array (image, prompt, trial, loss).

        Coordinates: image key, prompt, timestep of each trial, loss; label of each image and class name of each prompt
        where they are given.

        Args:
            images: PIL images, paths, arrays or tensors, one or many.
            labels: (n_images,) what the images show.
            classnames: (n_prompts,) what the prompts stand for.

        Raises:
            KeyError: an image is not in the bank.
        """
        import xarray

        keys = [image_key(to_pixels(image, self.model.image_size)) for image in load_images(images)]
        rows = self._rows()
        missing = [number for number, key in enumerate(keys) if key not in rows]
        if missing:
            raise KeyError(f"images must be in the bank, got {len(missing)} that are not; call fill first")
        order = [rows[key] for key in keys]
        values = np.stack([self._group["errors"][row] for row in order])
        more = {} if labels is None else {"label": ("image", np.asarray(labels))}
        more |= {} if classnames is None else {"classname": ("prompt", list(classnames))}
        return xarray.DataArray(
            values,
            dims=("image", "prompt", "trial", "loss"),
            coords={
                "image": np.array(keys, dtype=np.uint64),
                "prompt": self.prompts,
                "timestep": ("trial", self.timesteps),
                "loss": list(self.losses),
                **more,
            },
            attrs=dict(self._group.attrs["identity"]),
        )

    def errors(self, images: object, loss: str = "l2") -> np.ndarray:
        """Return the errors of these images, (n_images, n_prompts, n_trials) float32, NaN where not evaluated.

        Raises:
            ValueError: the bank does not keep this loss.
            KeyError: an image is not in the bank.
        """
        if loss not in self.losses:
            raise ValueError(f"loss must be one of the bank's {self.losses}, got {loss!r}")
        return self.table(images).sel(loss=loss).to_numpy()
