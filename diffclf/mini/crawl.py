"""The arms of the experiment on the training filter: one denoiser trained on three selections of one crawl.

    filtered     the images of the crawl that pass the filter
    unfiltered   all images of the crawl
    random       as many images as the filter keeps, chosen at random

All arms share the crawl, the budget and the autoencoder of mini-sd, which is trained on full resolution.
"""

import numpy as np

from diffclf.datasets import crawl, world
from diffclf.datasets.photos import load_photos
from diffclf.mini.autoencoder import load_autoencoder
from diffclf.mini.latents import cached_latents
from diffclf.mini.sd import N_SAMPLES_ARM, train_denoiser
from diffclf.mini.training import Job
from diffclf.paths import data_dir

__all__ = ["ARMS", "select", "train_arm"]

ARMS = ("filtered", "unfiltered", "random")
N_CRAWLED = 40_000
TOLERANCE = 0.01


def select(attributes: np.ndarray, arm: str, seed: int) -> np.ndarray:
    """Return the positions of the images that an arm is trained on; the seed chooses the random ones.

    Raises:
        ValueError: unknown arm, or `MIN_QUALITY` is not the 30th percentile of the quality.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
    if abs((share := crawl.passes(attributes, ["quality"]).mean()) - 0.7) > TOLERANCE:
        raise ValueError(f"quality {crawl.MIN_QUALITY} must keep 70% of the training images, got {share:.1%}")
    kept = np.flatnonzero(crawl.passes(attributes))
    if arm == "filtered":
        return kept
    if arm == "unfiltered":
        return np.arange(len(attributes))
    return np.sort(np.random.default_rng([seed, 24]).permutation(len(attributes))[: len(kept)])


def train_arm(job: Job, arm: str, seed: int) -> None:
    """Train a denoiser on an arm's images and export it; the seed is that of its weights, batches and random subset."""
    photos, labels = load_photos("train", job.photo_folder)
    rng = np.random.default_rng([job.seed, 3])
    scenes = world.sample_scenes(labels, int(N_CRAWLED * job.scale), 0, rng=rng)
    images = world.render(scenes, photos)
    attributes = crawl.draw_attributes(images, job.seed)
    chosen = select(attributes, arm, job.seed * 1000 + seed)
    images = crawl.reduce_resolution(images[chosen], attributes["resolution"][chosen])
    vae = load_autoencoder(data_dir() / "models" / "mini-sd")
    latents = cached_latents(vae, images.__getitem__, len(images), job.work / "latents.pt")
    train_denoiser(job, vae, scenes[chosen], latents, N_SAMPLES_ARM, job.seed * 1000 + seed, average=False)
