"""Training of the miniature autoencoder: 32x32 RGB scenes to 8x8x4 latents (f = 4) and back.

The loss is the mean absolute plus squared pixel error with a small weight on the Kullback-Leibler term, as in
latent diffusion (Rombach et al., CVPR 2022) without its perceptual and adversarial terms.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from diffclf.mini.checkpoint import load_checkpoint, log_loss, save_checkpoint, trim_log
from diffclf.mini.world import render, sample_scenes

__all__ = ["build_autoencoder", "encode_scenes", "scale_latents", "to_pixels", "train_autoencoder"]

KL_WEIGHT = 1e-3


def build_autoencoder() -> AutoencoderKL:
    """Return the untrained autoencoder (0.9 million parameters)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=32,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # said here so that the measured factor set later is kept when the configuration is copied
    )


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Turn (n, h, w, 3) uint8 images into (n, 3, h, w) float32 pixels in [-1, 1], channels-last."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def train_autoencoder(
    photos: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    *,
    n_samples: int = 80_000,
    batch_size: int = 16,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    save_every: int = 500,
) -> AutoencoderKL:
    """Train the autoencoder on freshly drawn scenes; resume from `folder` if it holds a checkpoint.

    Args:
        photos: (n, 28, 28) uint8 training photographs.
        labels: (n,) int64 their labels.
        folder: where the checkpoint and the loss log go.
        n_samples: scenes seen in all.
        batch_size: scenes per step.
        learning_rate: peak of a cosine schedule with a short warm-up.
        seed: seed of weights, scenes and latent samples.
        save_every: steps between checkpoints.

    Returns:
        The trained autoencoder.
    """
    torch.manual_seed(seed)
    vae = build_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    n_steps = n_samples // batch_size
    start, seconds = load_checkpoint(folder / "autoencoder.pt", vae=vae, optimizer=optimizer)
    trim_log(folder / "autoencoder.csv", start)
    bar = tqdm(range(start, n_steps), initial=start, total=n_steps, desc="autoencoder", mininterval=5)
    began = time.monotonic() - seconds
    for step in bar:
        rng = np.random.default_rng([seed, 1, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        scenes = sample_scenes(labels, batch_size // 2, batch_size - batch_size // 2, rng=rng)
        x = to_pixels(render(scenes, photos))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample(generator)).sample - x
        rec = error.abs().mean() + error.square().mean()
        loss = rec + KL_WEIGHT * posterior.kl().mean() / x[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - began
            log_loss(folder / "autoencoder.csv", step + 1, (step + 1) * batch_size, rec.item(), seconds)
            bar.set_postfix(loss=f"{rec.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == n_steps:
            save_checkpoint(folder / "autoencoder.pt", step + 1, time.monotonic() - began, vae=vae, optimizer=optimizer)
    return vae.eval()


@torch.inference_mode()
def encode_scenes(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 128) -> torch.Tensor:
    """Return the latent means (n, 4, 8, 8) float32 of (n, 32, 32, 3) uint8 images, unscaled."""
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    return torch.cat([vae.encode(to_pixels(batch)).latent_dist.mean.contiguous() for batch in batches])


def scale_latents(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Set the autoencoder's scaling factor to one over the standard deviation of these images' latents."""
    factor = 1 / encode_scenes(vae, images).std().item()
    vae.register_to_config(scaling_factor=factor)
    return factor
