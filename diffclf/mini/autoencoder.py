"""Training of the miniature autoencoder: 32x32 RGB scenes to 8x8x4 latents (f = 4) and back.

The loss is the mean absolute plus squared pixel error with a small weight on the Kullback-Leibler term, as in
latent diffusion (Rombach et al., CVPR 2022) without its perceptual and adversarial terms.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from diffclf.datasets.world import render, sample_scenes
from diffclf.mini.training import Plan, train

__all__ = ["build_autoencoder", "encode_scenes", "load_autoencoder", "scale_latents", "to_pixels", "train_autoencoder"]

KL_WEIGHT = 1e-3
BATCH_SIZE = 16


def build_autoencoder() -> AutoencoderKL:
    """Return the untrained autoencoder (0.9 million parameters)."""
    vae = AutoencoderKL(
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
    return vae.to(memory_format=torch.channels_last)


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Return the autoencoder of an exported model, in single precision."""
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").float().eval()
    return vae.to(memory_format=torch.channels_last)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Turn (n, h, w, 3) uint8 images into (n, 3, h, w) float32 pixels in [-1, 1], channels-last."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def _loss(vae: AutoencoderKL, batch: tuple[torch.Tensor, torch.Generator]) -> torch.Tensor:
    """Return the loss of pixels (b, 3, 32, 32); the generator draws the latents."""
    x, generator = batch
    posterior = vae.encode(x).latent_dist
    error = vae.decode(posterior.sample(generator)).sample - x
    return error.abs().mean() + error.square().mean() + KL_WEIGHT * posterior.kl().mean() / x[0].numel()


def train_autoencoder(
    photos: np.ndarray, labels: np.ndarray, folder: Path, *, n_samples: int, seed: int = 0
) -> AutoencoderKL:
    """Train the autoencoder on scenes of photographs (n, 28, 28) with labels (n,), and set its scaling factor.

    It sees `n_samples` scenes. The checkpoint and the loss log are in `folder`, and training goes on from them.
    """

    def draw(step: int) -> tuple[torch.Tensor, torch.Generator]:
        rng = np.random.default_rng([seed, 1, step])
        scenes = sample_scenes(labels, BATCH_SIZE // 2, BATCH_SIZE // 2, rng=rng)
        return to_pixels(render(scenes, photos)), torch.Generator().manual_seed(seed * 1_000_003 + step)

    torch.manual_seed(seed)
    options = {"decay": "cosine", "warm_up": 200, "weight_decay": 1e-4, "betas": (0.9, 0.98), "average": False}
    plan = Plan("autoencoder", n_samples, BATCH_SIZE, learning_rate=1.5e-3, **options)
    vae = train(build_autoencoder(), draw, _loss, plan, folder)
    scale_latents(vae, render(sample_scenes(labels, 1000, 500, rng=np.random.default_rng([seed, 4])), photos))
    return vae


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
