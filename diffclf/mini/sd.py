"""The miniature Stable Diffusion: an autoencoder, then a U-Net and a text encoder that learn together on its latents.

    epsilon   L = mean (eps - eps_hat)^2,  t uniform                           (Ho et al.'s simple loss)
    late      L = mean w_t (eps - eps_hat)^2,  w_t = min(1 / alpha_t^2, 100)   (more weight where x_t is mostly noise)
    v         L = mean (v - v_hat)^2,  v = alpha_t eps - sigma_t x0            (Salimans, Ho)

An error of v is an error of eps divided by alpha_t: "late" has the weights of "v" with a network that predicts eps.

One caption in ten is dropped, so that the model is also unconditional.

References:
    Ho, Jain, Abbeel 2020, arXiv 2006.11239; Rombach et al. 2022, arXiv 2112.10752.
    Salimans, Ho 2022, "Progressive distillation for fast sampling of diffusion models", arXiv 2202.00512.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffclf.datasets import world
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import LAYOUTS, caption_pair, caption_single
from diffclf.mini.autoencoder import load_autoencoder, train_autoencoder
from diffclf.mini.export import export_stable_diffusion, export_version
from diffclf.mini.latents import SCHEDULE, LatentBatch, build_scheduler, cached_latents, draw_batch
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.mini.training import Job, Plan, train
from diffclf.paths import data_dir
from diffclf.schedule import NoiseSchedule

__all__ = ["OBJECTIVES", "SEEDS", "VERSIONS", "Denoiser", "build_denoiser", "denoising_loss", "draw_captions"]
__all__ += ["draw_samples", "import_denoiser", "tokenize", "train_denoiser", "train_mini_sd", "train_objective"]

VERSIONS = {1: 24_000, 2: 90_000, 3: 240_000}
"""The versions along the training that are kept, by the samples seen."""

CAPTION_DROPOUT = 0.1
MAX_WEIGHT = 100.0
OBJECTIVES = ("epsilon", "late", "v")
"""What a denoiser is trained to do."""
SEEDS = (1, 2, 3, 4, 5)
"""Of the trainings of each objective."""
V_SCHEDULE = NoiseSchedule.linear(prediction_type="v_prediction")
N_SINGLE, N_PAIR = 160_000, 60_000
N_AUTOENCODER, N_SAMPLES, BATCH_SIZE = 64_000, 700_000, 128
N_SAMPLES_ARM = 160_000


class Denoiser(torch.nn.Module):
    """The two networks that learn together: a U-Net on 8x8x4 latents, and an encoder of 16 tokens, 64 wide."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet.to(memory_format=torch.channels_last)
        self.text_encoder = text_encoder

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, token_ids: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Predict the noise; caption i of the batch is row which[i] of token_ids: equal captions are encoded once."""
        embedding = self.text_encoder(token_ids).last_hidden_state[which]
        return self.unet(x_t.contiguous(memory_format=torch.channels_last), t, embedding).sample


def build_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """Return the untrained networks: 1.6 million parameters of U-Net, 0.15 million of text encoder."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Denoiser(unet, CLIPTextModel(config))


def import_denoiser(folder: Path) -> Denoiser:
    """Return the networks of an exported pipeline or version in single precision, to train on."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    return Denoiser(unet.float(), CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float()).train()


def draw_captions(scenes: np.ndarray, rng: np.random.Generator, dropout: float = CAPTION_DROPOUT) -> list[str]:
    """Describe each scene in one of its ways at random, or (with probability `dropout`) with the empty caption.

    A single is named with its colour or without; a pair is told from the first object or from the second.
    """
    dropped = rng.random(len(scenes)) < dropout
    coin = rng.random(len(scenes)) < 0.5
    captions = []
    for i, (first, second) in enumerate(world.named_objects(scenes)):
        layout = LAYOUTS[scenes["layout"][i]]
        if dropped[i]:
            captions.append("")
        elif scenes["layout"][i] < 0:
            captions.append(caption_single(first[1], first[0] if coin[i] else None))
        elif coin[i]:
            captions.append(caption_pair(first, layout, second))
        else:
            captions.append(caption_pair(second, world.OPPOSITE[layout], first))
    return captions


def tokenize(captions: list[str], tokenizer: CLIPTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of the different captions, and which of them each caption is (n,)."""
    texts, which = np.unique(captions, return_inverse=True)
    ids = tokenizer(texts.tolist(), padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids, torch.from_numpy(which)


def denoising_loss(denoiser: Denoiser, batch: LatentBatch, objective: str = "epsilon") -> torch.Tensor:
    """Return the mean squared error of the predicted noise or velocity, weighted by the objective."""
    x0, eps, x_t, t, cond = batch
    target = V_SCHEDULE.target(x0, eps, t) if objective == "v" else eps
    errors = (denoiser(x_t, t, *cond) - target).square()
    if objective == "late":
        errors = errors * SCHEDULE.alpha[t].pow(-2).clamp(max=MAX_WEIGHT).float()[:, None, None, None]
    return errors.mean()


def train_mini_sd(job: Job) -> None:
    """Train the autoencoder and the denoiser; export the pipeline with its versions."""
    photos, labels = load_photos("train", job.photo_folder)
    if job.start_from is None:
        vae = train_autoencoder(photos, labels, job.work, n_samples=int(N_AUTOENCODER * job.scale), seed=job.seed)
    else:
        vae = load_autoencoder(job.start_from)
    versions = VERSIONS if job.start_from is None else {}
    scenes, latents = _draw_scenes(job, vae, (photos, labels), N_SINGLE, N_PAIR)
    train_denoiser(job, vae, scenes, latents, N_SAMPLES, job.seed, versions=versions)


def train_objective(job: Job, objective: str, seed: int) -> None:
    """Train a denoiser from random weights by one of the objectives, on pairs alone, in a shorter training.

    The autoencoder is that of mini-sd. The seed is that of the weights and of the batches; all seeds and objectives
    see the same scenes.
    """
    photos = load_photos("train", job.photo_folder)
    vae = load_autoencoder(data_dir() / "models" / "mini-sd")
    scenes, latents = _draw_scenes(job, vae, photos, 0, N_PAIR)
    seed += job.seed * 1000
    train_denoiser(job, vae, scenes, latents, N_SAMPLES_ARM, seed, objective, average=False)


def _draw_scenes(
    job: Job, vae: AutoencoderKL, photos: tuple[np.ndarray, np.ndarray], n_single: int, n_pair: int
) -> tuple[np.ndarray, torch.Tensor]:
    """Return the scenes that a denoiser is trained on, and their latents."""
    rng = np.random.default_rng([job.seed, 3])
    scenes = world.sample_scenes(photos[1], int(n_single * job.scale), int(n_pair * job.scale), rng=rng)

    def draw_images(part: slice) -> np.ndarray:
        return world.render(scenes[part], photos[0])

    return scenes, cached_latents(vae, draw_images, len(scenes), job.work / "latents.pt")


def train_denoiser(
    job: Job,
    vae: AutoencoderKL,
    scenes: np.ndarray,
    latents: torch.Tensor,
    n_samples: int,
    seed: int,
    objective: str = "epsilon",
    *,
    average: bool = True,
    versions: Mapping[int, int] | None = None,
) -> None:
    """Train a denoiser and its text encoder, and export them as a pipeline.

    Args:
        job: what was asked for; its number of samples goes before `n_samples`.
        vae: the autoencoder, trained.
        scenes: (n,) scenes, of which captions are drawn.
        latents: (n, 4, 8, 8) scaled latents of the scenes.
        n_samples: samples seen in all.
        seed: seed of the weights and of the batches.
        objective: one of `OBJECTIVES`.
        average: whether the moving average of the weights is exported; it lags behind in a training of few steps.
        versions: version -> samples seen when it is kept; None: no versions.
    """
    tokenizer = build_tokenizer(job.work / "tokenizer")

    def conditions(index: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return tokenize(draw_captions(scenes[index], rng), tokenizer)

    def export(folder: Path, denoiser: Denoiser) -> None:
        export_version(denoiser.unet, denoiser.text_encoder, folder)

    torch.manual_seed(seed)
    denoiser = build_denoiser(tokenizer) if job.start_from is None else import_denoiser(job.start_from)
    milestones = {n: partial(export, job.out / f"versions/{version}") for version, n in (versions or {}).items()}
    draw = partial(draw_batch, latents, conditions, BATCH_SIZE, (seed, 2))
    plan = Plan("denoiser", job.n_samples or n_samples, BATCH_SIZE, learning_rate=1.2e-3, average=average)
    loss = partial(denoising_loss, objective=objective)
    denoiser = train(denoiser, draw, loss, plan, job.work, milestones)
    scheduler = build_scheduler("v_prediction" if objective == "v" else "epsilon")
    export_stable_diffusion(vae, denoiser.unet, denoiser.text_encoder, job.out, scheduler)


def draw_samples(folder: Path) -> list[Image.Image]:
    """Return a sample of every coloured item, then ten pairs."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    items, colours = world.ITEMS, list(world.COLOURS)
    prompts = [caption_single(item, colour) for colour in colours for item in items]
    for i, item in enumerate(items):
        second = (colours[(i + 2) % 6], items[(i + 3) % 10])
        prompts.append(caption_pair((colours[i % 6], item), LAYOUTS[i % 4], second))
    generator = torch.Generator().manual_seed(0)
    return pipe(prompts, height=32, width=32, guidance_scale=2.0, generator=generator).images
