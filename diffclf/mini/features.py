"""The heads on mini-sd's features, one for each set of classes, trained with the labels of the training photographs."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffclf.baselines.features import Head, mid_features, save_head
from diffclf.baselines.fitting import Fit, fit
from diffclf.datasets.embedded import load_embedded
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import ITEMS, render, sample_scenes
from diffclf.mini.autoencoder import to_pixels
from diffclf.mini.tasks import TASKS, write_log
from diffclf.mini.training import Job, save_tensors
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel

__all__ = ["train_features"]

N_SCENES = 120_000
N_EPOCHS = {"items": 4, "colours": 1, "coloured-items": 4}
CHUNK, N_CHECKED = 1000, 4


def train_features(job: Job, task: str) -> None:
    """Compute the features of tinted photographs (kept in the work folder), train a head and export it."""
    model = load_model("mini-sd")
    photos, labels = load_photos("train", job.photo_folder)
    n_scenes = int(N_SCENES * job.scale)
    scenes = sample_scenes(labels, n_scenes, 0, rng=np.random.default_rng([job.seed, 9]))
    item, colour = (torch.from_numpy(scenes[name][:, 0].copy()) for name in ("item", "colour"))
    classes = {"items": item, "colours": colour, "coloured-items": colour * len(ITEMS) + item}[task]
    features = _cached_features(model, scenes, photos, job.work / "features.pt")
    names = load_embedded(TASKS[task], "tune", 1).classnames
    torch.manual_seed(job.seed)
    head = Head(features.shape[1], len(names))
    groups, started = torch.from_numpy(scenes["photo"][:, 0].copy()), time.monotonic()
    how = Fit(n_epochs=max(1, job.n_samples // n_scenes) if job.n_samples else N_EPOCHS[task])
    epochs = fit(head, features, classes, lambda part, _: part.float(), groups, how, job.seed)
    write_log(epochs, job.work / "classifier.csv", time.monotonic() - started)
    save_head(head, names, model, job.out)


def _cached_features(model: DiffusionModel, scenes: np.ndarray, photos: np.ndarray, path: Path) -> torch.Tensor:
    """Return the features of scenes, kept at `path`; a file with those of other scenes is replaced."""
    if path.is_file():
        features = torch.load(path, weights_only=True)
        first = next(_features(model, scenes[:N_CHECKED], photos)).float()
        if len(features) == len(scenes) and torch.allclose(features[:N_CHECKED].float(), first, rtol=0.01, atol=0.02):
            return features
    features = torch.cat(list(_features(model, scenes, photos)))
    save_tensors(path, features)
    return features


def _features(model: DiffusionModel, scenes: np.ndarray, photos: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield the features of scenes in half precision, chunk by chunk; every second scene is mirrored."""
    for start in tqdm(range(0, len(scenes), CHUNK), desc="features", unit=f" x {CHUNK}", mininterval=5):
        images = render(scenes[start : start + CHUNK], photos)
        images[1::2] = images[1::2, :, ::-1]
        yield mid_features(model, to_pixels(images).contiguous().unbind()).half()
