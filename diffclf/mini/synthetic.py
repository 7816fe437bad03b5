"""The networks of synthetic data: small ResNets trained on mini-sd's own samples, one for each set of classes."""

import time

import torch

from diffclf.baselines.fitting import Fit
from diffclf.baselines.synthetic import build_resnet, sample_images, train_on_images
from diffclf.datasets.embedded import load_embedded
from diffclf.mini.export import export_classifier
from diffclf.mini.tasks import TASKS, write_log
from diffclf.mini.training import Job
from diffclf.models import load_model

__all__ = ["GUIDANCE", "N_IMAGES", "train_synthetic"]

N_IMAGES = {"items": 1000, "colours": 400, "coloured-items": 200}
"""Samples of each class."""
GUIDANCE = 1.0
"""Chosen among 1, 2 and 3: 76.1%, 75.1% and 71.9% of the tune images right, items, 150 samples a class, two seeds."""
N_EPOCHS = 30


def train_synthetic(job: Job, task: str) -> None:
    """Draw samples of every class of a task (kept in the work folder), train on them and export the network."""
    prompts = load_embedded(TASKS[task], "tune", 1).prompts
    model, n_images = load_model("mini-sd"), max(2, int(N_IMAGES[task] * job.scale))
    options = {"guidance": GUIDANCE, "seed": job.seed, "folder": job.work / "samples" / model.fingerprint}
    images, labels = sample_images(model.pipeline, list(prompts.values()), n_images, **options)
    torch.manual_seed(job.seed)
    network = build_resnet(list(prompts), 32)
    started = time.monotonic()
    how = Fit(n_epochs=max(1, job.n_samples // len(labels)) if job.n_samples else N_EPOCHS)
    epochs = train_on_images(network, images, labels, how, job.seed)
    write_log(epochs, job.work / "classifier.csv", time.monotonic() - started)
    export_classifier(network, job.out)
