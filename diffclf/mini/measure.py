"""What an embedded model can do, measured on test images.

Every number is kept in `measures.json` as soon as it is there: a killed run goes on with the next number, and a change
of the weights starts anew.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.features import load_features
from diffclf.baselines.supervised import load_supervised
from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.embedded import CAPTION_SETS
from diffclf.datasets.world import held_out_mask
from diffclf.files import write_json
from diffclf.images import load_images, to_pixels
from diffclf.mini.tasks import TASKS
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Exhaustive, Staged, Strategy
from diffclf.search import ErrorSource, compute_errors, search
from diffclf.stats import proportion
from diffclf.trials import TrialList, uniform

__all__ = ["Classifier", "load_network", "measure", "measure_network", "measured_sets"]

N_TRIALS = 100
STAGED_SIXTY = Staged(trials=(8, 20, 100), keep=(12, 4, 1), grid="nested")
"""For sixty classes: at most 944 evaluations an image instead of 6000."""
ITEM_TASKS = {"item": "mini-items", "own colour": "mini-own-colour", "other colour": "mini-other-colour"}
"""Tasks of ten classes and their data sets; those of colours are for models that were trained with a shortcut."""

ALSO = {"items": ("mini-footwear", "mini-tops"), "coloured-items": ("mini-held-out",)}
"""Task of a baseline of Table 1 -> further data sets whose classes are among the task's."""
TABLE_1 = ("mini-items", *ALSO["items"], "mini-colours", "mini-coloured-items", *ALSO["coloured-items"])


class Classifier(Protocol):
    """What a discriminative network is here: `SupervisedClassifier`, `ContrastiveClassifier`, `FeatureClassifier`."""

    name: str

    def predict(self, data: ImageSet) -> NDArray[np.int64]:
        """Return (n_images,) positions of the chosen classes or captions."""


def load_network(name: str) -> Classifier:
    """Load a discriminative network by its built-in name."""
    kind = name.removeprefix("mini-").partition("-")[0]
    if kind == "clip":
        return load_contrastive(name)
    return load_features(name, load_model("mini-sd")) if kind == "features" else load_supervised(name)


def _item_tasks(name: str) -> dict[str, str]:
    """Return the tasks of ten classes of a model: its name says whether it was trained with a shortcut."""
    shortcut = Path(name).name.startswith("shortcut-")
    return {task: dataset for task, dataset in ITEM_TASKS.items() if (task == "item") != shortcut}


def _accuracy(hits: NDArray[np.bool_], **parts: NDArray[np.bool_]) -> dict:
    """Return the accuracy of all images with its 95% interval, and by name that of the parts that have any image."""
    estimate = proportion(int(hits.sum()), len(hits))
    accuracy = {"accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(hits)}
    return accuracy | {name: _accuracy(hits[part]) for name, part in parts.items() if part.any()}


def _reconstruction(model: DiffusionModel, n_images: int) -> dict[str, float]:
    """Return the autoencoder's errors on as many single as pair scenes, pixels in [0, 1]."""
    images = [
        image for name in ("mini-items", "mini-relation") for image in load_dataset(name, "test", n_images).images
    ]
    pixels = torch.stack([to_pixels(image, model.image_size) for image in load_images(images)])
    error = (model.decode_latents(model.encode_images(pixels)).cpu().clamp(-1, 1) - pixels) / 2
    psnr = -10 * math.log10(error.square().mean().item())
    return {"mean absolute error": error.abs().mean().item(), "psnr_db": psnr, "n": len(images)}


def _captions(model: DiffusionModel, n_images: int, name: str) -> dict:
    """Return the accuracy of choosing the true caption of each image; of relations also by axis."""
    data = load_dataset(name, "test", n_images)
    source = ErrorSource(model, data.captions, TrialList(uniform(N_TRIALS, len(model.schedule))), losses=("l2",))
    errors = compute_errors(source, data.images, desc=name)
    hits = errors.mean(axis=2, dtype=np.float64).argmin(axis=1) == data.labels
    if name != "mini-relation":
        return _accuracy(hits)
    sideways = np.array([" to the " in captions[0] for captions in data.captions])
    return _accuracy(hits, **{"left/right": sideways, "above/below": ~sideways})


def _predict(model: DiffusionModel, data: ImageSet, strategy: Strategy) -> NDArray[np.int64]:
    """Return the predicted class of each image, (n,)."""
    trials = strategy.trial_list(len(model.schedule))
    source = ErrorSource(model, data.prompts_for(model), trials, losses=("l2",))
    return np.array([table.scores().argmax() for table in search(source, data.images, strategy, desc=data.name)])


def _items(model: DiffusionModel, n_images: int, dataset: str) -> dict:
    """Return the accuracy among the ten items and the confusion matrix [true][predicted]."""
    data = load_dataset(dataset, "test", n_images)
    predicted = _predict(model, data, Exhaustive(N_TRIALS))
    confusion = np.zeros((len(data.classnames),) * 2, dtype=int)
    np.add.at(confusion, (data.labels, predicted), 1)
    return _accuracy(predicted == data.labels) | {"confusion": confusion.tolist()}


def _coloured_items(model: DiffusionModel, n_images: int, strategy: Strategy) -> dict:
    """Return the accuracy among the sixty coloured items, also of seen and of held-out combinations."""
    data = load_dataset("mini-coloured-items", "test", n_images)
    held_out = held_out_mask().ravel()[data.labels]
    return _accuracy(_predict(model, data, strategy) == data.labels, **{"seen": ~held_out, "held out": held_out})


def measure(model: DiffusionModel, path: Path, n_images: int = 1000, n_exhaustive: int = 200) -> dict:
    """Measure everything that is not yet in the file for these weights and sizes; return what the file then holds.

    Args:
        model: the model; a class-conditional one is measured on the items alone.
        path: JSON file of the results.
        n_images: test images a task.
        n_exhaustive: images on which sixty classes are also searched exhaustively.
    """
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("fingerprint") != model.fingerprint:
        results = {"fingerprint": model.fingerprint, "n_trials": N_TRIALS}
    tasks = {"reconstruction": _reconstruction}
    tasks |= {task: partial(_items, dataset=dataset) for task, dataset in _item_tasks(model.name).items()}
    if model.labels is None:
        tasks |= {name.removeprefix("mini-"): partial(_captions, name=name) for name in CAPTION_SETS}
        tasks["coloured item, staged"] = partial(_coloured_items, strategy=STAGED_SIXTY)
        tasks["coloured item, exhaustive"] = partial(_coloured_items, strategy=Exhaustive(N_TRIALS))
    for name, task in tasks.items():
        n = n_exhaustive if name == "coloured item, exhaustive" else n_images
        if n and results.get(name, {}).get("asked") != n:
            results[name] = task(model, n) | {"asked": n}
            write_json(path, results)
            print(name, {key: value for key, value in results[name].items() if key != "confusion"}, flush=True)
    return results


def measured_sets(name: str) -> dict[str, str]:
    """Return task -> data set of a discriminative network by its name; several for CLIPs and baselines of Table 1."""
    kind, _, task = Path(name).name.removeprefix("mini-").partition("-")
    if kind == "clip":
        return {
            each.removeprefix("mini-").replace("-", " "): each for each in (*TABLE_1, "mini-binding", "mini-relation")
        }
    if kind in ("synthetic", "features"):
        return {each.removeprefix("mini-").replace("-", " "): each for each in (TASKS[task], *ALSO.get(task, ()))}
    return _item_tasks(name)


def measure_network(network: Classifier, path: Path, n_images: int = 2000) -> dict:
    """Measure a discriminative network on test images of its tasks; write the results to a JSON file, return them."""
    results = {}
    for task, dataset in measured_sets(network.name).items():
        data = load_dataset(dataset, "test").first(n_images)
        results[task] = _accuracy(network.predict(data) == data.labels)
    write_json(path, results)
    return results
