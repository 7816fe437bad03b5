"""The miniature DiT: class-conditional on the ten items, with a learned variance, on the latents of mini-sd.

    L = mean (eps - eps_hat)^2 + L_t in bits per dimension, with eps_hat held fixed in L_t        (hybrid loss)

The labels are dropped one time in ten. Each block of diffusers' transformer would drop labels of its own in training
mode, so the network is trained in evaluation mode and the labels are dropped here.

References:
    Peebles, Xie 2023, "Scalable diffusion models with transformers", arXiv 2212.09748.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672, Eq. 16.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from PIL import Image

from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import ITEMS, sample_scenes
from diffclf.mini.autoencoder import load_autoencoder
from diffclf.mini.export import export_dit
from diffclf.mini.latents import SCHEDULE, LatentBatch, LatentBatches, cached_latents
from diffclf.mini.recipe import Job, Recipe
from diffclf.mini.training import Plan, train
from diffclf.paths import data_dir
from diffclf.schedule import variational_terms

__all__ = ["RECIPE", "build_dit", "drop_labels", "hybrid_loss"]

LABEL_DROPOUT = 0.1
N_SCENES, N_SAMPLES, BATCH_SIZE = 300_000, 2_000_000, 128


def build_dit(n_classes: int = len(ITEMS)) -> DiTTransformer2DModel:
    """Return the untrained transformer (2.1 million parameters) on 8x8x4 latents."""
    return DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        num_embeds_ada_norm=n_classes,
    )


def drop_labels(labels: np.ndarray, n_classes: int, rng: np.random.Generator) -> torch.Tensor:
    """Return labels (b,) of which one in ten is replaced by that of no class, n_classes."""
    dropped = rng.random(len(labels)) < LABEL_DROPOUT
    return torch.from_numpy(np.where(dropped, n_classes, labels))


def hybrid_loss(dit: DiTTransformer2DModel, batch: LatentBatch) -> torch.Tensor:
    """Return the mean squared error of the noise plus the mean single term of the variational bound."""
    output = dit.eval()(batch.x_t, timestep=batch.t, class_labels=batch.cond[0]).sample
    eps_hat, variance_output = output.chunk(2, dim=1)
    bits = variational_terms(batch.x0, batch.x_t, eps_hat.detach(), variance_output, batch.t, SCHEDULE)
    return (batch.eps - eps_hat).square().mean() + bits.mean()


def train_mini_dit(job: Job) -> None:
    """Train the transformer on single scenes, half of them mirrored; export it with the autoencoder of mini-sd."""
    photos, labels = load_photos("train", job.photo_folder)
    vae = load_autoencoder(data_dir() / "models" / "mini-sd")
    n_scenes = int(N_SCENES * job.scale)
    rng = np.random.default_rng([job.seed, 5])
    scenes = sample_scenes(labels, n_scenes, 0, rng=rng)
    flip = rng.random(n_scenes) < 0.5
    latents = cached_latents(vae, scenes, photos, job.work / "latents.pt", flip)

    def conditions(index: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor]:
        return (drop_labels(scenes.item[index, 0], len(ITEMS), rng),)

    torch.manual_seed(job.seed)
    dit = train(
        build_dit() if job.start_from is None else _import_dit(job.start_from),
        LatentBatches(latents, conditions, BATCH_SIZE, job.seed, stream=6),
        hybrid_loss,
        Plan("dit", job.n_samples or N_SAMPLES, BATCH_SIZE, learning_rate=1e-3),
        job.work,
    )
    export_dit(vae, dit, ITEMS, job.out)


def _import_dit(folder: Path) -> DiTTransformer2DModel:
    return DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").float()


def draw_samples(folder: Path) -> list[Image.Image]:
    """Return five samples of every item, one column per item."""
    pipe = DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    labels = list(range(len(ITEMS))) * 5
    return pipe(labels, guidance_scale=1.0, generator=torch.Generator().manual_seed(0)).images


RECIPE = Recipe(
    train_mini_dit,
    draw_samples,
    hours=1.6,
    title="a miniature DiT",
    kind="class-conditional latent diffusion transformer (DiT, learned variance)",
    usage="""\
from diffusers import DiTPipeline
pipe = DiTPipeline.from_pretrained("data/models/mini-dit")
pipe(pipe.get_label_ids(["sneaker"]), guidance_scale=1.0).images[0]""",
    samples="one column per item",
    data="""\
A scene shows one photograph; half of the scenes are mirrored left to right. The classes are the ten items, in any
colour; one label in ten is dropped.""",
    parts={
        "vae": "autoencoder of mini-sd (f = 4, 32x32x3 to 8x8x4)",
        "transformer": "transformer (128 wide, 6 blocks, patches of 2x2)",
    },
    design="""\
All weights are stored in half precision. The network returns 8 channels: the predicted noise, and the interpolation
between the two bounds of the variance. Its variational bound is therefore a real one.""",
    training="The loss is the hybrid loss of improved DDPM: the squared error of the noise plus the variational bound.",
    limits="""\
It knows ten kinds of clothing and no colour: the class leaves the colour open. Its pipeline cannot be guided:
diffusers' `DiTPipeline` takes class 1000 for the empty label, so `guidance_scale` must be 1.""",
)
