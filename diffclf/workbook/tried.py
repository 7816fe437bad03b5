"""What else was tried to make a race cheaper, with numbers: most of it did not help.

All of it on *tune* images of mini-items, where the study's bank holds every class on every trial of a race.

    moderated variances   evaluations of a calibrated race with and without
    weights per timestep  accuracy of all classes on all trials, weights from the spread between classes, no labels
    antithetic noise      correlation of a difference's error under eps and under -eps; negative is good
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffclf.datasets.imageset import ImageSet
from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.mini.harness import TASKS, complete_tables, open_task
from diffclf.models.protocol import DiffusionModel
from diffclf.racing import Racing
from diffclf.trials import Trials, image_key

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["antithetic_correlation", "tried_table", "try_all", "weighted_accuracies"]

N_MIRRORED = 60  # images
N_TIMESTEPS = 16


class _Mirrored(Trials):
    """Trials of which every third is the mirror image of the one before: eps, -eps, another eps, each thrice a t."""

    def noise(self, indices: np.ndarray) -> Tensor:
        """Return the noise of the trials asked for."""
        indices = np.atleast_1d(np.asarray(indices))
        mirrored = indices % 3 == 1
        eps = super().noise(indices - mirrored)
        return torch.where(torch.from_numpy(mirrored).view(-1, 1, 1, 1), -eps, eps)


def antithetic_correlation(model: DiffusionModel, data: ImageSet, timesteps: np.ndarray) -> float:
    """Return the correlation, given image and timestep, of paired differences under eps and -eps.

    With errors d of eps, -eps and an independent eps', it is 1 - E (d - d_mirrored)^2 / E (d - d_independent)^2; a pair
    of mirrored noises then has 1 + that times the variance of a pair of independent ones.

    Args:
        model: the model.
        data: images; every class is compared with the true one.
        timesteps: where.
    """
    evaluator = Evaluator(model, ["l2"])
    cond = model.encode_prompts(list(data.prompts.values()))
    n_classes, n_trials = len(data.classnames), 3 * len(timesteps)
    triples = np.array([(0, p, i) for i in range(n_trials) for p in range(n_classes)])
    mirrored, independent = [], []
    for image, label in zip(load_images(data.images), data.labels, strict=True):
        pixels = to_pixels(image, model.image_size)
        x0 = model.encode_images(pixels[None])
        trials = _Mirrored(np.repeat(timesteps, 3), 0, image_key(pixels), x0.shape[1:])
        errors = evaluator.errors(x0, cond, [trials], triples).reshape(len(timesteps), 3, n_classes)
        d = (errors - errors[:, :, [label]]).astype(np.float64)
        mirrored.append(np.square(d[:, 0] - d[:, 1]).sum(axis=0))
        independent.append(np.square(d[:, 0] - d[:, 2]).sum(axis=0))
    return float(1 - np.sum(mirrored) / np.sum(independent))


def weighted_accuracies(errors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracies of the mean error, flat and weighted by timestep.

    The weights are powers of the spread between classes at each trial, measured on the first half of the images
    without their labels; accuracy is that on the second half.

    Args:
        errors: (n_images, n_prompts, n_trials) complete.
        labels: (n_images,) true prompts.
    """
    half = len(errors) // 2
    spread = errors[:half].std(axis=1).mean(axis=0)
    found = {}
    for name, power in (("flat", 0), ("spread", 1), ("1 / spread", -1), ("1 / spread squared", -2)):
        right = (errors[half:] * spread**power).mean(axis=2).argmin(axis=1) == labels[half:]
        found[name] = float(right.mean())
    return found


def _race(tables: np.ndarray, prior_pairs: float) -> dict[str, float]:
    found = Racing(prior_pairs=prior_pairs).calibrate(tables)
    return {"threshold": found.racing.threshold, "evaluations": found.n_evaluations, "dropped": found.n_dropped}


def try_all(model: DiffusionModel, folder: Path) -> dict[str, Any]:
    """Return what was found, for the study's file.

    Args:
        model: the model.
        folder: of the study's banks.
    """
    task = TASKS["mini-items"]
    data, bank = open_task(task, model, "tune", task.n_tune, folder)
    tables = complete_tables(bank, data, Racing(), "tried")
    few, _ = open_task(task, model, "tune", N_MIRRORED, folder)
    timesteps = Racing(trials=N_TIMESTEPS).timesteps(len(model.alphas_cumprod))
    return {
        "images": len(data),
        "moderated": {"with": _race(tables, Racing().prior_pairs), "without": _race(tables, 0)},
        "weights": weighted_accuracies(tables, data.labels),
        "antithetic": {"correlation": antithetic_correlation(model, few, timesteps), "images": len(few)},
    }


def tried_table(tried: Mapping[str, Any]) -> "pd.DataFrame":
    """Return what else was tried: what, what was measured, without it, with it, and what became of it."""
    import pandas as pd

    moderated, weights, mirrored = tried["moderated"], tried["weights"], tried["antithetic"]["correlation"]
    rows = {
        "variances moderated by the other rivals'": (
            "evaluations of a calibrated race",
            f"{moderated['without']['evaluations']:.0f}",
            f"{moderated['with']['evaluations']:.0f}",
            "kept" if moderated["with"]["evaluations"] < moderated["without"]["evaluations"] else "no help",
        ),
        "a noise and its mirror image at each timestep": (
            "variance of a pair's mean difference, beside two noises of their own",
            "1",
            f"{1 + mirrored:.2f}",
            "no help" if mirrored >= 0 else "helps such a pair; whether it makes a race cheaper is not measured",
        ),
    }
    for name, accuracy in weights.items():
        if name != "flat":
            gain = accuracy - weights["flat"]
            result = "no difference" if abs(gain) < 0.01 else "worse" if gain < 0 else "better"
            flat, weighted = (f"{100 * value:.1f}%" for value in (weights["flat"], accuracy))
            rows[f"trials weighted by {name} of the classes"] = (
                "accuracy, all classes on all trials",
                flat,
                weighted,
                result,
            )
    return pd.DataFrame(rows, index=["measured", "without", "with", "result"]).T
