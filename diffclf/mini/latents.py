"""Cached latents of a fixed sample of images, and random noised batches of them.

    x_t = alpha_t x0 + sigma_t eps,    t uniform, eps ~ N(0, I)

on the linear noise schedule of DDPM (Ho, Jain, Abbeel 2020, arXiv 2006.11239).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from tqdm import tqdm

from diffclf.mini.autoencoder import encode_scenes
from diffclf.mini.training import save_tensors
from diffclf.schedule import NoiseSchedule

__all__ = ["SCHEDULE", "LatentBatch", "build_scheduler", "cached_latents", "draw_batch"]

CHUNK = 5000
N_CHECKED = 64


def build_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Return the linear schedule of DDPM and DiT, beta from 1e-4 to 0.02 in 1000 steps, with the sampler DDIM."""
    options = {"beta_schedule": "linear", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    return DDIMScheduler(**options, prediction_type=prediction_type)


SCHEDULE = NoiseSchedule.variance_preserving(build_scheduler().alphas_cumprod)


def cached_latents(
    vae: AutoencoderKL, images: Callable[[slice], np.ndarray], n_images: int, path: Path
) -> torch.Tensor:
    """Return the scaled latents (n, 4, 8, 8) of n images in half precision, computed once and kept at `path`.

    A file with the latents of other images, or of another autoencoder, is replaced.

    Args:
        vae: the autoencoder, its scaling factor set.
        images: slice -> these images, (b, 32, 32, 3) uint8.
        n_images: how many.
        path: of the file.
    """

    def encode(part: slice) -> torch.Tensor:
        return (encode_scenes(vae, images(part)) * vae.config.scaling_factor).half()

    if path.is_file():
        latents = torch.load(path, weights_only=True)
        first = encode(slice(min(N_CHECKED, n_images)))
        if len(latents) == n_images and torch.allclose(latents[:N_CHECKED].float(), first.float(), atol=0.01):
            return latents
    bar = tqdm(range(0, n_images, CHUNK), desc="latents", unit=f" x {CHUNK}", mininterval=5)
    latents = torch.cat([encode(slice(start, min(start + CHUNK, n_images))) for start in bar])
    save_tensors(path, latents)
    return latents


class LatentBatch(NamedTuple):
    """Noised latents: clean latents x0, noise eps and x_t (b, 4, 8, 8), timesteps t (b,), and conditions."""

    x0: torch.Tensor
    eps: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    cond: tuple[torch.Tensor, ...]


def draw_batch(
    latents: torch.Tensor,
    conditions: Callable[[np.ndarray, np.random.Generator], tuple[torch.Tensor, ...]],
    batch_size: int,
    seeds: tuple[int, int],
    step: int,
) -> LatentBatch:
    """Return the batch of a step; it is the same whenever it is drawn.

    Args:
        latents: (n, 4, 8, 8) scaled latents, any float type.
        conditions: positions of the latents (b,) and a generator -> what the network is told of them.
        batch_size: latents per step.
        seeds: seed of everything, and number of the recipe's random stream.
        step: number of the step.
    """
    rng = np.random.default_rng([*seeds, step])
    generator = torch.Generator().manual_seed(seeds[0] * 1_000_003 + step)
    index = rng.integers(len(latents), size=batch_size)
    x0 = latents[torch.from_numpy(index)].float()
    cond = conditions(index, rng)
    # Evenly spaced t with one random offset: uniform like independent draws, with less variance in the loss.
    positions = (np.arange(batch_size) + rng.random()) / batch_size
    t = torch.from_numpy((positions * len(SCHEDULE)).astype(np.int64))
    eps = torch.randn(x0.shape, generator=generator)
    return LatentBatch(x0, eps, SCHEDULE.add_noise(x0, eps, t), t, cond)
