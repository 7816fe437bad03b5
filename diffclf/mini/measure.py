"""What an embedded model can do, measured on test images.

Every number is kept in `measures.json` as soon as it is there: a killed run goes on with the next number, and a change
of the weights starts anew.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.captions import CAPTION_SETS
from diffclf.datasets.world import held_out_mask
from diffclf.files import write_json
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Exhaustive, Staged, Strategy
from diffclf.search import ErrorSource, compute_errors, search
from diffclf.stats import proportion
from diffclf.trials import TrialList, uniform

__all__ = ["N_TRIALS", "STAGED_SIXTY", "measure"]

N_TRIALS = 100
STAGED_SIXTY = Staged(trials=(8, 20, 100), keep=(12, 4, 1), grid="nested")
"""For sixty classes: at most 944 evaluations an image instead of 6000."""


def _accuracy(hits: NDArray[np.bool_]) -> dict[str, float]:
    """Return the accuracy with its 95% interval."""
    estimate = proportion(int(hits.sum()), len(hits))
    return {"accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(hits)}


def _accuracies(hits: NDArray[np.bool_], parts: dict[str, NDArray[np.bool_]]) -> dict:
    """Return the accuracy of all images and, by name, of those parts that have any."""
    return _accuracy(hits) | {name: _accuracy(hits[part]) for name, part in parts.items() if part.any()}


def _captions(model: DiffusionModel, name: str, n_images: int) -> dict:
    """Return the accuracy of choosing the true caption of each image; of relations also by axis."""
    data = load_dataset(name, n_images=n_images)
    source = ErrorSource(model, data.captions, TrialList(uniform(N_TRIALS, len(model.schedule))), losses=("l2",))
    errors = compute_errors(source, data.images, desc=data.name)
    hits = errors.mean(axis=2, dtype=np.float64).argmin(axis=1) == data.labels
    if name != "mini-relation":
        return _accuracy(hits)
    sideways = np.array([" to the " in captions[0] for captions in data.captions])
    return _accuracies(hits, {"left/right": sideways, "above/below": ~sideways})


def _predict(model: DiffusionModel, data: ImageSet, strategy: Strategy) -> NDArray[np.int64]:
    """Return the predicted class of each image, (n,)."""
    trials = strategy.trial_list(len(model.schedule))
    source = ErrorSource(model, data.prompts_for(model), trials, losses=("l2",))
    return np.array([table.scores().argmax() for table in search(source, data.images, strategy, desc=data.name)])


def _items(model: DiffusionModel, n_images: int) -> dict:
    """Return the accuracy among the ten items and the confusion matrix [true][predicted]."""
    data = load_dataset("mini-items", n_images=n_images)
    predicted = _predict(model, data, Exhaustive(N_TRIALS))
    confusion = np.zeros((len(data.classnames),) * 2, dtype=int)
    np.add.at(confusion, (data.labels, predicted), 1)
    return _accuracy(predicted == data.labels) | {"confusion": confusion.tolist()}


def _coloured_items(model: DiffusionModel, strategy: Strategy, n_images: int) -> dict:
    """Return the accuracy among the sixty coloured items, also of seen and of held-out combinations."""
    data = load_dataset("mini-coloured-items", n_images=n_images)
    held_out = held_out_mask().ravel()[data.labels]
    hits = _predict(model, data, strategy) == data.labels
    return _accuracies(hits, {"seen": ~held_out, "held out": held_out})


def _reconstruction(model: DiffusionModel, n_images: int) -> dict[str, float]:
    """Return the autoencoder's errors on as many single as pair scenes, pixels in [0, 1]."""
    images = [*load_dataset("mini-items", n_images=n_images).images]
    images += load_dataset("mini-relation", n_images=n_images).images
    pixels = torch.stack([to_pixels(image, model.image_size) for image in load_images(images)])
    error = (model.decode_latents(model.encode_images(pixels)).cpu().clamp(-1, 1) - pixels) / 2
    psnr = -10 * math.log10(error.square().mean().item())
    return {"mean absolute error": error.abs().mean().item(), "psnr_db": psnr, "n": len(images)}


def _tasks(model: DiffusionModel, n_images: int, n_exhaustive: int) -> dict[str, tuple[int, Callable[[int], dict]]]:
    """Return what is measured: name -> number of images, function of that number."""
    tasks = {
        "reconstruction": (n_images, partial(_reconstruction, model)),
        "item": (n_images, partial(_items, model)),
    }
    if model.labels is not None:
        return tasks
    for name in CAPTION_SETS:
        tasks[name.removeprefix("mini-")] = (n_images, partial(_captions, model, name))
    tasks["coloured item, staged"] = (n_images, partial(_coloured_items, model, STAGED_SIXTY))
    tasks["coloured item, exhaustive"] = (n_exhaustive, partial(_coloured_items, model, Exhaustive(N_TRIALS)))
    return tasks


def measure(model: DiffusionModel, path: Path, n_images: int = 1000, n_exhaustive: int = 200) -> dict:
    """Measure everything that is not yet in the file for these weights and sizes.

    Args:
        model: the model; a class-conditional one is measured on the items alone.
        path: JSON file of the results.
        n_images: test images a task.
        n_exhaustive: images on which sixty classes are also searched exhaustively.

    Returns:
        What the file then holds.
    """
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("fingerprint") != model.fingerprint:
        results = {"fingerprint": model.fingerprint, "n_trials": N_TRIALS}
    for name, (n, act) in _tasks(model, n_images, n_exhaustive).items():
        if results.get(name, {}).get("asked") == n or not n:
            continue
        results[name] = act(n) | {"asked": n}
        write_json(path, results)
        print(name, {key: value for key, value in results[name].items() if key != "confusion"}, flush=True)
    return results
