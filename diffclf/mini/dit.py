"""The miniature DiT: class-conditional on the ten items, with a learned variance, on the latents of mini-sd.

    L = mean (eps - eps_hat)^2 + L_t in bits per dimension, with eps_hat held fixed in L_t        (hybrid loss)

The labels are dropped one time in ten. Each block of diffusers' transformer would drop labels of its own in training
mode, so the network is trained in evaluation mode and the labels are dropped here.

References:
    Peebles, Xie 2023, "Scalable diffusion models with transformers", arXiv 2212.09748.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672, Eq. 16.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from PIL import Image

from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import ITEMS, render
from diffclf.mini.autoencoder import load_autoencoder
from diffclf.mini.export import export_dit
from diffclf.mini.latents import SCHEDULE, LatentBatch, cached_latents, draw_batch
from diffclf.mini.scenes import draw_scenes
from diffclf.mini.training import Job, Plan, train
from diffclf.paths import data_dir
from diffclf.schedule import variational_terms

__all__ = ["build_dit", "draw_samples", "drop_labels", "hybrid_loss", "train_mini_dit"]

LABEL_DROPOUT = 0.1
N_SCENES, N_SAMPLES, BATCH_SIZE = 300_000, 2_000_000, 128


def build_dit() -> DiTTransformer2DModel:
    """Return the untrained transformer (2.1 million parameters) on 8x8x4 latents."""
    return DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        num_embeds_ada_norm=len(ITEMS),
    )


def drop_labels(labels: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Return labels (b,) of which one in ten is replaced by that of no class, 10."""
    return torch.from_numpy(np.where(rng.random(len(labels)) < LABEL_DROPOUT, len(ITEMS), labels))


def hybrid_loss(dit: DiTTransformer2DModel, batch: LatentBatch) -> torch.Tensor:
    """Return the mean squared error of the noise plus the mean single term of the variational bound."""
    output = dit.eval()(batch.x_t, timestep=batch.t, class_labels=batch.cond[0]).sample
    eps_hat, variance_output = output.chunk(2, dim=1)
    bits = variational_terms(batch.x0, batch.x_t, eps_hat.detach(), variance_output, batch.t, SCHEDULE)
    return (batch.eps - eps_hat).square().mean() + bits.mean()


def train_mini_dit(job: Job, shortcut: bool = False) -> None:
    """Train the transformer on single scenes of one of the two worlds; export it with the autoencoder of mini-sd."""
    photos, labels = load_photos("train", job.photo_folder)
    vae = load_autoencoder(data_dir() / "models" / "mini-sd")
    scenes, flip = draw_scenes(labels, int(N_SCENES * job.scale), job.seed, shortcut)

    def draw_images(part: slice) -> np.ndarray:
        images = render(scenes[part], photos)
        images[flip[part]] = images[flip[part], :, ::-1]
        return images

    latents = cached_latents(vae, draw_images, len(scenes), job.work / "latents.pt")

    def conditions(index: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor]:
        return (drop_labels(scenes["item"][index, 0], rng),)

    torch.manual_seed(job.seed)
    if job.start_from is None:
        dit = build_dit()
    else:
        dit = DiTTransformer2DModel.from_pretrained(job.start_from, subfolder="transformer").float()
    draw = partial(draw_batch, latents, conditions, BATCH_SIZE, (job.seed, 6))
    plan = Plan("dit", job.n_samples or N_SAMPLES, BATCH_SIZE, learning_rate=1e-3)
    export_dit(vae, train(dit, draw, hybrid_loss, plan, job.work), ITEMS, job.out)


def draw_samples(folder: Path) -> list[Image.Image]:
    """Return five samples of every item, one column per item."""
    pipe = DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    labels = list(range(len(ITEMS))) * 5
    return pipe(labels, guidance_scale=1.0, generator=torch.Generator().manual_seed(0)).images
