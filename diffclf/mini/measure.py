"""`diffclf measure mini-sd`: what the miniature Stable Diffusion can do, measured on test images.

Every number is kept in `measures.json` beside the weights as soon as it is there, so that a killed run goes on
with the next one, and a change of the weights starts anew.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffclf.classifier import DiffusionClassifier
from diffclf.datasets.embedded import load_embedded
from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.mini.tasks import TASKS, caption_task
from diffclf.mini.world import ITEMS, held_out_mask
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Exhaustive, Pruning, Staged
from diffclf.stats import Estimate, proportion
from diffclf.trials import Trials, image_key, uniform

__all__ = ["N_TRIALS", "STAGED_SIXTY", "add_arguments", "caption_accuracy", "measure", "run"]

N_TRIALS = 100
STAGED_SIXTY = Staged(trials=(8, 20, 100), keep=(12, 4, 1), grid="nested")
"""For sixty classes: at most 944 evaluations an image instead of 6000."""


def _accuracy(hits: np.ndarray) -> dict[str, float]:
    estimate: Estimate = proportion(int(hits.sum()), len(hits))
    return {"accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(hits)}


def _predict(model: DiffusionModel, name: str, pruning: Pruning, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (predicted, true) class positions of a test set."""
    data = load_embedded(name, "test", n_images)
    classifier = DiffusionClassifier(model, data.prompts, pruning=pruning)
    tables = tqdm(classifier.error_tables(data.images), total=len(data), desc=name, mininterval=5)
    scores = [table.scores() for table in tables]
    return np.argmax(scores, axis=1), data.labels


def caption_accuracy(model: DiffusionModel, task: str, n_images: int, *, split: str = "test", seed: int = 0) -> dict:
    """Return the accuracy of choosing the true caption of each image, over 100 shared trials.

    Args:
        model: a text-conditional model.
        task: "colour", "binding" or "relation".
        n_images: how many images.
        split: part of the test file.
        seed: seed of scenes and noise.

    Returns:
        Accuracy with its 95% interval and n; for "relation" also by axis.
    """
    data = caption_task(task, split, n_images, seed)
    evaluator = Evaluator(model, ["l2"])
    texts = sorted({text for captions in data.captions for text in captions})
    row = {text: i for i, text in enumerate(texts)}
    cond = model.encode_prompts(texts)
    n_captions = len(data.captions[0])
    means = []
    for start in tqdm(range(0, n_images, 16), desc=task, mininterval=5):
        pixels = [to_pixels(image, model.image_size) for image in load_images(data.images[start : start + 16])]
        x0 = model.encode_images(torch.stack(pixels))
        trials = [Trials(uniform(N_TRIALS), seed, image_key(p), model.latent_shape) for p in pixels]
        triples = np.array(
            [
                (image, row[text], trial)
                for image, captions in enumerate(data.captions[start : start + 16])
                for text in captions
                for trial in range(N_TRIALS)
            ]
        )
        errors = evaluator.errors(x0, cond, trials, triples)[:, 0]
        means.append(errors.reshape(len(pixels), n_captions, N_TRIALS).mean(axis=2, dtype=np.float64))
    hits = np.concatenate(means).argmin(axis=1) == 0
    result = _accuracy(hits)
    if task == "relation":
        sideways = np.array([" to the " in captions[0] for captions in data.captions])
        parts = {"left/right": hits[sideways], "above/below": hits[~sideways]}
        result |= {name: _accuracy(part) for name, part in parts.items() if len(part)}
    return result


def _reconstruction(model: DiffusionModel, n_images: int) -> dict[str, float]:
    """Return the autoencoder's errors on single and pair scenes of the test split, pixels in [0, 1]."""
    images = [*load_embedded("mini-items", "test", n_images).images, *caption_task("relation", "test", n_images).images]
    pixels = torch.stack([to_pixels(image, model.image_size) for image in load_images(images)])
    error = (model.decode_latents(model.encode_images(pixels)).cpu().clamp(-1, 1) - pixels) / 2
    mse = error.square().mean().item()
    return {"mean absolute error": error.abs().mean().item(), "psnr_db": -10 * np.log10(mse), "n": len(images)}


def _coloured(model: DiffusionModel, pruning: Pruning, n_images: int) -> dict:
    predicted, true = _predict(model, "mini-coloured-items", pruning, n_images)
    hits = predicted == true
    held_out = held_out_mask().ravel()[true]
    parts = {"seen": hits[~held_out], "held out": hits[held_out]}
    return _accuracy(hits) | {name: _accuracy(part) for name, part in parts.items() if len(part)}


def _items(model: DiffusionModel, n_images: int) -> dict:
    predicted, true = _predict(model, "mini-items", Exhaustive(N_TRIALS), n_images)
    confusion = np.zeros((len(ITEMS), len(ITEMS)), dtype=int)
    np.add.at(confusion, (true, predicted), 1)
    return _accuracy(predicted == true) | {"confusion": confusion.tolist()}


def measure(model: DiffusionModel, path: Path, n_images: int = 1000, n_exhaustive: int = 200) -> dict:
    """Measure everything that is not yet in the file for these weights and sizes.

    Args:
        model: the model.
        path: JSON file of the results.
        n_images: test images a task.
        n_exhaustive: images on which sixty classes are also searched exhaustively.

    Returns:
        What the file then holds.
    """
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("fingerprint") != model.fingerprint:
        results = {"fingerprint": model.fingerprint, "n_trials": N_TRIALS}
    tasks: dict[str, tuple[int, Callable[[int], dict]]] = {
        "reconstruction": (n_images, lambda n: _reconstruction(model, n)),
        "item": (n_images, lambda n: _items(model, n)),
        **{task: (n_images, lambda n, task=task: caption_accuracy(model, task, n)) for task in TASKS},
        "coloured item, staged": (n_images, lambda n: _coloured(model, STAGED_SIXTY, n)),
        "coloured item, exhaustive": (n_exhaustive, lambda n: _coloured(model, Exhaustive(N_TRIALS), n)),
    }
    for name, (n, act) in tasks.items():
        if results.get(name, {}).get("asked") == n or not n:
            continue
        results[name] = act(n) | {"asked": n}
        path.with_suffix(".part").write_text(json.dumps(results, indent=1) + "\n")
        os.replace(path.with_suffix(".part"), path)
        print(name, {k: v for k, v in results[name].items() if k != "confusion"}, flush=True)
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf measure`."""
    parser.add_argument("name", help="an embedded model: mini-sd, mini-sd@2, ...")
    parser.add_argument("--images", type=int, default=1000, help="test images a task")
    parser.add_argument("--exhaustive", type=int, default=200, help="images with all sixty classes, exhaustively")
    parser.add_argument("--compile", action="store_true", help="compile the network: a minute first, then faster")
    parser.add_argument("--out", type=Path, help="JSON file; by default beside the weights")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf measure`: about four million denoiser evaluations with the defaults, an hour on two CPU cores."""
    from diffclf.mini.card import write_card
    from diffclf.paths import data_dir

    folder = data_dir() / "models" / args.name.split("@")[0]
    path = args.out or folder / "measures.json"
    measure(load_model(args.name, compile=args.compile), path, args.images, args.exhaustive)
    if args.out is None:
        write_card(folder)
        print(f"wrote {folder / 'README.md'}")
    return 0
